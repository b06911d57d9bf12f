"""Models and trainings made to have a fault: the rule for it comes first. And one that is well: no basic advice."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt

L = keras.layers
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def digits():
    return kopt.data.load("digits")


@pytest.fixture(scope="module")
def well(digits):
    """Return a small network that was trained well, with its pipeline and history."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(16, 3, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.Conv2D(32, 3, activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train = kopt.data.from_arrays(digits.train.x, digits.train.y, batch_size=64, shuffle=True, seed=0)
    validation = (digits.validation.x, digits.validation.y)
    history = model.fit(train, epochs=15, validation_data=validation, verbose=0, shuffle=False)
    return model, train, history


def classifier(*layers, loss="sparse_categorical_crossentropy", optimizer="adam", inputs=(16,), **settings):
    model = keras.Sequential([keras.Input(inputs), *layers, L.Dense(4, activation="softmax")])
    model.compile(optimizer, loss, metrics=["accuracy"], **settings)
    return model


def examples(count=512, seed=0):
    """Return noise whose class is the largest of the first four entries."""
    x = np.random.default_rng(seed).normal(size=(count, 16)).astype("float32")
    return x, x[:, :4].argmax(1)


def first(advice):
    assert advice.items, {look.name: look.reason for look in advice.looks}
    return advice.items[0]


def test_a_model_that_is_well_gets_no_basic_advice(well, digits):
    model, train, history = well
    advice = kopt.advise(model, train, digits.validation, history=history)
    assert [item for item in advice.items if item.effort == "basic"] == []
    assert len(advice.checked) >= 45
    full = kopt.advise(model, train, digits.validation, history=history, depth="full")
    assert full.unchecked == {}
    # How fast steps are here is a matter of this machine: whether XLA or longer calls pay is not known to the test.
    allowed = {"jit-unused", "single-steps"}
    assert [item.rule for item in full.items if item.effort == "basic" and item.rule not in allowed] == []


def test_the_settings_of_compile_are_put_back(well):
    model, train, _ = well
    before = model.run_eagerly, model.jit_compile, model.steps_per_execution
    weights = [value.numpy().copy() for value in (*model.variables, *model.optimizer.variables)]
    advice = kopt.advise(model, train, depth="full", looks=["settings", "steps", "rates"])
    assert {look.name for look in advice.looks if look.seconds is not None} == {"settings", "steps", "rates"}
    assert (model.run_eagerly, model.jit_compile, model.steps_per_execution) == before
    after = [value.numpy() for value in (*model.variables, *model.optimizer.variables)]
    assert all((one == other).all() for one, other in zip(weights, after, strict=True))


def test_dead_units():
    model = classifier(L.Dense(32, activation="relu", name="hidden"))
    bias = np.zeros(32, "float32")
    bias[:20] = -100
    model.get_layer("hidden").bias.assign(bias)
    advice = kopt.advise(model, examples(), examples(seed=1))
    assert first(advice).rule == "dead-units"
    [constant] = advice.of("constant-channels")
    assert constant.gain.share == pytest.approx(20 / 32)


