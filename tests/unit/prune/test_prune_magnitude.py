import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.pruning_records import MagnitudePruning
from kopt.core.sensitivity_plan_records import LayerAllowance, SensitivityPlan
from kopt.prune import finalize, magnitude, schedules

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 12)).astype("float32")
Y = RNG.integers(0, 4, 64)
# Trainings in parts.
ENDS_EARLY = pytest.mark.filterwarnings("ignore:This training of .* ends at a sparsity of")
GRADUAL = schedules.Polynomial(0.75, begin=2, end=10, frequency=2)


def mlp(**settings):
    keras.utils.set_random_seed(3)
    layers = [L.Dense(16, activation="relu", name="hidden", **settings), L.Dense(4, name="logits")]
    return keras.Sequential([keras.Input((12,)), *layers], name="net")


def zeros(model):
    """Return the share of zeros in each kernel, by layer."""
    kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}
    return {name: float(np.mean(kernel == 0)) for name, kernel in kernels.items()}


def train(model, epochs=3, optimizer=None, **settings):
    if getattr(model, "optimizer", None) is None:
        model.compile(optimizer or keras.optimizers.Adam(0.01), LOSS, **settings)
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def test_a_sparsity_is_applied_at_once_and_holds():
    model = mlp()
    before = [value.copy() for value in model.get_weights()]
    pruned, report = magnitude(model, 0.5)
    assert zeros(pruned) == {"hidden": 0.5, "logits": 0.5}
    where = pruned.get_layer("hidden").kernel.numpy() == 0
    train(pruned)
    np.testing.assert_array_equal(pruned.get_layer("hidden").kernel.numpy() == 0, where)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert report.sparsity == 0.5
    assert [one.path for one in report.variables] == ["hidden/kernel", "logits/kernel"]


@ENDS_EARLY
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.slow),
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
    ],
)
def test_masks_follow_the_schedule_in_a_plain_fit(settings):
    pruned, _ = magnitude(mlp(), GRADUAL)
    assert zeros(pruned) == {"hidden": 0.0, "logits": 0.0}
    train(pruned, epochs=1, **settings)  # 4 updates: steps 2 and 4, at a quarter of the way
    share = 0.75 * (1 - (1 - 2 / 8) ** 3)
    kept = {"hidden": round(192 * (1 - share)), "logits": round(64 * (1 - share))}
    assert zeros(pruned) == pytest.approx({"hidden": 1 - kept["hidden"] / 192, "logits": 1 - kept["logits"] / 64})
    train(pruned, epochs=3)
    assert zeros(pruned) == {"hidden": 0.75, "logits": 0.75}


def test_numbers_are_those_of_a_loop_by_hand():
    """Gradient descent, with masks computed before the second update, in NumPy."""
    model = keras.Sequential([keras.Input((12,)), L.Dense(1, use_bias=False, name="linear")])
    weights = model.get_weights()[0].astype("float64")
    target = X @ np.arange(12.0)[:, None]
    pruned, _ = magnitude(model, schedules.Constant(0.5, begin=2))
    pruned.compile(keras.optimizers.SGD(0.05), "mse")
    pruned.fit(X, target, batch_size=16, shuffle=False, verbose=0)
    mask = np.ones_like(weights)
    for step, start in enumerate(range(0, 64, 16), start=1):
        if step == 2:
            mask = (np.abs(weights) >= np.sort(np.abs(weights), axis=None)[-6]).astype("float64")
            weights *= mask
        x, y = X[start : start + 16], target[start : start + 16]
        weights = (weights - 0.05 * 2 / 16 * x.T @ (x @ weights - y)) * mask
    np.testing.assert_allclose(pruned.get_weights()[0], weights, rtol=1e-4, atol=1e-5)


