"""How a model is compiled, and what TensorFlow may use: nothing runs."""

import collections
import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kopt.advice.looks.subject import Subject
from kopt.core.environment import machine
from kopt.core.records.profiles.circumstances import RuntimeSettings, TrainingSettings
from kopt.graph import layer_paths, owned_variables
from kopt.graph.internals import flatten_layers

_DRIVER = Path("/proc/driver/nvidia/version")


def training_settings(subject: Subject) -> TrainingSettings:
    """Return how the model is built and compiled."""
    model = subject.model
    optimizer = model.optimizer if model.compiled else None
    paths = layer_paths(model)
    layers = [layer for layer in flatten_layers(model) if layer is not model]
    holders = {id(one.layer): one.layer for one in owned_variables(model)}
    dtypes = collections.Counter(str(layer.compute_dtype) for layer in holders.values())
    return TrainingSettings(
        optimizer=type(_innermost(optimizer)).__name__ if optimizer is not None else "",
        learning_rate=_rate(optimizer),
        iterations=int(optimizer.iterations) if optimizer is not None else 0,
        run_eagerly=bool(model.compiled and model.run_eagerly),
        jit_compile=bool(model.compiled and model.jit_compile),
        steps_per_execution=int(model.steps_per_execution) if model.compiled else 1,
        compute_dtypes=dict(dtypes),
        output_dtypes=tuple(str(tensor.dtype) for tensor in keras.tree.flatten(getattr(model, "outputs", None) or ())),
        scales_loss=_scales(optimizer),
        batch_norms=tuple(
            paths[id(layer)]
            for layer in layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ),
        dropouts={
            paths[id(layer)]: float(layer.rate)
            for layer in layers
            if "Dropout" in type(layer).__name__ and getattr(layer, "rate", None)
        },
    )


def runtime_settings(subject: Subject) -> RuntimeSettings:
    """Return what TensorFlow may use in this process."""
    openmp = os.environ.get("OMP_NUM_THREADS", "")
    return RuntimeSettings(
        cores=machine().cores,
        threads=tf.config.threading.get_intra_op_parallelism_threads(),
        openmp_threads=int(openmp) if openmp.isdigit() else None,
        gpus=len(tf.config.get_visible_devices("GPU")),
        nvidia_driver=_DRIVER.exists(),
        replicas=subject.model.distribute_strategy.num_replicas_in_sync,
    )


def _innermost(optimizer: Any) -> Any:
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def _rate(optimizer: Any) -> float | None:
    if optimizer is None:
        return None
    config = _innermost(optimizer).get_config().get("learning_rate")
    return float(config) if isinstance(config, (int, float)) else None  # A schedule is a dict here.


def _scales(optimizer: Any) -> bool:
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None:
            return True
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return False