def test_a_hostile_depthwise_layer(digits):
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = L.DepthwiseConv2D(3, padding="same", name="hostile")(x)
    x = L.Conv2D(16, 1, activation="relu", name="after")(x)
    model = keras.Model(inputs, L.Dense(10, activation="softmax")(L.Flatten()(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits.train.x, digits.train.y, epochs=5, verbose=0)
    # The layer makes channels of sizes 1 to 100,000, and the next one undoes it: the answers stay.
    scale = np.geomspace(1, 1e5, 16).astype("float32")
    hostile, after = model.get_layer("hostile"), model.get_layer("after")
    hostile.kernel.assign(hostile.kernel * scale[:, None])
    hostile.bias.assign(hostile.bias * scale)
    after.kernel.assign(after.kernel / scale[:, None])
    advice = kopt.advise(model, digits.train, digits.validation, depth="full", looks=["cost", "fit", "quantization"])
    assert first(advice).rule == "hostile-layers"
    assert "hostile" in first(advice).where


def test_an_input_that_is_the_limit():
    def slow(x):
        time.sleep(0.02)  # 640 ms a batch, and a step takes two or three, on a busy machine fifty
        return x

    def read(x, y):
        return tf.ensure_shape(tf.numpy_function(slow, [x], tf.float32), (16,)), y

    train = tf.data.Dataset.from_tensor_slices(examples(128)).map(read).batch(32)
    advice = kopt.advise(classifier(L.Dense(32, activation="relu")), train, looks=["settings", "data", "pipeline"])
    assert first(advice).rule == "input-bound"
    assert first(advice).gain.source == "measured"
    assert first(advice).gain.share > 0.5
    assert advice.of("python-input")


def test_over_fitting():
    model = classifier(L.Dense(256, activation="relu"), optimizer=keras.optimizers.Adam(5e-3))
    x, _ = examples(64)
    y = np.random.default_rng(2).integers(0, 4, 64)  # Nothing to learn but by heart.
    history = model.fit(x, y, validation_data=(x[::-1] * 1.1 + 0.5, y), epochs=40, verbose=0)
    advice = kopt.advise(model, (x, y), history=history)
    assert first(advice).rule == "over-fitting"


def test_training_data_known_by_heart_is_seen_without_a_history():
    model = classifier(L.Dense(256, activation="relu"), optimizer=keras.optimizers.Adam(5e-3))
    x, y = examples(64)
    model.fit(x, y, epochs=60, verbose=0)
    advice = kopt.advise(model, (x, y), examples(seed=3))
    assert first(advice).rule == "validation-gap"


def test_exploding_gradients():
    layers = [L.Dense(64, activation="relu", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=i))
              for i in range(6)]  # fmt: skip
    advice = kopt.advise(classifier(*layers, optimizer="sgd"), examples())
    assert "exploding-gradients" in [item.rule for item in advice.items]
    assert first(advice).rule == "exploding-gradients"


def test_a_step_that_does_not_fit_into_memory():
    model = classifier(*(L.Dense(512, activation="relu") for _ in range(4)))
    advice = kopt.advise(model, examples(), batch_size=256, memory_limit_bytes=12 << 20)
    item = first(advice)
    assert item.rule == "out-of-memory"
    order = [item.remedy.index(word) for word in ("accumulate_steps=2", "accumulate_steps=4", "16 bits", "two devices")]
    assert order == sorted(order)


def test_eager_steps_are_timed():
    model = classifier(L.Dense(32, activation="relu"), run_eagerly=True)
    advice = kopt.advise(model, examples(), depth="full", looks=["settings", "steps"])
    item = first(advice)
    assert (item.rule, item.gain.source) == ("run-eagerly", "measured")
    assert item.gain.share > 0.5


def test_zeros_that_no_kernel_uses_and_layers_of_low_rank():
    model = classifier(L.Dense(400, activation="relu", name="wide"), inputs=(256,))
    kernel = model.get_layer("wide").kernel
    random = np.random.default_rng(0)
    kernel.assign(random.normal(size=(256, 5)) @ random.normal(size=(5, 400)) / 100)
    advice = kopt.advise(model, looks=["cost", "parameters"])
    assert [item.rule for item in advice.items] == ["large-dense"]
    kernel.assign(random.normal(size=(256, 400)) * (random.random((256, 400)) > 0.7))
    assert [item.rule for item in kopt.advise(model, looks=["cost", "parameters"]).items] == ["useless-zeros"]


def test_labels_that_do_not_fit_come_before_all_else():
    x, y = examples()
    advice = kopt.advise(classifier(L.Dense(32, activation="relu")), (x * 100, y + 1))
    assert first(advice).rule == "wrong-data"
    assert advice.of("wrong-data")[0].evidence.count("[0, 4)") == 1
    unfit = kopt.advise(classifier(L.Dense(32, activation="relu")), (x * 100, y), looks=["data"])
    assert first(unfit).rule == "unscaled-inputs"


def test_a_run_of_optimize_gives_advice(well, digits, tmp_path):
    model, *_ = well
    result = kopt.optimize(
        model,
        digits.train,
        digits.validation,
        budget=kopt.Budget(max_drop=0.2),
        workdir=tmp_path,
        techniques=["tflite-float32", "tflite-int8"],
    )
    advice = kopt.advice.from_run(result)
    assert {"slow-integers", "nothing-in-budget", "failed-export", "large-embedding"} <= set(advice.checked)
    assert advice.items == ()  # Both files were made, are inside the budget, and take microseconds.
