# Everything a developer does; continuous integration calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench sweep lock clean

demo: $(STAMP)
	$(BIN)/kopt demo

test: $(STAMP)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadgroup
	$(BIN)/pytest -m slow -n 2 --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# Every architecture, hours long; goes on where it was. One model: `make sweep SWEEP="--only ResNet50"`.
sweep: $(STAMP)
	nice -n 10 $(BIN)/python -m sweep.run $(SWEEP)

# The lock holds for every supported Python: one file, pinned, without addresses.
lock:
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --constraint lock-constraints.txt --extra dev --output-file requirements-dev.txt setup.cfg

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(STAMP): requirements-dev.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
