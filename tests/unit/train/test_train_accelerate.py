import keras
import numpy as np
import pytest
import tensorflow as tf
from training_cases import CLASSES, compile_network, examples, largest_difference, network

import kopt
from kopt.core.errors import (
    ConfigError,
    DataError,
    DivergedError,
    InputError,
    LoadError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from kopt.train import accelerate

X, Y = examples(70)
VALIDATION = examples(30, seed=1)


def dataset(batch_size=16):
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70, seed=3).batch(batch_size)


def fitted(make_data, *, wrap, **settings):
    model = network()
    target = accelerate(model, jit_compile=False) if wrap else model
    x, y = make_data()
    if not wrap and y is None:
        settings["shuffle"] = False  # Keras warns when a data set is to be shuffled.
    return model, target.fit(x, y, verbose=0, **settings).history


FITS = {
    "arrays": (lambda: (X, Y), {"epochs": 2, "batch_size": 16, "validation_data": VALIDATION}),
    "split": (lambda: (X, Y), {"validation_split": 0.3, "class_weight": {i: 1.0 + i for i in range(CLASSES)}}),
    "weights": (lambda: (X, Y), {"sample_weight": np.linspace(0, 1, 70), "epochs": 3, "validation_freq": 2,
                                 "validation_data": VALIDATION}),
    "dataset": (lambda: (dataset(), None), {"epochs": 2, "validation_steps": 2,
                                            "validation_data": tf.data.Dataset.from_tensors(VALIDATION).repeat(5)}),
    "steps": (lambda: (dataset().repeat(), None), {"epochs": 3, "steps_per_epoch": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", ["arrays", *(pytest.param(c, marks=pytest.mark.slow) for c in FITS if c != "arrays")])
def test_history_and_weights_are_those_of_fit(case):
    make_data, settings = FITS[case]
    plain, expected = fitted(make_data, wrap=False, **settings)
    ours, history = fitted(make_data, wrap=True, **settings)
    assert history.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, atol=1e-5, err_msg=key)
    assert largest_difference(plain, ours) < 1e-5


@pytest.mark.slow
def test_the_model_inside_is_the_users_own_afterwards(tmp_path):
    model = network()
    optimizer = model.optimizer
    fast = accelerate(model)
    fast.fit(X, Y, verbose=0, validation_data=VALIDATION)
    assert fast.model is model
    assert model.optimizer is optimizer
    assert model.steps_per_execution == 1
    fast.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert fast.evaluate(*VALIDATION, verbose=0) == model.evaluate(*VALIDATION, verbose=0)
    np.testing.assert_array_equal(fast.predict(X[:3], verbose=0), model.predict(X[:3], verbose=0))
    np.testing.assert_array_equal(fast(X[:3]), model(X[:3]))


@pytest.mark.slow
def test_compile_through_the_wrapper_compiles_the_model():
    model = network(compiled=False)
    fast = accelerate(model, jit_compile=False)
    with pytest.raises(InputError, match="Compile before `fit`"):
        fast.fit(X, Y)
    compile_network(fast)
    expected = network()
    expected.fit(X, Y, verbose=0)
    fast.fit(X, Y, verbose=0)
    assert largest_difference(expected, model) < 1e-5


@pytest.mark.slow
def test_the_tail_of_an_epoch_is_applied():
    # 70 examples in batches of 16: five batches, the last one of 6; updates after 4 batches and after the last.
    model = network(dropout=0, batch_norm=False)
    accelerate(model, accumulate_steps=4, jit_compile=False).fit(
        X, Y, batch_size=16, shuffle=False, epochs=3, verbose=0
    )
    expected = network(dropout=0, batch_norm=False)
    for _ in range(3):
        expected.train_on_batch(X[:64], Y[:64])
        expected.train_on_batch(X[64:], Y[64:])
    assert int(model.optimizer.iterations) == 6
    assert largest_difference(expected, model) < 1e-5


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(f"epoch {epoch}")

    def on_test_begin(self, logs=None):
        self.seen.append("test")


class BatchRecorder(Recorder):
    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, round(float(logs["loss"]), 4)))


@pytest.mark.slow
def test_a_callback_that_observes_batches_sees_every_one():
    seen = []
    for wrap in (False, True):
        recorder = BatchRecorder()
        fitted(lambda: (X, Y), wrap=wrap, batch_size=16, epochs=2, callbacks=[recorder], validation_data=VALIDATION)
        seen.append(recorder.seen)
    assert seen[0] == seen[1]
    assert [entry if isinstance(entry, str) else entry[0] for entry in seen[1]][:7] == [
        "epoch 0",
        0,
        1,
        2,
        3,
        4,
        "test",
    ]


@pytest.mark.slow
def test_callbacks_get_the_model_of_the_user_and_can_stop_it():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert self.model is model
            self.model.stop_training = epoch == 1

    model = network()
    history = accelerate(model).fit(X, Y, epochs=5, verbose=0, callbacks=[Stop()])
    assert len(history.history["loss"]) == 2