@ENDS_EARLY
@pytest.mark.slow
def test_a_training_that_is_saved_and_loaded_goes_on_bit_for_bit(tmp_path):
    whole, _ = magnitude(mlp(), GRADUAL)
    train(whole, epochs=2)
    train(whole, epochs=2)
    part, _ = magnitude(mlp(), GRADUAL)
    train(part, epochs=2).save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras")
    assert 0.0 < zeros(loaded)["hidden"] < 0.75
    train(loaded, epochs=2)
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plain, _ = finalize(loaded)
    assert type(plain) is keras.Sequential
    assert zeros(plain) == {"hidden": 0.75, "logits": 0.75}


@pytest.mark.slow
def test_accelerated_accumulating_and_mixed_precision_steps():
    pruned, _ = magnitude(mlp(), GRADUAL)
    fast = kopt.train.accelerate(pruned, accumulate_steps=2, jit_compile=False)
    fast.compile(keras.optimizers.Adam(0.01), LOSS)
    fast.fit(X, Y, batch_size=16, epochs=5, verbose=0)  # 20 batches, 10 updates
    assert zeros(pruned) == {"hidden": 0.75, "logits": 0.75}
    assert int(pruned.pruning.step) == 10
    mixed, _ = kopt.train.to_precision(mlp(), "mixed_float16")
    pruned, _ = magnitude(mixed, GRADUAL)
    train(pruned, epochs=4)
    assert zeros(pruned) == {"hidden": 0.75, "logits": 0.75}


def test_a_loop_of_ones_own():
    pruned, _ = magnitude(mlp(), GRADUAL)
    optimizer = keras.optimizers.Adam(0.01)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, pruned(x, training=True))
        optimizer.apply(tape.gradient(loss, pruned.trainable_variables), pruned.trainable_variables)

    for _ in range(12):
        step(X, Y)
    assert zeros(pruned) == {"hidden": 0.75, "logits": 0.75}


def test_weights_that_an_average_brings_back_are_masked_in_the_end():
    pruned, _ = magnitude(mlp(), GRADUAL)
    train(pruned, optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    assert zeros(pruned)["hidden"] < 0.75
    plain, report = finalize(pruned)
    assert zeros(plain) == {"hidden": 0.75, "logits": 0.75}
    assert report.sparsity == 0.75


def test_a_constraint_that_was_there_goes_on_to_hold():
    model = mlp(kernel_constraint=keras.constraints.MaxNorm(0.5))
    pruned, _ = magnitude(model, 0.5)
    train(pruned)
    norms = np.linalg.norm(pruned.get_layer("hidden").kernel.numpy(), axis=0)
    assert norms.max() <= 0.5 + 1e-5
    plain, _ = finalize(pruned)
    assert isinstance(plain.get_layer("hidden").kernel.constraint, keras.constraints.MaxNorm)


def deep():
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 4), name="image")
    block = keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(4, 3, padding="same", name="conv")], name="block")
    x = block(block(image))
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    x = L.SeparableConv2D(8, 3, name="separable")(x)
    x = L.Conv2D(8, 1, name="pointwise")(x)
    x = L.Reshape((4, 32))(x)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.LSTM(6, name="lstm")(x)
    return keras.Model(image, {"a": L.Dense(3, name="a")(x), "b": L.Dense(2, name="b")(x)}, name="deep")


@pytest.mark.slow
def test_all_kinds_of_layers_nested_and_shared(tmp_path):
    pruned, report = magnitude(deep(), 0.5)
    assert [one.path for one in report.variables] == [
        "block/conv/kernel",
        "separable/pointwise_kernel",
        "pointwise/kernel",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
        "a/kernel",
        "b/kernel",
    ]
    assert [one.layer for one in report.skipped] == ["depthwise", "separable"]
    x = RNG.normal(size=(8, 8, 8, 4)).astype("float32")
    pruned.compile("adam", {"a": "mse", "b": "mse"})
    pruned.fit(x, {"a": np.ones((8, 3)), "b": np.ones((8, 2))}, verbose=0)
    pruned.save(tmp_path / "deep.keras")
    plain, after = finalize(keras.models.load_model(tmp_path / "deep.keras"))
    assert after.sparsity == pytest.approx(0.5, abs=0.01)
    assert set(plain.output_names) == {"a", "b"}
    expected = pruned.predict(x, verbose=0)
    for name, value in plain.predict(x, verbose=0).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


