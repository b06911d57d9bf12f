import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.profiles.gradients import GradientProfile, GradientThresholds
from kopt.profile.gradient_flow.profile import gradients
from kopt.train import accelerate

L = keras.layers
X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
Y = np.arange(96) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def stack(*layers, loss=LOSS, **settings):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), *layers], name="stack")
    if loss is not None:
        model.compile(keras.optimizers.SGD(0.1), loss, **settings)
    return model


def kinds(profile):
    return [verdict.kind for verdict in profile.verdicts]


def reference(model, batches):
    """Return the gradients of every batch by an eager tape, a list of arrays a batch."""
    found = []
    for x, y in batches:
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=False)) + sum(model.losses)
        found.append([np.asarray(one) for one in tape.gradient(loss, [v.value for v in model.trainable_variables])])
    return found


def test_numbers_are_those_of_numpy():
    model = stack(L.Dense(5, "tanh", kernel_regularizer="l2"), L.Dense(3))
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    found = gradients(model, (X, Y), batch_size=16, training=False)
    assert (found.batches, found.batch_examples, found.examples) == (6, 16, 96)
    per_batch = reference(model, batches)
    for place, one in enumerate(found.variables):
        stacked = np.stack([grads[place] for grads in per_batch]).reshape(6, -1).astype(np.float64)
        norms, weight = np.linalg.norm(stacked, axis=1), np.linalg.norm(model.trainable_variables[place])
        deviation = ((stacked - stacked.mean(0)) ** 2).sum()
        assert one.norm == pytest.approx(norms.mean(), rel=1e-5)
        assert one.rms == pytest.approx(np.sqrt((stacked**2).mean()), rel=1e-5)
        assert one.mean == pytest.approx(stacked.mean(), abs=1e-7)
        assert one.variance == pytest.approx(stacked.var(axis=0, ddof=1).mean(), rel=1e-4)
        assert one.weight_norm == pytest.approx(weight, rel=1e-5)
        pairs = [stacked[i] @ stacked[j] for i in range(6) for j in range(6) if i != j]
        assert one.cosine == pytest.approx(np.mean(pairs) / (norms**2).mean(), abs=1e-4)
        squared = (stacked.mean(0) ** 2).sum() - deviation / 5 / 6
        expected = pytest.approx(16 * deviation / 5 / squared, rel=1e-3) if squared > 0 else None
        assert one.noise_scale == expected
    everything = np.stack([np.concatenate([g.ravel() for g in grads]) for grads in per_batch])
    assert found.norm == pytest.approx(np.linalg.norm(everything, axis=1).mean(), rel=1e-5)
    assert found.loss == pytest.approx(np.mean([LOSS(y, model(x)) + sum(model.losses) for x, y in batches]), rel=1e-5)


def test_noise_scale_of_a_known_problem():
    # y = w x with w = 0, x = 1: the gradient of one example is -2 y, so G = -2 mean(y) and the variance is 4 var(y).
    targets = np.random.default_rng(1).normal(1.0, 3.0, size=(4000, 1)).astype("float32")
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    found = gradients(model, (np.ones((4000, 1), "float32"), targets), batches=200, batch_size=20)
    assert found.noise_scale == pytest.approx(9.0, rel=0.25)  # var / mean^2; 200 batches tell it to some 15 %
    assert found.variables[0].ratio is None


@pytest.mark.slow
def test_twenty_sigmoid_layers_vanish():
    found = gradients(stack(*[L.Dense(8, "sigmoid") for _ in range(20)], L.Dense(3)), (X, Y))
    vanished = [verdict.where for verdict in found.verdicts if verdict.kind == "vanishing"]
    kernels = [one.path for one in found.variables if len(one.shape) == 2]
    assert vanished == kernels[: len(vanished)]  # those nearest the input
    assert len(vanished) > 10
    assert "ReLU or GELU" in found.verdicts[0].words
    assert found.variables[0].rms < 1e-6 < found.variables[-2].rms