@pytest.mark.slow
def test_steps_per_execution_fixes_the_steps_of_a_call():
    calls = []

    class Calls(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            calls.append(batch)

    fast = accelerate(network(compiled=False), jit_compile=False)
    compile_network(fast, steps_per_execution=2)
    fast.fit(X, Y, batch_size=10, verbose=0, callbacks=[Calls()])
    assert calls == [1, 3, 5, 6]  # the last call has one batch


@pytest.mark.slow
def test_skipped_steps_are_in_the_logs_from_the_first_on():
    x, y = np.tile(X[:60], (3, 1, 1, 1)), np.tile(Y[:60], 3)
    x[85] = np.nan  # in the second batch of the second epoch
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    model = network()
    fast = accelerate(model)
    history = fast.fit(data, steps_per_epoch=3, epochs=3, verbose=0).history
    assert any(note.startswith("1 batches were left out") for note in fast.report.notes)
    assert history["skipped_steps"] == [0, 1, 0]
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(value).all() for value in model.get_weights())


@pytest.mark.slow
def test_training_that_diverges_stops_and_names_the_layer():
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel * np.inf, bias])
    with pytest.raises(DivergedError, match=r"3 steps in a row .* step 3 of epoch 1.*conv"):
        accelerate(model, max_nonfinite_steps=3).fit(X, Y, batch_size=8, verbose=0)


@pytest.mark.slow
def test_training_goes_on_in_a_second_fit_without_tracing_anew():
    fast = accelerate(network(), jit_compile=False)
    fast.fit(X, Y, verbose=0)
    runner = fast.engine.runner
    fast.fit(X, Y, verbose=0)
    assert fast.engine.runner is runner
    fast.fit(X, Y, batch_size=7, verbose=0)
    assert fast.engine.runner is not runner


@pytest.mark.slow
def test_a_layer_frozen_between_two_fits_stays_as_it_is():
    model = network()
    fast = accelerate(model)
    fast.fit(X, Y, verbose=0)
    model.get_layer("conv").trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    frozen, moving = model.get_layer("conv").get_weights(), model.get_layer("dense").get_weights()
    fast.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model.get_layer("conv").get_weights()[0], frozen[0])
    assert not np.array_equal(model.get_layer("dense").get_weights()[0], moving[0])


@pytest.mark.slow
def test_several_inputs_and_outputs_by_name():
    def build():
        keras.utils.set_random_seed(0)
        a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
        both = keras.layers.Concatenate()([a, b])
        outputs = {"u": keras.layers.Dense(1, name="u")(both), "v": keras.layers.Dense(2, name="v")(both)}
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile("sgd", {"u": "mse", "v": "mae"}, loss_weights={"u": 1.0, "v": 0.5}, metrics={"u": ["mae"]})
        return model

    random = np.random.default_rng(0)
    x = {"a": random.normal(size=(20, 3)), "b": random.normal(size=(20, 2))}
    y = {"u": random.normal(size=(20, 1)), "v": random.normal(size=(20, 2))}
    plain, ours = build(), build()
    expected = plain.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    history = accelerate(ours, jit_compile=False).fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert history.keys() == expected.keys()
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert largest_difference(plain, ours) < 1e-6


@pytest.mark.slow
def test_a_model_that_is_not_built_is_built_on_the_first_batch():
    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(CLASSES, activation="softmax")])
        compile_network(model)
        return model

    plain, ours = build(), build()
    plain.fit(X, Y, verbose=0)
    accelerate(ours).fit(X, Y, verbose=0)
    assert largest_difference(plain, ours) < 1e-5


