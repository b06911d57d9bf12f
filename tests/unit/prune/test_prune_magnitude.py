import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import kopt
from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.magnitude_pruning import MagnitudePruning
from kopt.core.records.profiles.sensitivity_plan import LayerAllowance, SensitivityPlan
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_weights_that_an_average_brings_back_are_masked_in_the_end():
    pruned, _ = magnitude(mlp(), GRADUAL)
    train(pruned, optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    assert zeros(pruned)["hidden"] == 0.75  # when `fit` has ended
    pruned.optimizer.finalize_variable_values(pruned.trainable_variables)
    assert zeros(pruned)["hidden"] < 0.75
    plain, report = finalize(pruned)
    assert zeros(plain) == {"hidden": 0.75, "logits": 0.75}
    assert report.sparsity == 0.75


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_layers_are_chosen_by_name_and_policy():
    _, report = magnitude(deep(), 0.5, layers=["depthwise", "block"])
    assert [one.path for one in report.variables] == ["block/conv/kernel", "depthwise/kernel"]
    _, report = magnitude(deep(), 0.5, policy="xnnpack")
    assert [one.path for one in report.variables] == ["pointwise/kernel"]
    _, report = magnitude(deep(), 0.5, policy="keep_first_last", skip="attention")
    assert [one.layer for one in report.variables] == ["separable", "pointwise", *2 * ["lstm/lstm_cell"]]
    assert {one.detail for one in report.skipped if one.layer in ("block/conv", "a", "b")} == {
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_training_that_ends_before_the_schedule_is_warned_of():
    pruned, _ = magnitude(mlp(), schedules.Polynomial(0.75, begin=1, end=100, frequency=1))
    pruned.compile("adam", LOSS)
    with pytest.warns(UserWarning, match=r"ends at a sparsity of 0\.\d+; .* leads to 0\.750"):
        pruned.fit(X, Y, batch_size=16, verbose=0)


@keras.saving.register_keras_serializable("kopt_tests")
class Branching(keras.Model):
    """A subclass with layers in a list, without names, and a kernel of its own."""

    def __init__(self, units=16, **settings):
        super().__init__(**settings)
        self.units = units
        self.hidden = L.Dense(units, activation="relu", kernel_constraint="non_neg")
        self.branches = [L.Dense(4), L.Dense(4)]
        self.norm = L.BatchNormalization()
        self.mix = self.add_weight(shape=(4, 4), initializer="glorot_uniform", name="mix_kernel")

    def call(self, inputs, training=None):
        x = self.hidden(inputs)
        return self.norm(self.branches[0](x) + self.branches[1](x) @ self.mix, training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def branching():
    keras.utils.set_random_seed(3)
    model = Branching(20, name="branching")
    model(X)
    return model


@pytest.mark.slow
@ENDS_EARLY
def test_a_subclassed_model_trains_saves_and_becomes_itself_again(tmp_path):
    model = branching()
    before = [value.copy() for value in model.get_weights()]
    pruned, report = magnitude(model, GRADUAL, sparsity_by_layer={model.branches[0].name: 0.5})
    assert isinstance(pruned, Branching)
    assert [one.shape for one in report.variables] == [(4, 4), (12, 20), (20, 4), (20, 4)]
    assert [one.layer for one in report.variables[1:]] == [layer.name for layer in (model.hidden, *model.branches)]
    np.testing.assert_array_equal(pruned(X), model(X))
    train(pruned, epochs=1)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert int(loaded.pruning.step.numpy()) == 4
    train(loaded, epochs=2)
    plain, after = finalize(loaded)
    assert type(plain) is Branching
    assert [one.sparsity for one in after.variables] == [0.75, 0.75, 0.5, 0.75]
    assert (plain.hidden.kernel.numpy() >= 0).all()
    np.testing.assert_array_equal(plain(X), loaded(X))
    assert len(plain.variables) == len(model.variables)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.slow
def test_two_subclasses_are_told_apart_in_files(tmp_path):
    @keras.saving.register_keras_serializable("kopt_tests")
    class Other(Branching):
        pass

    models = {"branching": branching(), "other": Other()}
    models["other"](X)
    for name, model in models.items():
        magnitude(model, 0.5)[0].save(tmp_path / f"{name}.keras")
    for name, model in models.items():
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert type(finalize(loaded)[0]) is type(model)


def test_a_model_of_tf_keras_becomes_one_of_keras_3():
    layers = [tf_keras.layers.Dense(6, activation="relu", name="a"), tf_keras.layers.Dense(4, name="b")]
    model = tf_keras.Sequential([tf_keras.Input((12,)), *layers])
    pruned, report = magnitude(model, 0.5)
    assert isinstance(pruned, keras.Sequential)
    assert [one.path for one in report.variables] == ["a/kernel", "b/kernel"]
    kernel = model.get_layer("a").kernel.numpy()
    kept = np.abs(kernel) > np.median(np.abs(kernel))
    np.testing.assert_array_equal(pruned.get_layer("a").kernel.numpy(), np.where(kept, kernel, 0))


def test_a_model_of_tf_keras_without_counterpart_is_refused():
    class Doubling(tf_keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,)), Doubling()], name="old")
    with pytest.raises(UnsupportedModelError, match=r"tf_keras model 'old' has no Keras 3 model .*'Doubling'"):
        magnitude(model, 0.5)


