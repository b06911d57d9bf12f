import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, LoadError, NonFiniteError
from kopt.core.records.training.multipliers import LayerMultiplier, LayerMultipliers
from kopt.train.optimizers.gradient_variance import even_out, multipliers_from_gradient_variance
from kopt.train.optimizers.multipliers import LearningRateMultipliers, layer_multipliers, resolve

L = keras.layers
GRADIENTS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
START = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def variable(path):
    layer, name = path.split("/")
    with keras.name_scope(layer):
        return keras.Variable(START, name=name)


def train(optimizer, *, jit_compile=False):
    """Apply the same five gradients to the variables a/w and b/w; return both after every update."""
    variables = [variable("a/w"), variable("b/w")]
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(gradient):
        optimizer.apply([gradient, gradient], variables)

    history = []
    for gradient in GRADIENTS:
        step(gradient)
        history.append([v.numpy() for v in variables])
    return history


def numpy_sgd(rate, momentum, decay=0.0):
    w, v, history = START.astype(np.float64), 0.0, []
    for gradient in GRADIENTS:
        w = w - rate * decay * w
        v = momentum * v - rate * gradient
        w = w + v
        history.append(w)
    return history


def numpy_adam(rate, decay=0.0, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    w, m, v, history = START.astype(np.float64), 0.0, 0.0, []
    for t, gradient in enumerate(GRADIENTS.astype(np.float64), 1):
        w = w - rate * decay * w
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient**2
        w = w - rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
        history.append(w)
    return history


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sgd_with_momentum_takes_the_learning_rate_times_the_multiplier(jit_compile):
    optimizer = LearningRateMultipliers(keras.optimizers.SGD(0.1, momentum=0.9), {"b": 0.25})
    for found, a, b in zip(
        train(optimizer, jit_compile=jit_compile), numpy_sgd(0.1, 0.9), numpy_sgd(0.025, 0.9), strict=True
    ):
        np.testing.assert_allclose(found, [a, b], rtol=1e-5, atol=1e-6)


def test_adam_takes_steps_of_the_multiplied_size():
    # Adam divides the size of the gradient out: multiplying the gradient would leave the steps as they are.
    optimizer = LearningRateMultipliers(keras.optimizers.Adam(0.1), {"a": 10.0, "b": 0.1})
    for found, a, b in zip(train(optimizer), numpy_adam(1.0), numpy_adam(0.01), strict=True):
        np.testing.assert_allclose(found, [a, b], rtol=1e-4, atol=1e-5)


def test_weight_decay_uses_the_same_learning_rate():
    optimizer = LearningRateMultipliers(keras.optimizers.AdamW(0.1, weight_decay=0.5), {"b": 0.1})
    for found, a, b in zip(train(optimizer), numpy_adam(0.1, 0.5), numpy_adam(0.01, 0.5), strict=True):
        np.testing.assert_allclose(found, [a, b], rtol=1e-4, atol=1e-5)


def test_variables_excluded_from_weight_decay_stay_excluded():
    optimizer = LearningRateMultipliers(keras.optimizers.SGD(0.1, weight_decay=0.5), {"b": 0.1})
    optimizer.exclude_from_weight_decay(var_names=["w"])
    np.testing.assert_allclose(train(optimizer)[-1], [numpy_sgd(0.1, 0)[-1], numpy_sgd(0.01, 0)[-1]], rtol=1e-5)


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "AdamW": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1, clipnorm=0.5),
    "Nadam": lambda: keras.optimizers.Nadam(0.1, global_clipnorm=0.5),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "Lion": lambda: keras.optimizers.Lion(0.1, clipvalue=0.1),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.5, use_ema=True, ema_momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_is_the_optimizer_itself_and_zero_freezes_bit_for_bit(name):
    plain = train(OPTIMIZERS[name]())
    wrapped = LearningRateMultipliers(OPTIMIZERS[name](), {"b": 0.0})
    for found, expected in zip(train(wrapped), plain, strict=True):
        # Clipping by the global norm sees both gradients, frozen or not.
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], START)
    assert int(wrapped.iterations) == 5


def test_gradient_accumulation_and_ema_of_the_inner_optimizer():
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=5, use_ema=True, ema_momentum=0.5)
    optimizer = LearningRateMultipliers(inner, {"b": 0.5})
    history = train(optimizer)
    np.testing.assert_array_equal(history[3], [START, START])
    mean = GRADIENTS.mean(0)
    np.testing.assert_allclose(history[4], [START - 0.1 * mean, START - 0.05 * mean], rtol=1e-5, atol=1e-6)
    variables = [variable("a/w"), variable("b/w")]
    optimizer = LearningRateMultipliers(keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5), {"b": 0.5})
    for gradient in GRADIENTS[:2]:
        optimizer.apply([gradient, gradient], variables)
    optimizer.finalize_variable_values(variables)
    # The first average is the first weight; then half old and half new.
    one, two = START - 0.5 * GRADIENTS[0], START - 0.5 * (GRADIENTS[0] + GRADIENTS[1])
    np.testing.assert_allclose(variables[1].numpy(), (one + two) / 2, rtol=1e-5, atol=1e-6)


