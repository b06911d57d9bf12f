"""Bad input to training: an error that says what was received and how to fix it, before the first step."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_cases import compile_network, examples, network

import kopt
from kopt import data, train
from kopt.core.errors import ConfigError, DataError, LoadError, NonFiniteError

X, Y = examples(20)
FEATURES = {"y": tf.io.FixedLenFeature([], tf.int64)}


@pytest.fixture(autouse=True)
def no_step(monkeypatch):
    """Fail if a step is traced or run."""
    monkeypatch.setattr("kopt.train.steps.runner.Runner.__init__", lambda *_, **__: pytest.fail("a step was traced"))


def dataset(x=X, y=Y, size=5):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def fit(*arguments, compile_settings=None, **settings):
    accelerator = {key: settings.pop(key) for key in ("accumulate_steps", "checkpoint") if key in settings}
    fast = train.accelerate(network(compiled=False), **accelerator)
    compile_network(fast, **(compile_settings or {}))
    fast.fit(*arguments, verbose=0, **settings)


CASES = {
    "empty dataset": (lambda: fit(dataset().take(0)), DataError, ["no batch"]),
    "channels first": (lambda: fit(np.moveaxis(X, 3, 1), Y), DataError, ["(None, 6, 6, 1)", "`np.moveaxis(x, 1, 3)`"]),
    "another size": (lambda: fit(dataset(X[:, :4])), DataError, ["(None, 6, 6, 1)", "4, 6, 1"]),
    "two inputs for one": (lambda: fit(dataset((X, X))), DataError, ["1 input(s)"]),
    "an unknown name": (lambda: fit({"picture": X}, Y), DataError, ["picture"]),
    "labels too high for a finder": (
        lambda: train.find_learning_rate(network(), (X, Y + 2), steps=12), DataError, ["[0, 4)"]
    ),
    "NaN for a finder": (
        lambda: train.find_batch_size(network(), (X * np.nan, Y), max_batch_size=4), NonFiniteError, ["NaN"]
    ),
    "a checkpoint that is no path": (lambda: fit(X, Y, checkpoint=3), ConfigError, ["must be a directory", "3"]),
    "labels too high": (lambda: fit(X, Y + 2), DataError, ["[0, 4)"]),
    "labels below zero": (lambda: fit(X, Y - 1), DataError, ["[0, 4)"]),
    "one-hot labels": (lambda: fit(X, np.eye(4)[Y]), DataError, ["takes class numbers", "`y.argmax(-1)`"]),
    "NaN in the inputs": (lambda: fit(X * np.nan, Y), NonFiniteError, ["NaN or infinite", "index (0, 0, 0, 0)"]),
    "a negative weight": (lambda: fit(X, Y, sample_weight=-np.ones(20)), DataError, ["negative"]),
    "batch_size": (lambda: fit(X, Y, batch_size=0), ConfigError, ["`batch_size`", "Received: 0"]),
    "accumulate_steps": (lambda: fit(X, Y, accumulate_steps=0), ConfigError, ["`accumulate_steps`", "Received: 0"]),
    "steps_per_execution": (
        lambda: fit(X, Y, compile_settings={"steps_per_execution": 0}),
        ConfigError,
        ["`steps_per_execution`", "Received: 0"],
    ),
    "unknown length": (
        lambda: fit(dataset().filter(lambda x, y: True), compile_settings={"steps_per_execution": 4}),
        ConfigError,
        ["length of the data set is unknown", "`steps_per_execution=4`"],
    ),
    "endless data": (lambda: fit(dataset().repeat()), ConfigError, ["never ends", "`steps_per_epoch`"]),
    "logits as probabilities": (
        lambda: fit(X, Y, compile_settings={"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}),
        ConfigError,
        ["from_logits"],
    ),
    "an unknown policy": (lambda: train.precision("mixed_float61").__enter__(), ConfigError, ["mixed_float16"]),
    "an unknown strategy": (lambda: train.strategy("miror"), ConfigError, ["mirrored"]),
    "TF_CONFIG that is no JSON": (
        lambda: train.plan_distribution("multi_worker", tf_config="{"),
        ConfigError,
        ["TF_CONFIG"],
    ),
    "TF_CONFIG without its own task": (
        lambda: train.plan_distribution("multi_worker", tf_config=json.dumps({"cluster": {"worker": ["a:1"]}})),
        ConfigError,
        ["task"],
    ),
    "no examples": (lambda: data.from_arrays(X[:0], Y[:0], batch_size=2), DataError, ["no examples"]),
    "batch_size of a pipeline": (lambda: data.from_arrays(X, Y, batch_size=0), ConfigError, ["Received: 0"]),
    "no file matches": (
        lambda: data.from_tfrecords("/nowhere/*.tfrecord", batch_size=2, features=FEATURES),
        DataError,
        ["nowhere"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_the_first_step(case):
    act, error, words = CASES[case]
    with pytest.raises(error) as caught:
        act()
    assert isinstance(caught.value, kopt.KoptError)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("no_step")
def test_a_remainder_that_is_lost_is_said(capsys, monkeypatch):
    monkeypatch.undo()
    model = network()
    train.accelerate(model).fit(dataset(size=8).apply(lambda d: d.unbatch().batch(8, drop_remainder=True)), verbose=2)
    assert "what does not fill a batch is left out of every epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.undo()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    checkpoint = train.Checkpointing(str(tmp_path), every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train.accelerate(network(), checkpoint=checkpoint).fit(X, Y, verbose=0, batch_size=5, callbacks=[Stop()])
    other = network(dropout=0, batch_norm=False)
    with pytest.raises(LoadError, match=r"saved by a training with other variables.*Use another directory"):
        train.accelerate(other, checkpoint=tmp_path).fit(X, Y, verbose=0)