def test_biases_of_attention_do_not_vanish():
    inputs = keras.Input((6, 8))
    attended = L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, L.Dense(3, "softmax")(L.GlobalAveragePooling1D()(attended)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    random = np.random.default_rng(0)
    found = gradients(model, (random.normal(size=(64, 6, 8)).astype("float32"), random.integers(0, 3, 64)))
    [keys] = [one for one in found.variables if one.path == "attention/key/bias"]
    assert keys.rms < 1e-6  # Softmax does not see what is added to all keys.
    assert [verdict for verdict in found.verdicts if verdict.where == keys.path and verdict.kind == "vanishing"] == []


def test_large_weights_explode():
    large = keras.initializers.RandomNormal(stddev=5.0, seed=1)
    layers = [L.Dense(16, kernel_initializer=large) for _ in range(8)]
    found = gradients(stack(*layers, L.Dense(3)), (X, Y))
    assert set(kinds(found)) == {"exploding"}
    assert found.verdicts[0].value > found.thresholds.exploding
    assert "global_clip_norm" in found.verdicts[0].words


def test_dead_units_and_what_is_before_them():
    dead = L.Dense(8, "relu", name="dead", bias_initializer=keras.initializers.Constant(-100.0))
    found = gradients(stack(L.Dense(8, name="first"), dead, L.Dense(3)), (X, Y))
    [activation] = found.activations
    assert (activation.layer, activation.activation, activation.units) == ("dead", "relu", 8)
    assert (activation.dead_units, activation.zero_fraction) == (8, 1.0)
    assert [one.where for one in found.verdicts if one.kind == "zero gradient"][:2] == ["first/kernel", "first/bias"]
    assert [one.where for one in found.verdicts if one.kind == "dead units"] == ["dead"]


def test_half_dead_units_are_counted_over_all_batches():
    # Unit 0 lives only for positive inputs, unit 1 only for negative ones, unit 2 never.
    dense = L.Dense(3, "relu", name="units")
    model = keras.Sequential([keras.Input((1,)), dense, L.Dense(1)])
    dense.set_weights([np.array([[1.0, -1.0, 0.0]]), np.array([0.0, 0.0, -1.0])])
    model.compile("sgd", "mse")
    x = np.concatenate([np.ones(8), -np.ones(8)])[:, None].astype("float32")
    found = gradients(model, (x, x), batch_size=8)
    assert found.activations[0].dead_units == 1
    assert found.activations[0].zero_fraction == pytest.approx(2 / 3)
    assert [verdict.kind for verdict in found.verdicts] == ["dead units"]


def test_saturated_sigmoids_and_tanhs():
    wide = keras.initializers.RandomNormal(stddev=50.0, seed=1)
    saturated = L.Dense(8, "tanh", name="tanh", kernel_initializer=wide)
    found = gradients(stack(saturated, L.Dense(4), L.Activation("sigmoid", name="fine"), L.Dense(3)), (X, Y))
    by_layer = {one.layer: one for one in found.activations}
    assert by_layer["tanh"].saturated_fraction > 0.9
    assert by_layer["fine"].saturated_fraction < 0.5
    assert by_layer["fine"].dead_units is None
    assert [one.where for one in found.verdicts if one.kind == "saturated"] == ["tanh"]


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_an_answer_that_is_sure_is_not_saturated(kind):
    class Inside(keras.Model):
        def __init__(self):
            super().__init__()
            self.sure = L.Dense(1, "sigmoid", name="sure")

        def call(self, x):
            return self.sure(x)

    sure = L.Dense(1, "sigmoid", name="sure")
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, "sigmoid", name="hidden"), sure])
    if kind == "subclassed":
        model = Inside()
        model(X[:1])
        sure = model.sure
    sure.set_weights([np.full((sure.kernel.shape[0], 1), 100.0), np.array([200.0])])
    model.compile("sgd", "binary_crossentropy")
    found = gradients(model, (X, (Y > 0).astype("float32")))
    assert [one.saturated_fraction is None for one in found.activations if one.layer == "sure"] == [True]
    assert not [one for one in found.verdicts if one.kind == "saturated"]


def test_operations_of_a_graph_and_relu6():
    inputs = keras.Input((6,))
    hidden = keras.ops.relu(L.Dense(4)(inputs))
    hidden = L.ReLU(max_value=6.0, name="six")(L.Dense(4)(hidden))
    model = keras.Model(inputs, L.Dense(3)(L.LeakyReLU()(hidden)))
    model.compile("sgd", LOSS)
    found = gradients(model, (X, Y))
    assert [one.activation for one in found.activations] == ["relu", "relu6"]
    assert found.activations[1].saturated_fraction == 0.0


def test_frozen_unconnected_and_statistics():
    inputs = keras.Input((6,))
    still = L.BatchNormalization(name="still", trainable=False)(inputs)
    outputs = L.Dense(3)(L.BatchNormalization(name="norm")(L.Dense(4, name="frozen", trainable=False)(still)))
    unused = L.Dense(2, name="unused")(inputs)
    model = keras.Model(inputs, [outputs, unused])
    model.compile("sgd", [LOSS, None])
    found = gradients(model, (X, (Y, Y)))
    by_kind = {kind: [v.where for v in found.verdicts if v.kind == kind] for kind in kinds(found)}
    assert by_kind["frozen"] == ["still/gamma", "still/beta", "frozen/kernel", "frozen/bias"]
    assert by_kind["not connected"] == ["unused/kernel", "unused/bias"]
    assert [one.path for one in found.variables if one.layer == "norm"] == ["norm/gamma", "norm/beta"]


def test_a_healthy_network_gets_no_verdict():
    layers = [L.Dense(16, "relu", kernel_initializer="he_normal"), L.Dense(16, "relu", kernel_initializer="he_normal")]
    assert gradients(stack(*layers, L.Dense(3)), (X, Y)).verdicts == ()