def test_inside_loss_scaling_a_step_with_infinity_changes_nothing():
    optimizer = keras.optimizers.LossScaleOptimizer(
        LearningRateMultipliers(keras.optimizers.SGD(0.1), {"b": 0.5}), initial_scale=4.0
    )
    variables = [variable("a/w"), variable("b/w")]
    optimizer.apply([4 * GRADIENTS[0], 4 * GRADIENTS[0]], variables)
    expected = [START - 0.1 * GRADIENTS[0], START - 0.05 * GRADIENTS[0]]
    np.testing.assert_allclose([v.numpy() for v in variables], expected, rtol=1e-5, atol=1e-6)
    optimizer.apply([np.full_like(START, np.inf), GRADIENTS[0]], variables)
    np.testing.assert_allclose([v.numpy() for v in variables], expected, rtol=1e-5, atol=1e-6)
    assert int(optimizer.iterations) == 1


def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    y = L.BatchNormalization(name="norm")(L.Dense(3, name="stem_1")(x))
    block = keras.Sequential([keras.Input((3,)), L.Dense(3, name="inner")], name="block")
    return keras.Model(x, L.Dense(2, name="head")(block(y)), name="net")


def test_rules_by_name_pattern_and_expression():
    paths = ["net/stem_1/kernel", "net/stem_1/bias", "block/conv/kernel", "net/head/kernel"]
    assert resolve({"stem_1": 0.1}, paths) == (0.1, 0.1, 1.0, 1.0)
    assert resolve({"kernel": 0.5, "head": 2.0}, paths) == (0.5, 1.0, 0.5, 2.0)
    assert resolve({"stem_?": 0.0, "block/c*": 3.0}, paths) == (0.0, 0.0, 3.0, 1.0)
    assert resolve({"regex:(stem|head).*kernel$": 0.2}, paths) == (0.2, 1.0, 1.0, 0.2)
    assert resolve({"net/head/kernel": 5.0, "kernel": 0.5}, paths)[3] == 5.0, "the whole path counts before all"


def test_an_unknown_name_is_refused_with_the_nearest():
    optimizer = LearningRateMultipliers("sgd", {"haed": 0.1})
    with pytest.raises(ConfigError, match=r"'haed' in its path. Did you mean 'head'\?"):
        optimizer.build(model().trainable_variables)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LearningRateMultipliers("sgd", {"a": -1.0}),
            r"`multiplier of a` must be a finite number in \[0, inf\]",
        ),
        (lambda: LearningRateMultipliers("sgd", {L.Dense: 1.0}), "layer_multipliers"),
        (lambda: LearningRateMultipliers("sgd", {"regex:(": 1.0}), "no regular expression"),
        (lambda: LearningRateMultipliers(3, {}), r"Received: 3 \(builtins.int\)"),
        (
            lambda: LearningRateMultipliers(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), {}),
            "Loss scaling goes outside",
        ),
        pytest.param(
            lambda: LearningRateMultipliers(keras.optimizers.Muon(weight_decay=0.1), {}),
            "in its own way",
            marks=pytest.mark.skipif(
                "_apply_weight_decay" not in vars(keras.optimizers.Muon),
                reason="Keras 3.12 decays all optimizers alike",
            ),
        ),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_optimizer_is_wrapped_once():
    sgd = keras.optimizers.SGD()
    LearningRateMultipliers(sgd, {})
    with pytest.raises(ConfigError, match=r"wrapped already"):
        LearningRateMultipliers(sgd, {})


def test_wrappers_stack():
    optimizer = LearningRateMultipliers(LearningRateMultipliers(keras.optimizers.SGD(0.1), {"b": 0.5}), {"b": 0.5})
    np.testing.assert_allclose(train(optimizer)[-1], [numpy_sgd(0.1, 0)[-1], numpy_sgd(0.025, 0)[-1]], rtol=1e-5)


def test_multipliers_by_type_name_and_function():
    net = model()
    rates = layer_multipliers(net, {L.Dense: 0.5, "head": 2.0, L.BatchNormalization: 0.0})
    by_layer = {row.variable.split("/")[-2]: (row.multiplier, row.layer_type) for row in rates.rows}
    assert by_layer == {
        "stem_1": (0.5, "Dense"),
        "norm": (0.0, "BatchNormalization"),
        "inner": (0.5, "Dense"),
        "head": (2.0, "Dense"),
    }
    rates = layer_multipliers(net, lambda layer: 3.0 if layer.name == "inner" else None)
    assert [row.multiplier for row in rates.rows] == [1, 1, 1, 1, 3, 3, 1, 1]
    optimizer = LearningRateMultipliers("sgd", rates)
    optimizer.build(net.trainable_variables)
    assert optimizer.multipliers == rates.by_variable
    assert LayerMultipliers.from_json(rates.to_json()) == rates