class Forgetful(keras.Model):
    """A subclass whose config does not say how wide it is."""

    def __init__(self, layer):
        super().__init__()
        self.dense = layer

    def call(self, inputs):
        return self.dense(inputs)


def nan():
    model = mlp()
    model.get_layer("hidden").kernel.assign(np.full((12, 16), np.nan))
    return model


def forgetful():
    model = Forgetful(L.Dense(4))
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
        (forgetful, {}, UnsupportedModelError, "'forgetful.*does not rebuild from its config"),
        (lambda: Branching(), {}, InputError, "never called"),
        (branching, {"backend": "tfmot"}, UnsupportedModelError, "`call` is Python code"),
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


def test_channels_of_all_outputs_stay():
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, name="conv")(i)
    x = L.GlobalAveragePooling2D()(L.Conv2DTranspose(6, 3, name="up")(x))
    model = keras.Model(i, [L.Dense(10, name="species")(x), L.Dense(4, name="sex")(x)])
    pruned, report = magnitude(model, 0.5, granularity="channel")
    assert [(one.layer, one.detail) for one in report.skipped] == [
        (name, "its channels are those of the output") for name in ("species", "sex")
    ]
    up = np.abs(pruned.get_layer("up").kernel.numpy()).sum((0, 1))  # outputs x inputs
    assert (up.sum(1) == 0).sum() == 3
    assert (up.sum(0) > 0).all()


def test_the_first_and_the_last_layers_of_several_inputs_and_outputs_stay_dense():
    one, other = keras.Input((4,)), keras.Input((5,))
    x = L.Concatenate()([L.Dense(8, name="one")(one), L.Dense(8, name="other")(other)])
    x = L.Dense(8, name="middle")(x)
    model = keras.Model([one, other], [L.Dense(2, name="left")(x), L.Dense(3, name="right")(x)])
    report = magnitude(model, 0.5, policy="keep_first_last")[1]
    assert [variable.layer for variable in report.variables] == ["middle"]


def test_groups_of_n_m_lie_along_the_inputs_and_layers_that_they_do_not_fit_are_listed():
    i = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, name="one_channel")(i)
    x = L.GlobalAveragePooling2D()(L.Conv2DTranspose(6, 3, name="up")(x))
    model = keras.Model(i, L.Dense(4, name="rest")(x))
    pruned, report = magnitude(model, 0.5, granularity="n:m")
    assert [(one.layer, one.detail) for one in report.skipped] == [
        ("one_channel", "it has 1 input channel(s), and 2 of 4 are kept")
    ]
    assert {one.layer: round(one.sparsity, 3) for one in report.variables} == {"up": 0.5, "rest": 0.333}
    up = pruned.get_layer("up").kernel.numpy()  # inputs last
    np.testing.assert_array_equal((up.reshape(-1, 2, 4) != 0).sum(2), 2)
    assert "no multiple of 4 in rest" in report.notes[0]
    with pytest.raises(ConfigError, match="1 input channel"):
        magnitude(model, 0.5, granularity="n:m", layers=["one_channel"])


