import json
import sys
import time

import channel_checks
import keras
import numpy as np
import pytest
from channel_cases import outputs

from sweep import results, table
from sweep.run import run

JOB = {"part": "channels", "model": "Net", "keep": 0.5}


def python(code):
    return sys.executable, "-c", code


# Makes the memory its own by writing to it.
LARGE = "import time; x = bytearray(b'1') * 400_000_000; time.sleep(60)"


def test_a_line_that_was_not_finished_is_left_out_and_overwritten(tmp_path):
    path = tmp_path / "results.jsonl"
    assert results.read(path) == {}
    results.append(path, {**JOB, "status": "failed"})
    results.append(path, {**JOB, "model": "Other", "status": "ok"})
    with open(path, "a") as file:
        file.write('{"part": "chan')
    assert len(results.read(path)) == 2
    results.append(path, {**JOB, "status": "ok"})
    assert len(path.read_text().splitlines()) == 3
    assert {key[1]: row["status"] for key, row in results.read(path).items()} == {"Net": "ok", "Other": "ok"}


def test_a_row_is_what_the_process_prints_last():
    row = run(JOB, python(f"print('noise'); print({json.dumps(json.dumps({**JOB, 'status': 'ok'}))})"), 1, 1)
    assert (row["model"], row["status"]) == ("Net", "ok")
    assert row["seconds"] > 0


def test_a_process_that_ends_badly_is_a_row_with_its_last_words():
    row = run(JOB, python("import sys; sys.exit('out of luck')"), 1, 1)
    assert (row["status"], row["reason"]) == ("failed", "exit code 1: out of luck")


def test_last_words_too_long_for_a_table_are_cut_between_words():
    row = run(JOB, python("import sys; sys.exit('say `kopt.quantize.aware` ' * 100)"), 1, 1)
    assert row["reason"].endswith(("say ...", "`kopt.quantize.aware` ..."))
    assert len(row["reason"]) < 350


@pytest.mark.parametrize(
    ("code", "minutes", "gigabytes", "reason"),
    [
        ("import time; time.sleep(60)", 0.02, 1, "takes more than 0.02 minutes"),
        (f"import subprocess; subprocess.run({python(LARGE)!r})", 1, 0.3, "needs more than 0.3 GB"),
    ],
)
def test_a_limit_ends_the_process_and_its_children(code, minutes, gigabytes, reason):
    start = time.monotonic()
    row = run(JOB, python(code), minutes, gigabytes)
    assert (row["status"], row["reason"]) == ("skipped", reason)
    assert time.monotonic() - start < 30


def test_the_table_has_a_line_a_row(tmp_path):
    common = {"pixels": 64, "seconds": 2.5, "peak_gb": 1.2, "versions": {"keras": "3.15.1"}}
    numbers = {"macs_kept": 0.25, "macs": 0.0, "zeros": 2.4e-7, "pruned_s": 1.5}
    rows = [
        {**JOB, **common, "status": "ok", "reason": "", "numbers": numbers},
        {**JOB, **common, "model": "zoo/rnn", "status": "refused", "reason": "no | channels"},
        {
            **JOB,
            **common,
            "part": "bridge",
            "status": "failed",
            "reason": "twin",
            "numbers": {"left": {"a": "x", "b": "x"}},
        },
    ]
    table.write(tmp_path / "page.md", rows, 5)
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "Versions: keras 3.15.1." in lines
    assert "5 rows: 1 ok, 1 refused, 0 skipped, 1 failed, 2 not run yet." in lines
    assert "| Net | 64 | 0.250 | 0 | 2e-07 | - | - | - | - | - | - | - | 1.5 | 2.5 | 1.2 | ok |" in lines
    assert any(
        line.startswith("| zoo/rnn | 64 | - ") and line.endswith("| refused: no \\| channels |") for line in lines
    )
    assert any(line.startswith("| Net | 64 | - | - | - | - | 2: x |") for line in lines)


def test_rounding_is_told_from_a_file_that_computes_something_else():
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    h = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, name="kernel")(i))
    model = keras.Model(i, keras.layers.Dense(4)(keras.layers.Flatten()(h)))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    found = outputs(model, x)
    assert channel_checks.rounding(model, x, found) == 1
    assert channel_checks.rounding(model, x, [found[0] * (1 + 1e-5)]) > channel_checks.BOUNDS["tflite_rounding"]
    assert keras.config.floatx() == "float32"
    assert model.dtype == "float32"
