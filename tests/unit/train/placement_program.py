"""Places models on two logical CPUs and tells what it finds; for a process of its own."""

import collections

import keras
import numpy as np
import tensorflow as tf
import zoo
from tensorflow.python.eager import context

from kopt.train.distribution.devices import logical_cpus
from kopt.train.distribution.placement import place_layers, placed_optimizer

DEVICES = ("CPU:0", "CPU:1")
NAMES = ("cnn", "mlp", "lstm", "transformer", "unet", "siamese", "two_in_two_out", "nested", "preprocessing", "custom")


def gradients(model, inputs):
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(inputs, training=False))
        loss = tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs] + model.losses)
    found = tape.gradient(loss, model.trainable_variables)
    return [None if one is None else tf.convert_to_tensor(one) for one in found]


def largest_difference(ours, theirs):
    """Return the largest difference as a fraction of each tensor's largest entry."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert a is b, "one has a gradient, the other has none"
            continue
        worst = max(worst, float(np.abs(np.subtract(a, b)).max() / max(float(np.abs(a).max()), 1e-3)))
    return worst


def compare(name):
    model = zoo.build(name)
    inputs = zoo.inputs(model, 8)
    placed, report = place_layers(model, DEVICES)
    outputs, theirs = (keras.tree.flatten(one(inputs, training=False)) for one in (model, placed))
    return {
        "equal": all(np.array_equal(a, b) for a, b in zip(outputs, theirs, strict=True)),
        "eager": largest_difference(gradients(model, inputs), gradients(placed, inputs)),
        "graph": largest_difference(
            tf.function(lambda: gradients(model, inputs))(), tf.function(lambda: gradients(placed, inputs))()
        ),
        "stages": [[stage.device, stage.parameter_bytes] for stage in report.stages],
        "crossings": report.crossings,
    }


class AddsLoss(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.sum(inputs**2))
        return inputs


def two_halves():
    x = y = keras.Input((6,))
    for index in range(4):
        y = keras.layers.Dense(6, "tanh", name=f"d{index}", activity_regularizer="l2" if index == 1 else None)(y)
    return keras.Model(x, AddsLoss(name="loss")(y))


def operations_by_device(model, x, y):
    """Return how often an operation ran on each device in a training step, e.g. {"CPU:1 TanhGrad": 2}."""
    context.context().enable_run_metadata()  # The graphs as TensorFlow split them are told of a first run only.
    model.train_on_batch(x, y)
    metadata = context.context().export_run_metadata()
    context.context().disable_run_metadata()
    model.train_on_batch(x, y)
    nodes = [node for run in metadata.function_graphs for graph in run.partition_graphs for node in graph.node]
    counts = collections.Counter(f"{node.device[-5:]} {node.op}" for node in nodes)
    return {key: counts[key] for key in counts if key.endswith(("TanhGrad", "BiasAddGrad", "Sqrt"))}


def halves(file):
    keras.utils.set_random_seed(0)
    model = two_halves()
    x, y = np.ones((8, 6), "float32"), np.zeros((8, 6), "float32")
    placed, report = place_layers(model, DEVICES)
    placed.compile(placed_optimizer(keras.optimizers.Adam()), "mse")
    model.compile(keras.optimizers.Adam(), "mse")
    result = {
        "eager": largest_difference(gradients(model, x), gradients(placed, x)),
        "stages": [[stage.device, list(stage.layers)] for stage in report.stages],
        "variables": {variable.path: variable.value.device[-5:] for variable in placed.variables},
        "operations": operations_by_device(placed, x, y),
        "jit": placed.jit_compile,
    }
    result["slots"] = collections.Counter(variable.value.device[-5:] for variable in placed.optimizer.variables)
    model.train_on_batch(x, y), model.train_on_batch(x, y)
    result["trained"] = largest_difference(model.get_weights(), placed.get_weights())
    history = [one.fit(x, y, epochs=2, verbose=0, batch_size=4, shuffle=False).history for one in (model, placed)]
    result["loss"] = [one["loss"] for one in history]
    by_name, report = place_layers(model, DEVICES, by={"d1": "/cpu:1", "d3": "CPU:0"})
    result["mapped"] = [[stage.device, list(stage.layers)] for stage in report.stages]
    result["mapped crossings"] = report.crossings
    result["mapped variables"] = {variable.path: variable.value.device[-5:] for variable in by_name.variables}
    result["text"] = str(report)
    for wrong in ({"d9": "CPU:0"}, {"d1": "CPU:2"}, "parameter"):
        try:
            place_layers(model, DEVICES, by=wrong)
        except ValueError as error:
            result.setdefault("errors", []).append(str(error))
    placed.save(file)
    reloaded = keras.models.load_model(file, custom_objects={"AddsLoss": AddsLoss})
    result["reloaded"] = bool(np.array_equal(reloaded(x), placed(x)))
    return result


def main(file):
    """Return what is found, by model; a placed model is left in a file."""
    logical_cpus(2)
    return {"halves": halves(file), **{name: compare(name) for name in NAMES}}
