"""Claims: post-training quantization that tries its options takes at most 60 s, and so does a diagnosis.

On MobileNetV2 with 100 examples.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from claims import Claim, publish
from sklearn.datasets import load_digits

import kopt

SIZE, EXAMPLES, RUNS, STEPS, BATCH = 96, 100, 3, 30, 32


def images() -> tuple[Any, Any]:
    """Return digits, enlarged to color images, and their labels."""
    x, y = load_digits(return_X_y=True)
    gray = np.kron((x / 16).reshape(-1, 8, 8, 1).astype("float32"), np.ones((1, SIZE // 8, SIZE // 8, 3), "float32"))
    order = np.random.default_rng(0).permutation(len(y))
    return gray[order[: STEPS * BATCH]], y[order[: STEPS * BATCH]]


def trained(x: Any, y: Any) -> Any:
    """Return the network after some steps, so that its normalizations have statistics of real activations."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None, classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=BATCH, verbose=0)
    return model


def main() -> int:
    """Time it some times."""
    x, y = images()
    model = trained(x, y)
    seconds, diagnosed, report = [], [], None
    for _ in range(RUNS):
        start = time.perf_counter()
        copy, report = kopt.quantize.post_training(model, x[:EXAMPLES])
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        kopt.quantize.diagnose(model, x[:EXAMPLES])
        diagnosed.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        file = kopt.export.tflite(copy, Path(folder) / "m.tflite", scheme="int8")
        found = kopt.measure.load(file.path).predict(x[EXAMPLES : 2 * EXAMPLES])
    agreement = float(np.mean(found.argmax(-1) == copy.predict(x[EXAMPLES : 2 * EXAMPLES], verbose=0).argmax(-1)))
    assert report is not None
    numbers = {
        "seconds": [round(one, 2) for one in seconds],
        "seconds of a diagnosis": [round(one, 2) for one in diagnosed],
        "error": {"minmax alone": report.plain_error, "returned": report.error},
        "options": {one.name: one.error for one in report.options},
        "kept": [one.name for one in report.options if one.kept],
        "agreement of file and copy": agreement,
    }
    return publish(
        "post_training",
        f'MobileNetV2 {SIZE}x{SIZE} after {STEPS} steps on enlarged digits, {EXAMPLES} examples, `options="auto"`; the '
        f"median of {RUNS} runs in one process.",
        numbers,
        [
            Claim("MobileNetV2: post-training quantization", statistics.median(seconds), 60.0, unit="s"),
            Claim("MobileNetV2: diagnosis", statistics.median(diagnosed), 60.0, unit="s"),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
