"""A model with three parameters as a SavedModel, and as files that are copied where a test may damage them."""

import shutil
from pathlib import Path

import keras
import numpy as np

import kopt


def model():
    """y = 2 a - 3 b + 1."""
    made = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, name="y")], name="line")
    made.layers[0].set_weights([np.array([[2.0], [-3.0]], np.float32), np.array([1.0], np.float32)])
    return made


def exported(directory, suffix=""):
    """Write the model as a SavedModel (no suffix), `.tflite` or `.onnx`; return its path."""
    data = np.arange(12, dtype=np.float32).reshape(6, 2)
    path = Path(directory) / f"line{suffix}"
    write = {"": kopt.export.saved_model, ".tflite": kopt.export.tflite, ".onnx": kopt.export.onnx}[suffix]
    words = {"calibration": data} if suffix == ".tflite" else {"data": data}
    write(model(), path, **words)
    return path


def moved(path, directory):
    """Copy an exported file with what belongs to it; return where it is."""
    for one in path.parent.glob(f"{path.name}*"):
        target = Path(directory) / one.name
        shutil.copytree(one, target) if one.is_dir() else shutil.copyfile(one, target)
    return Path(directory) / path.name


def flip(file, place):
    """Change one bit of a byte."""
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1
    file.write_bytes(data)


def statuses(verification):
    """Return verdicts by what was checked."""
    return {one.checked: one.status for one in verification.verdicts}
