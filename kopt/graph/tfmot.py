"""tensorflow-model-optimization, without what its import does to the process."""

import importlib
import os
import warnings
from typing import Any

import tensorflow as tf

_LEGACY = "TF_USE_LEGACY_KERAS"


def load_tfmot() -> Any:
    """Return the package `tensorflow_model_optimization`.

    Its import sets `TF_USE_LEGACY_KERAS`, and where nothing has used `tf.keras` before, that becomes Keras 2 for the
    whole process. Here `tf.keras` is resolved first and the variable is put back.
    """
    tf.keras.layers  # noqa: B018 - looking at it is what resolves it
    before = os.environ.get(_LEGACY)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "distutils Version classes are deprecated", DeprecationWarning)
            return importlib.import_module("tensorflow_model_optimization")
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before