@pytest.mark.slow
def test_the_model_comes_out_as_it_went_in():
    model = stack(L.Dense(8, "relu"), L.BatchNormalization(), L.Dropout(0.5), L.Dense(3), metrics=["accuracy"])
    model.fit(X[:32], Y[:32], verbose=0)
    before = [np.array(v) for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    gradients(model, (X, Y), batches=3)
    after = [np.array(v) for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropout_draws_anew_for_every_batch():
    batch = (np.repeat(X[:1], 96, 0), np.zeros(96, int))
    model = stack(L.Dropout(0.5), L.Dense(3))
    assert gradients(model, batch, batch_size=8).variables[0].variance > 0
    assert gradients(model, batch, batch_size=8, training=False).variables[0].variance == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_embeddings_recurrent_and_subclassed_models():
    class Reader(keras.Model):
        def __init__(self):
            super().__init__(name="reader")
            self.embed, self.read = L.Embedding(20, 4, name="embedding"), L.LSTM(5, name="lstm")
            self.head = L.Dense(3, "relu", name="head")

        def call(self, tokens):
            return self.head(self.read(self.embed(tokens)))

    tokens = np.random.default_rng(2).integers(0, 10, size=(32, 7))
    model = Reader()
    model(tokens[:2])
    found = gradients(model, (tokens, Y[:32]), loss=LOSS, batch_size=8)
    by_path = {one.path: one for one in found.variables}
    assert by_path["embedding/embeddings"].zero_fraction >= 0.5  # half of the words never occur
    assert by_path["lstm/lstm_cell/recurrent_kernel"].norm > 0
    assert [one.layer for one in found.activations] == ["head"]


def test_float16_gradients_are_scaled_so_that_small_ones_remain():
    keras.utils.set_random_seed(1)
    layers = [L.Dense(8, dtype="mixed_float16"), L.Dense(3, dtype="float32")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), LOSS)
    twin = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(3)])
    twin.set_weights(model.get_weights())
    found = gradients(model, (X, Y), training=False)
    expected = gradients(twin, (X, Y), loss=LOSS, training=False)
    for one, other in zip(found.variables, expected.variables, strict=True):
        assert one.norm == pytest.approx(other.norm, rel=2e-2)


def test_batches_of_a_data_set_of_which_the_last_is_left_out():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(40)
    model = stack(L.Dense(3))
    found = gradients(model, data)
    assert (found.batches, found.batch_examples) == (2, 40)
    assert found.notes[0] == "1 batch(es) of another size than 40 were left out."
    assert gradients(accelerate(model), data).norm == found.norm


def test_one_trace_serves_all_batches():
    traces = []

    @keras.saving.register_keras_serializable("gradient_tests")
    def counted(y, p):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)

    gradients(stack(L.Dense(3), loss=None), (X, Y), batch_size=8, loss=counted)
    assert len(traces) == 1


@pytest.mark.slow
def test_the_record_travels_and_can_be_shown(tmp_path):
    found = gradients(stack(*[L.Dense(8, "sigmoid") for _ in range(12)], L.Dense(3)), (X, Y), batches=3)
    record = GradientProfile.from_json(found.to_json())
    assert record.variables == found.variables
    assert record.verdicts == found.verdicts
    table = found.table()
    assert max(map(len, table.splitlines())) <= 80
    assert "6 more variables" in table
    assert "vanishing: dense" in table.replace("\n", " ")
    assert len(found.table(rows=None, sort="norm").splitlines()) > len(table.splitlines())
    for ending in ("svg", "png"):
        assert found.plot(tmp_path / f"flow.{ending}").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"Unknown `sort` 'noisy'\. Did you mean 'noise'"):
        found.table(sort="noisy")
    with pytest.raises(ConfigError, match="`rows` must be a whole number of at least 1"):
        found.table(rows=0)


@pytest.mark.slow
def test_what_cannot_be_profiled():
    with pytest.raises(ConfigError, match="There is no loss"):
        gradients(stack(L.Dense(3), loss=None), (X, Y))
    silent = stack(L.Dense(3), loss=None)
    silent.compile("adam")
    with pytest.raises(ConfigError, match="was compiled without a loss, and its layers add none"):
        gradients(silent, (X, Y))
    with pytest.raises(InputError, match="build"):
        gradients(keras.Sequential([L.Dense(3)]), (X, Y), loss="mse")
    with pytest.raises(DataError, match="at least 2 of one size are needed"):
        gradients(stack(L.Dense(3)), (X, Y), batch_size=96)
    with pytest.raises(DataError, match="as many examples"):
        gradients(stack(L.Dense(3)), (X, Y[:-1]))
    with pytest.raises(DataError, match=r"needs float32 \(None, 6\)"):
        gradients(stack(L.Dense(3)), (X[:, :4], Y))
    with pytest.raises(ConfigError, match="`batches` must be"):
        gradients(stack(L.Dense(3)), (X, Y), batches=1)
    with pytest.raises(ConfigError, match="`vanishing` must be a positive number"):
        GradientThresholds(vanishing=0)
    frozen = stack(L.Dense(3))
    frozen.trainable = False
    with pytest.raises(UnsupportedModelError, match="no variables to train"):
        gradients(frozen, (X, Y))
    spoiled = X.copy()
    spoiled[40] = np.nan
    with pytest.raises(NonFiniteError, match=r"gradient of 'dense.*/kernel' is NaN or infinite in batch 1"):
        gradients(stack(L.Dense(3), L.Dense(3)), (spoiled, Y))