@pytest.mark.slow
def test_every_granularity_holds_in_training():
    for settings in (
        {"granularity": "block", "block_size": (4, 2)},
        {"granularity": "channel"},
        {"scope": "global"},
    ):
        pruned, _ = magnitude(mlp(), GRADUAL, **settings)
        train(pruned)
        hidden = pruned.get_layer("hidden").kernel.numpy() != 0
        if settings.get("granularity") == "block":
            blocks = hidden.reshape(3, 4, 8, 2)
            assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all()
        elif settings.get("granularity") == "channel":
            assert hidden.any(axis=0).sum() == 4
            assert zeros(pruned)["logits"] == 0.0  # its channels are the classes
        else:
            both = np.concatenate([hidden.ravel(), pruned.get_layer("logits").kernel.numpy().ravel() != 0])
            assert both.mean() == pytest.approx(0.25)
            assert abs(hidden.mean() - 0.25) > 0.005


def test_ratios_by_layer():
    for ratios in (
        {"hidden": 0.75, "logits": 0.25},
        lambda layer: {"hidden": 0.75}.get(layer.name, 0.25),
    ):
        pruned, _ = magnitude(mlp(), 0.5, sparsity_by_layer=ratios)
        assert zeros(pruned) == {"hidden": 0.75, "logits": 0.25}
    pruned, _ = magnitude(mlp(), GRADUAL, sparsity_by_layer={"hidden": 0.375})
    train(pruned)
    assert zeros(pruned) == {"hidden": 0.375, "logits": 0.75}


def test_a_plan_of_the_sensitivity_is_read():
    allowed = (LayerAllowance("hidden", "Dense", 192, 8, 0.5), LayerAllowance("logits", "Dense", 64, 8, 0.0))
    plan = SensitivityPlan("net", "", "accuracy", 0.9, 0.01, allowed, (), 64)
    pruned, report = magnitude(mlp(), 0.5, sparsity_by_layer=plan)
    assert zeros(pruned) == {"hidden": 0.5, "logits": 0.0}
    assert [(one.layer, one.detail) for one in report.skipped] == [("logits", "its ratio is 0")]


def test_layers_are_chosen_by_name_and_policy():
    _, report = magnitude(deep(), 0.5, layers=["depthwise", "block"])
    assert [one.path for one in report.variables] == ["block/conv/kernel", "depthwise/kernel"]
    _, report = magnitude(deep(), 0.5, policy="xnnpack")
    assert [one.path for one in report.variables] == ["pointwise/kernel"]
    _, report = magnitude(deep(), 0.5, policy="keep_first_last", skip="attention")
    assert [one.layer for one in report.variables] == ["separable", "pointwise", *2 * ["lstm/lstm_cell"], "a"]
    assert {one.detail for one in report.skipped if one.layer in ("block/conv", "b")} == {
        "the first or last layer with a kernel"
    }


def test_frozen_layers_stay_dense():
    model = mlp()
    model.get_layer("hidden").trainable = False
    pruned, report = magnitude(model, 0.5)
    assert zeros(pruned) == {"hidden": 0.0, "logits": 0.5}
    assert report.skipped[0].detail.startswith("frozen")


def test_it_is_shown_and_stored(tmp_path):
    _, report = magnitude(deep(), 0.5)
    table = report.table(80)
    assert max(map(len, table.splitlines())) <= 80
    assert "lstm/lstm_cell/kernel" in table
    assert "Left dense: depthwise (DepthwiseConv2D)" in table
    assert str(report).startswith("50% of ")
    assert report.plot(tmp_path / "zeros.svg").stat().st_size > 1000
    assert MagnitudePruning.from_json(report.to_json()).variables == report.variables