def test_bad_rules_for_a_model():
    net = model()
    with pytest.raises(ConfigError, match=r"in a Conv2D. Layers: BatchNormalization, Dense"):
        layer_multipliers(net, {L.Conv2D: 0.1})
    with pytest.raises(ConfigError, match=r"a name or a class of layer. Received: 3"):
        layer_multipliers(net, {3: 0.1})
    with pytest.raises(ConfigError, match=r"multiplier of layer 'stem_1'"):
        layer_multipliers(net, lambda layer: -1.0)
    with pytest.raises(ConfigError, match=r"Two variables have the path 'a/w'"):
        LayerMultipliers((LayerMultiplier("a/w", "Dense", 1.0), LayerMultiplier("a/w", "Dense", 2.0)))


@pytest.mark.slow
def test_saved_with_the_model_and_loaded_with_the_state(tmp_path):
    x, y = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)
    net = model()
    net.compile(LearningRateMultipliers(keras.optimizers.Adam(0.01), {"stem*": 0.0, "head": 2.0}), "mse")
    net.fit(x, y, verbose=0)
    net.save(tmp_path / "net.keras")
    twin = keras.models.load_model(tmp_path / "net.keras")
    assert twin.optimizer.get_config() == net.optimizer.get_config()
    for ours, theirs in zip(net.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before = twin.get_layer("stem_1").get_weights()
    for each in (net, twin):
        each.fit(x, y, epochs=2, verbose=0)
    for ours, theirs in zip(net.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(before, twin.get_layer("stem_1").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_sequential_model_with_rules_by_whole_path_can_be_loaded(tmp_path):
    x, y = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="stem"), keras.layers.Dense(2, name="head")])
    net.compile(LearningRateMultipliers("sgd", layer_multipliers(net, {"head": 0.0})), "mse")
    net.fit(x, y, verbose=0)
    net.save(tmp_path / "net.keras")
    twin = keras.models.load_model(tmp_path / "net.keras")
    before = twin.get_layer("head").get_weights()
    twin.fit(x, y, verbose=0)
    for ours, theirs in zip(before, twin.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_state_of_another_optimizer_is_not_loaded():
    optimizer = LearningRateMultipliers("sgd", {})
    with pytest.raises(LoadError, match=r"has 2 variables of its own; the file has 1"):
        optimizer.load_own_variables({"0": np.zeros(())})


def test_the_learning_rate_is_that_of_the_inner_optimizer():
    optimizer = LearningRateMultipliers(keras.optimizers.SGD(0.5), {})
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == float(optimizer.inner_optimizer.learning_rate) == 0.25


def test_evened_out_variances():
    np.testing.assert_allclose(even_out(np.array([1.0, 4.0, 16.0, 0.0]), 0.5, (0.1, 10)), [2, 1, 0.5, 1])
    np.testing.assert_allclose(even_out(np.array([1.0, 4.0, 1e6]), 1.0, (0.1, 2.0)), [2.0, 1, 0.1])
    np.testing.assert_array_equal(even_out(np.zeros(2), 0.5, (0.1, 10)), [1, 1])


def test_gradient_variance_of_a_linear_model():
    x = keras.Input((2,))
    y = L.Dense(1, use_bias=False, name="b")(L.Dense(2, use_bias=False, name="a")(x))
    net = keras.Model(x, y)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 2)).astype("float32"), rng.normal(size=(4, 1)).astype("float32")) for _ in range(5)]
    before = net.get_weights()
    rates = multipliers_from_gradient_variance(net, batches, loss="mse", limits=(1e-3, 1e3))
    a, b = (weight.astype(np.float64) for weight in before)
    of_a, of_b = [], []
    for inputs, targets in batches:
        error = 2 * (inputs @ a @ b - targets) / 4
        of_a.append(inputs.T @ error @ b.T)
        of_b.append(a.T @ inputs.T @ error)
    variances = [np.var(of_a, axis=0, ddof=1).mean(), np.var(of_b, axis=0, ddof=1).mean()]
    np.testing.assert_allclose([row.gradient_variance for row in rates.rows], variances, rtol=1e-4)
    np.testing.assert_allclose(
        [row.multiplier for row in rates.rows], np.sqrt(np.median(variances) / variances), rtol=1e-4
    )
    for ours, theirs in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gradient_variance_refuses_what_it_cannot_measure():
    net = model()
    x, y = np.ones((2, 4), "float32"), np.ones((2, 2), "float32")
    with pytest.raises(ConfigError, match=r"There is no loss"):
        multipliers_from_gradient_variance(net, [(x, y)])
    with pytest.raises(DataError, match=r"at least two batches. Received: 1"):
        multipliers_from_gradient_variance(net, [(x, y)], loss="mse")
    with pytest.raises(DataError, match=r"need labels"):
        multipliers_from_gradient_variance(net, [x, x], loss="mse")
    with pytest.raises(NonFiniteError, match=r"is NaN or infinite in batch 1"):
        multipliers_from_gradient_variance(net, [(x, y), (x * np.nan, y)], loss=keras.losses.MeanSquaredError())
