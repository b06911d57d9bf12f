# Everything a developer does; continuous integration calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed

.PHONY: demo test test-long check docs bench sweep savedmodels lock clean

demo: $(STAMP)
	$(BIN)/kopt demo

test: $(STAMP)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadgroup
	$(BIN)/pytest -m "slow and not long" -n 2 --dist loadgroup

# What takes minutes apiece: whole searches, kills, trainings, every layer in every scheme. Continuous integration has it, too.
test-long: $(STAMP)
	$(BIN)/pytest -m "slow and long" -n 2 --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/. A warning is an error; nothing is fetched, neither now nor by a reader.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# Every architecture, hours long; goes on where it was. One model: `make sweep SWEEP="--only ResNet50"`.
sweep: $(STAMP)
	nice -n 10 $(BIN)/python -m sweep.run $(SWEEP)

# The trained models that are tracked; about a minute.
savedmodels: $(STAMP)
	$(BIN)/python savedmodels/make.py

# The locks hold for every supported Python: pinned, without addresses. That of the site has no requirement of kopt in it.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
DOCS_EXTRA := import configparser; read = configparser.ConfigParser(); read.read("setup.cfg"); \
	print(read["options.extras_require"]["docs"])

lock:
	$(BIN)/pip install --quiet uv
	$(LOCK) --constraint lock-constraints.txt --extra dev --output-file requirements-dev.txt setup.cfg
	$(BIN)/python -c '$(DOCS_EXTRA)' | $(LOCK) --output-file requirements-docs.txt -

clean:
	rm -rf $(VENV) $(DOCS_VENV) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(DOCS_STAMP): requirements-docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.txt
	touch $@

$(STAMP): requirements-dev.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