def test_a_training_that_would_prune_nothing_is_refused_before_it_begins():
    pruned, _ = magnitude(mlp(), schedules.Polynomial(0.75, begin=100, end=500, frequency=100))
    pruned.compile("adam", LOSS)
    before = pruned.get_weights()
    with pytest.raises(ConfigError, match="prunes nothing in this training, which takes 4 steps"):
        pruned.fit(X, Y, batch_size=16, verbose=0)
    for one, other in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    fast = kopt.train.accelerate(pruned, jit_compile=False)
    fast.compile("adam", LOSS)
    with pytest.raises(ConfigError, match="prunes nothing"):
        fast.fit(X, Y, batch_size=16, verbose=0)


def test_a_training_that_ends_before_the_schedule_is_warned_of():
    pruned, _ = magnitude(mlp(), schedules.Polynomial(0.75, begin=1, end=100, frequency=1))
    pruned.compile("adam", LOSS)
    with pytest.warns(UserWarning, match=r"ends at a sparsity of 0\.\d+; .* leads to 0\.750"):
        pruned.fit(X, Y, batch_size=16, verbose=0)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def nan():
    model = mlp()
    model.get_layer("hidden").kernel.assign(np.full((12, 16), np.nan))
    return model


def subclassed():
    model = Subclassed()
    model(X)
    return model


@pytest.mark.parametrize(
    ("make", "settings", "error", "words"),
    [
        (mlp, {"schedule_or_sparsity": 1.0}, ConfigError, r"in \[0, 1\)"),
        (mlp, {"schedule_or_sparsity": 0.0}, ConfigError, "can be pruned"),
        (mlp, {"granularity": "blocks"}, ConfigError, "Did you mean 'block'"),
        (mlp, {"granularity": "block", "block_size": (0, 2)}, ConfigError, "at least 1"),
        (mlp, {"granularity": "block", "block_pooling": "SUM"}, ConfigError, "AVG, MAX"),
        (mlp, {"granularity": "n:m", "n_m": (4, 4)}, ConfigError, "with n < m"),
        (mlp, {"granularity": "n:m", "schedule_or_sparsity": 0.6}, ConfigError, "is a sparsity of 0.5"),
        (mlp, {"granularity": "n:m", "schedule_or_sparsity": GRADUAL}, ConfigError, "is a sparsity of 0.5"),
        (mlp, {"scope": "global", "granularity": "channel"}, ConfigError, "ranks single weights"),
        (mlp, {"scope": "global", "sparsity_by_layer": {"hidden": 0.1}}, ConfigError, "exclude each other"),
        (mlp, {"layers": ["hiden"]}, ConfigError, "Did you mean 'hidden'"),
        (mlp, {"skip": ["hidden", "logits"]}, ConfigError, "Nothing in the model 'net' can be pruned"),
        (mlp, {"sparsity_by_layer": {"hidden": 1.0}}, ConfigError, r"in \[0, 1\)"),
        (mlp, {"sparsity_by_layer": {"hiden": 0.5}}, ConfigError, "Did you mean 'hidden'"),
        (mlp, {"sparsity_by_layer": 0.5}, ConfigError, "must be a mapping"),
        (mlp, {"policy": "first"}, ConfigError, "Unknown `policy`"),
        (lambda: keras.Sequential([L.Dense(3)]), {}, InputError, "built"),
        (lambda: keras.Sequential([keras.Input((3,)), L.ReLU()]), {}, ConfigError, "it has no kernels"),
        (nan, {}, NonFiniteError, "hidden"),
        (subclassed, {}, UnsupportedModelError, "subclass|Python"),
    ],
)
def test_what_cannot_be_pruned(make, settings, error, words):
    with pytest.raises(error, match=words):
        magnitude(make(), **{"schedule_or_sparsity": 0.5, **settings})


def test_masks_are_put_on_once_and_taken_off_once():
    pruned, _ = magnitude(mlp(), 0.5)
    with pytest.raises(InputError, match="pruned already"):
        magnitude(pruned, 0.5)
    plain, _ = finalize(pruned)
    with pytest.raises(InputError, match="has no masks"):
        finalize(plain)
