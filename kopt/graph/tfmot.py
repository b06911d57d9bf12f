"""tensorflow-model-optimization, without what its import does to the process, and what it has made of a model."""

import importlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf

from kopt.core.errors import LoadError, UnsupportedModelError

_LEGACY = "TF_USE_LEGACY_KERAS"
# Classes that `quantize_model` and `quantize_apply` put round layers.
_WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")


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


def refuse_quantized(model: Any) -> None:
    """Refuse a tf_keras model that tfmot has quantized.

    Raises:
        UnsupportedModelError: it has.
    """
    kinds = {kind.__name__ for module in getattr(model, "submodules", ()) for kind in type(module).__mro__}
    if kinds.intersection(_WRAPPERS):
        raise UnsupportedModelError(_quantized(f"The tf_keras model {model.name!r}"))


def refuse_quantized_config(config: Any, path: Path) -> None:
    """Refuse a file of a model that tfmot has quantized.

    Raises:
        LoadError: it has.
    """
    if any(f'"class_name": "{name}"' in json.dumps(config) for name in _WRAPPERS):
        raise LoadError(_quantized(f"The model in {path}"))


def _quantized(model: str) -> str:
    return (
        f"{model} was quantized by tfmot (`quantize_model`) already, whose layers Keras 3 does not have. Pass the "
        f"float model that it was made from, or convert it with `tf.lite.TFLiteConverter.from_keras_model` and "
        f"`optimizations = [tf.lite.Optimize.DEFAULT]`, as tfmot's guide does."
    )