@ENDS_EARLY
def test_steps_are_updates_where_keras_accumulates_gradients():
    schedule = schedules.Polynomial(0.8, begin=1, end=8, frequency=1)
    pruned, _ = magnitude(mlp(), schedule)
    pruned.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=4), LOSS)
    pruned.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)  # 16 batches, 4 updates
    assert int(pruned.pruning.step.numpy()) == 4
    alike, _ = magnitude(mlp(), schedule)
    alike.compile(keras.optimizers.SGD(0.01), LOSS)
    alike.fit(X, Y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    assert zeros(pruned) == zeros(alike)
    for ours, theirs in zip(pruned.get_weights(), alike.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@keras.saving.register_keras_serializable("test_prune_magnitude")
class OwnStep(keras.Model):
    steps = 0

    def train_step(self, data):
        OwnStep.steps += 1
        return super().train_step(data)


def own_step():
    keras.utils.set_random_seed(0)
    i = keras.Input((12,))
    return OwnStep(i, L.Dense(4)(L.Dense(16, activation="relu", name="hidden")(i)))


def test_a_functional_model_keeps_its_own_train_step(tmp_path):
    pruned, _ = magnitude(own_step(), 0.5)
    train(pruned, run_eagerly=True)
    assert OwnStep.steps == 12
    pruned.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert zeros(loaded) == zeros(pruned)
    assert isinstance(loaded, OwnStep)
    np.testing.assert_array_equal(loaded(X), pruned(X))
    plain, _ = finalize(loaded)
    assert type(plain) is OwnStep
    np.testing.assert_array_equal(plain(X), pruned(X))


def test_penalties_refuse_what_their_copy_would_not_have():
    with pytest.raises(UnsupportedModelError, match="overrides `train_step`"):
        kopt.prune.group_lasso(own_step(), 1e-3)


@pytest.mark.parametrize(
    ("ratio", "settings"),
    [(0.001, {}), (0.1, {"granularity": "channel", "layers": ["out"]}), (0.001, {"scope": "global"})],
    ids=["weights", "channels", "together"],
)
def test_a_sparsity_of_less_than_half_a_unit_is_refused(ratio, settings):
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(3, name="out")])
    with pytest.raises(ConfigError, match=r"less than half a (weight|channel) of every kernel"):
        magnitude(model, ratio, **settings)


def test_a_training_that_ends_before_a_whole_unit_is_refused():
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(3, name="out")])
    pruned, _ = magnitude(model, schedules.Polynomial(0.5, begin=1, end=1000, frequency=1))
    pruned.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="prunes nothing in this training, which takes 2 steps"):
        pruned.fit(np.zeros((4, 4)), np.zeros((4, 3)), batch_size=2, verbose=0)


def test_a_ratio_of_its_own_names_a_depthwise_layer():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.DepthwiseConv2D(3, name="dw"),
            L.BatchNormalization(name="bn"),
            L.Conv2D(4, 3, name="c"),
        ]
    )
    _, report = magnitude(model, 0.8, sparsity_by_layer={"dw": 0.5})
    assert {one.layer: one.target for one in report.variables} == {"dw": 0.5, "c": 0.8}
    with pytest.raises(ConfigError, match="'bn' has no kernel to prune"):
        magnitude(model, 0.8, sparsity_by_layer={"dw": 0.5, "bn": 0.9})


def test_a_model_of_a_class_of_its_own_is_whole_after_finalize(tmp_path):
    @keras.saving.register_keras_serializable("kopt_prune_tests")
    class OwnStep(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    i = keras.Input((12,))
    pruned, _ = magnitude(OwnStep(i, L.Dense(3)(L.Dense(9)(i))), 0.5)
    first, _ = kopt.prune.finalize(pruned)
    pruned.save(tmp_path / "m.keras")
    second, _ = kopt.prune.finalize(pruned)
    x = np.ones((2, 12), "float32")
    np.testing.assert_array_equal(first(x), second(x))
    np.testing.assert_array_equal(kopt.load_model(tmp_path / "m.keras")(x), pruned(x))