@pytest.mark.slow
def test_float16_layers_get_their_loss_scaled():
    model = network(compiled=False)
    model.get_layer("dense").dtype_policy = keras.DTypePolicy("mixed_float16")
    fast = accelerate(model)
    compile_network(fast, keras.optimizers.SGD(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(fast.fit(X, Y, verbose=0).history["loss"]).all()
    assert fast.report.loss_scaling
    lines = str(fast.report).splitlines()
    assert lines[0].startswith("Steps run plain (not tried: too little training for a compilation to pay), ")
    assert lines[1] == "The loss is scaled for float16 gradients."


@pytest.mark.slow
def test_train_on_batch():
    plain, ours = network(), network()
    fast = accelerate(ours, jit_compile=False)
    for rows in (slice(0, 16), slice(16, 20)):
        plain.reset_metrics()  # Keras 3.12 does not do so itself.
        expected = plain.train_on_batch(X[rows], Y[rows], return_dict=True)
        found = fast.train_on_batch(X[rows], Y[rows], return_dict=True)
        assert found.keys() == expected.keys()
        assert [float(one) for one in found.values()] == pytest.approx([*map(float, expected.values())], abs=1e-6)
    assert largest_difference(plain, ours) < 1e-6


def test_the_wrapper_survives_its_config():
    fast = accelerate(network(), accumulate_steps=3, clip_value=0.5, checkpoint="somewhere")
    twin = type(fast).from_config(fast.get_config())
    assert twin.get_config() == fast.get_config()
    assert (twin.config.accumulate_steps, twin.checkpoint.directory) == (3, "somewhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate_steps": 0}, "`accumulate_steps` must be a whole number of at least 1. Received: 0"),
        ({"accumulate_steps": 2.5}, "Received: 2.5"),
        ({"clip_norm": -1.0}, "`clip_norm` must be a finite number in"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "Received: clip_norm, clip_value. Set one of them"),
        ({"jit_compile": "maybe"}, "True, False or 'auto'. Received: 'maybe'"),
        ({"max_nonfinite_steps": 0}, "`max_nonfinite_steps`"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        accelerate(network(compiled=False), **settings)


@pytest.mark.parametrize(
    ("y", "settings", "error", "message"),
    [
        (Y, {"validation_split": 1.5}, ConfigError, r"`validation_split` must be a finite number in \[0, 1\]"),
        (Y, {"validation_split": 1.0}, ConfigError, "leaves nothing to train on"),
        (np.array(["cat"] * 70), {}, DataError, "Targets are str96; a loss needs numbers"),
        (None, {}, DataError, "There are no targets"),
    ],
)
def test_a_fit_that_cannot_be(y, settings, error, message):
    with pytest.raises(error, match=message):
        accelerate(network()).fit(X, y, verbose=0, **settings)


def test_what_cannot_be_accelerated():
    class Custom(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(UnsupportedModelError, match=r"overrides `train_step`.*`compute_loss`"):
        accelerate(Custom())
    with pytest.raises(UnsupportedModelError, match=r"builtins\.str"):
        accelerate("model.keras")
    with pytest.raises(UnsupportedModelError, match="accelerated already"):
        accelerate(accelerate(network(compiled=False)))
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match="not both"):
        accelerate(network(optimizer=optimizer), accumulate_steps=2)
    with pytest.raises(ConfigError, match="run_eagerly"):
        compile_network(accelerate(network(compiled=False)), run_eagerly=True)


def test_data_without_batches():
    with pytest.raises(DataError, match="no batches"):
        accelerate(network()).fit(dataset().take(0), verbose=0)


@pytest.mark.slow
def test_data_that_ends_early_is_said():
    with pytest.warns(UserWarning, match="ended after 5 of the 9 steps of epoch 1"):
        history = accelerate(network()).fit(dataset(), steps_per_epoch=9, verbose=0)
    assert len(history.history["loss"]) == 1


@pytest.mark.slow
def test_running_out_of_memory_is_explained_and_what_was_trained_is_kept(monkeypatch):
    model = network(dropout=0, batch_norm=False)
    fast = accelerate(model)
    before = model.get_layer("dense").get_weights()[0]

    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,4,4,3]")

    monkeypatch.setattr("kopt.train.steps.runner.Runner.run", exhausted)  # The first batch of 16 is taken by itself.
    with pytest.raises(OutOfMemoryError, match=r"(?s)activations .*optimizer .*weights .*accumulate_steps"):
        fast.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    monkeypatch.undo()
    expected = network(dropout=0, batch_norm=False)
    expected.train_on_batch(X[:16], Y[:16])
    assert largest_difference(expected, model) < 1e-6
    assert not np.array_equal(model.get_layer("dense").get_weights()[0], before)


@pytest.mark.slow
def test_an_accelerated_model_can_be_diagnosed():
    fast = accelerate(network())
    before = fast.get_weights()
    result = kopt.data.diagnose(kopt.data.from_arrays(X, Y, batch_size=10), fast, seconds=0.2)
    assert result.step_ms > 0
    for ours, theirs in zip(before, fast.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class StopsAfter(keras.callbacks.Callback):
    """Ends training as Ctrl-C would, once."""

    left = 2

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_gradients_of_a_training_that_was_interrupted_go_into_no_later_one():
    layers = keras.layers
    model, other = (
        keras.Sequential([keras.Input(X.shape[1:]), layers.Flatten(), layers.Dense(CLASSES, "softmax")])
        for _ in range(2)
    )
    for one in (model, other):
        one.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", steps_per_execution=1)
    target = accelerate(model, accumulate_steps=4)
    with pytest.raises(KeyboardInterrupt):
        target.fit(X[:64], Y[:64], batch_size=8, shuffle=False, verbose=0, callbacks=[StopsAfter()])
    other.set_weights(model.get_weights())
    target.fit(X[:64], Y[:64], batch_size=8, shuffle=False, verbose=0)
    accelerate(other, accumulate_steps=4).fit(X[:64], Y[:64], batch_size=8, shuffle=False, verbose=0)
    assert largest_difference(model, other) < 1e-6
    assert int(model.optimizer.iterations) == 2


def test_a_training_does_not_go_on_in_the_middle_of_batches_of_another_size(tmp_path):
    model = network()
    compile_network(model)
    settings = kopt.train.Checkpointing(str(tmp_path), every_steps=1)
    target = accelerate(model, checkpoint=settings, jit_compile=False)
    with pytest.raises(KeyboardInterrupt):
        target.fit(X[:64], Y[:64], batch_size=8, verbose=0, callbacks=[StopsAfter()])
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(LoadError, match=r"of data that has 8 batches an epoch, and this data has 4\. Go on with"):
        target.fit(X[:64], Y[:64], batch_size=16, verbose=0, callbacks=[StopsAfter()])
    for one, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, variable)
