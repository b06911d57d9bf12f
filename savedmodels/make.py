"""Make the saved models: the demo's CNN trained on the packaged digits, and the small one that learned from it.

`make savedmodels` replaces what lies here; `python savedmodels/make.py --output ELSEWHERE` does not.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

import kopt
from kopt.core.environment import machine, versions

HERE = Path(__file__).parent
TEACHER, STUDENT, INTEGERS = "digits_teacher", "digits_student", "digits_student_int8"
LOSS = "sparse_categorical_crossentropy"
KEEP, EPOCHS, ROUNDING_EPOCHS = 0.5, 40, 10


def main() -> None:
    """Train, compress, export, and judge what was written; replaces what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE, help="directory of the models")
    output = parser.parse_args().output
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # the same sums on any number of cores
    digits = kopt.data.load("digits")
    models = {TEACHER: kopt.search.demo.train_or_load(digits, output / f"{TEACHER}.keras")}
    models[STUDENT] = student(models[TEACHER], digits)
    for name, model in models.items():
        shutil.rmtree(output / name, ignore_errors=True)
        kopt.serve.bundle(
            model, output / name, version=1, data=digits.validation.x, class_names=list("0123456789"), top_k=3,
            labels=["stable"], batching=False,
        )  # fmt: skip
    (output / f"{TEACHER}.keras").unlink()
    integers = output / f"{INTEGERS}.tflite"
    kopt.export.tflite(rounding(models[STUDENT], models[TEACHER], digits), integers, scheme="int8", overwrite=True)
    files = {TEACHER: output / TEACHER / "1", STUDENT: output / STUDENT / "1", INTEGERS: integers}
    table = {name: judged(path, digits) for name, path in files.items()}
    made = {"processor": machine().processor, "versions": versions(), "models": table}
    (output / "accuracy.json").write_text(json.dumps(made, indent=2) + "\n")
    for name, row in table.items():
        print(f"{name}: {row['right']} of {row['of']} right, {row['bytes']:,} bytes")


def student(teacher: Any, digits: Any) -> Any:
    """Return the teacher without half of its channels, after it learned from the whole one."""
    few, _ = kopt.prune.channels(
        teacher, keep=KEEP, criterion="taylor", data=(digits.train.x, digits.train.y), loss=LOSS
    )
    return taught(few, teacher, digits, EPOCHS)


def rounding(model: Any, teacher: Any, digits: Any) -> Any:
    """Return a copy that learned on with the rounding of the integer file."""
    copy, _ = kopt.quantize.aware(model, calibration=digits.train.x[:200])
    return taught(copy, teacher, digits, ROUNDING_EPOCHS, 5e-4)


def taught(model: Any, teacher: Any, digits: Any, epochs: int, rate: float = 2e-3) -> Any:
    """Teach a model in place and return it; the epoch that reads the validation images best is kept."""
    train, validation = ((part.x, part.y) for part in (digits.train, digits.validation))
    kopt.distill.teach(
        model, teacher, train, validation, epochs=epochs, learning_rate=rate, loss=LOSS, temperature=4.0, alpha=0.7
    )
    return model


def judged(path: Path, digits: Any) -> dict[str, Any]:
    """Return what a file reads of the digits that nothing was chosen on, and its size."""
    evaluation = kopt.measure.evaluate(path, (digits.test.x, digits.test.y))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {
        "right": round(evaluation.metrics["accuracy"] * evaluation.examples),
        "of": evaluation.examples,
        "bytes": sum(file.stat().st_size for file in files),
    }


if __name__ == "__main__":
    main()
