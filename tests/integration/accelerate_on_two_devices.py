"""Trains on two logical CPU devices and on one; for a process of its own."""

import warnings

import keras
import numpy as np
import tensorflow as tf
from training_cases import compile_network, examples, largest_difference, network

import kopt
from kopt.train.distribution.devices import logical_cpus

X, Y = examples(44)
# Every case traces two trainings, so that each holds what can go together; the tests of one device take them apart.
CASES = {
    "plain": {"judged": True},
    "accumulation with a tail, clipping": {"accumulate_steps": 3, "global_clip_norm": 0.05},
    "accumulation, adaptive clipping": {"accumulate_steps": 2, "adaptive_clip": 0.001},
    "accumulation, clipping, loss scaling": {"accumulate_steps": 2, "clip_norm": 0.02, "scaled": True},
    "loss scaling, gradient norm": {"scaled": True, "log_gradient_norm": True},
    "not finite, clipping by value": {"spoiled": True, "clip_value": 0.01},
}


def train(strategy, *, spoiled=False, scaled=False, judged=False, **settings):
    """Return the model and the history of two epochs on batches of 8, the last one of 4."""
    with strategy.scope():
        model = network(compiled=False, dropout=0, batch_norm=False)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        compile_network(model, keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    x = X.copy()
    if spoiled:
        x[9] = np.nan
    fast = kopt.train.accelerate(model, **settings)
    validation = (X[:20], Y[:20]) if judged else None
    history = fast.fit(x, Y, batch_size=8, shuffle=False, epochs=2, verbose=0, validation_data=validation).history
    return model, history


def main():
    """Compare every case on two replicas with the same on one device."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
    results = []
    logical_cpus(2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name, settings in CASES.items():
        one, expected = train(tf.distribute.get_strategy(), **settings)
        two, history = train(mirrored, **settings)
        gaps = {key: float(np.max(np.abs(np.subtract(history[key], expected[key])))) for key in expected}
        result = {"case": name, "weights": largest_difference(one, two), "history": gaps}
        result["updates"] = [int(model.optimizer.iterations.numpy()) for model in (one, two)]
        results.append(result)
    return results


def find_rate():
    """Return how many steps a look for a learning rate takes of a model that has never been trained."""
    logical_cpus(2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = network(compiled=False, dropout=0, batch_norm=False)
        compile_network(model, "sgd")
    return len(kopt.train.find_learning_rate(model, (X, Y), steps=20, batch_size=8).losses)
