import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.profile.layer_sensitivity import sensitivity
from kopt.profile.layer_sensitivity.estimates import GradientMoments, LayerDerivatives

L = keras.layers


@keras.saving.register_keras_serializable("kopt_tests")
class WithoutSecondDerivative(L.Layer):
    def call(self, inputs):
        # The gradient of this operation has none itself.
        return tf.nn.local_response_normalization(inputs[:, None, None, :])[:, 0, 0, :]


@pytest.fixture(scope="module")
def tiny():
    """A network with a smooth loss of 3 * 4 + 4 * 2 weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh", name="one"), L.Dense(2, name="two")])
    model.compile(loss="mse")
    random = np.random.default_rng(0)
    return model, random.normal(size=(64, 3)).astype(np.float32), random.normal(size=(64, 2)).astype(np.float32)


def exact(model, x, y):
    """Gradient, Hessian and gradients of single examples by the kernels, by full differentiation."""
    variables = [layer.kernel.value for layer in model.layers]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape(persistent=True) as inner:
            each = tf.reduce_mean((model(x) - y) ** 2, axis=1)
            loss = tf.reduce_mean(each)
        gradients = inner.gradient(loss, variables)
    hessians = [
        outer.jacobian(g, v).numpy().reshape(v.shape.num_elements(), -1)
        for g, v in zip(gradients, variables, strict=True)
    ]
    single = [inner.jacobian(each, v).numpy() for v in variables]
    return [gradient.numpy() for gradient in gradients], hessians, single


@pytest.mark.slow
def test_derivatives_are_those_of_full_differentiation(tiny):
    model, x, y = tiny
    profile = sensitivity(model, (x, y), perturbations=("noise_10", "pruned_50"), probes=200, estimate_examples=64)
    gradients, hessians, single = exact(model, x, y)
    for layer, gradient, hessian, each in zip(profile.layers, gradients, hessians, single, strict=True):
        kernel = model.get_layer(layer.layer).kernel.numpy()
        assert layer.gradient_weight == pytest.approx(np.abs(gradient * kernel).sum(), rel=1e-4)
        # Within four standard errors of a mean over 200 vectors.
        assert abs(layer.hessian_trace - np.trace(hessian)) < 4 * layer.hessian_trace_error
        assert layer.hessian_trace_error < 0.3 * abs(np.trace(hessian))
        # Four batches estimate a variance with a relative deviation of sqrt(2 / 3) an entry; the trace adds many up.
        assert layer.fisher_trace == pytest.approx((each**2).sum(axis=(1, 2)).mean(), rel=0.6)
        change = np.where(np.abs(kernel) < np.sort(np.abs(kernel), axis=None)[kernel.size // 2], -kernel, 0.0)
        effect = layer.effect("pruned_50")
        assert effect.squared_change == pytest.approx((change**2).sum(), rel=1e-5)
        assert effect.first_order == pytest.approx((gradient * change).sum(), rel=1e-4)
        expected = 0.5 * layer.hessian_trace / kernel.size * (change**2).sum()
        assert effect.second_order == pytest.approx(expected, rel=1e-5)


def test_one_vector_a_coordinate_gives_the_trace_exactly_where_the_hessian_is_diagonal():
    # L = mean((w . x)^2) with orthogonal inputs: H = 2 / n * sum(x x^T) is diagonal, and v . H v = trace(H) for all
    # signs v. Inputs 2 e1 and 3 e2: H = diag(4, 9).
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False, name="only")])
    model.compile(loss="mse")
    x, y = np.diag([2.0, 3.0]).astype(np.float32), np.zeros((2, 1), np.float32)
    profile = sensitivity(model, (x, y), perturbations=("pruned_50",), probes=3, estimate_examples=2)
    [layer] = profile.layers
    assert layer.hessian_trace == pytest.approx(13.0, rel=1e-6)
    assert layer.hessian_trace_error == pytest.approx(0.0, abs=1e-6)


def test_the_loss_of_a_quadratic_is_the_sum_of_both_orders_when_curvature_is_the_same_everywhere():
    # Inputs 2 e1 and 2 e2: H = 4 * 1. The Taylor series ends, and the mean curvature is the curvature.
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False, name="only")])
    model.compile(loss="mse")
    model.layers[0].kernel.assign([[0.3], [1.0]])
    x, y = np.diag([2.0, 2.0]).astype(np.float32), np.array([[1.0], [-1.0]], np.float32)
    names = ("pruned_50", "noise_10", "int2")
    profile = sensitivity(model, (x, y), perturbations=names, probes=1, estimate_examples=2)
    for effect in profile.layers[0].effects:
        assert effect.loss_change == pytest.approx(effect.first_order + effect.second_order, rel=1e-4)


def test_moments_of_batches_give_those_of_examples():
    random = np.random.default_rng(0)
    examples = random.normal(0.3, 2.0, (8 * 4000, 3)).astype(np.float32)
    moments = GradientMoments(8)
    for batch in examples.reshape(4000, 8, 3):
        moments.add([batch.mean(0)])
    np.testing.assert_allclose(moments.mean[0], examples.mean(0), rtol=1e-3, atol=1e-4)
    # E[g^2] = 4 + 0.09; the variance of 4,000 batch means is known to sqrt(2 / 4000) = 2 %.
    np.testing.assert_allclose(moments.mean_square[0], (examples**2).mean(0), rtol=0.08)


def test_the_mean_square_needs_two_batches():
    moments = GradientMoments(8)
    moments.add([np.ones(3, np.float32)])
    assert moments.mean_square is None


def test_orders_by_hand():
    derivatives = LayerDerivatives((np.array([1.0, -2.0]),), (np.array([3.0, 5.0]),), 8.0, 0.1, 0.0)
    change = [np.array([0.5, 0.25])]
    assert derivatives.first_order(change) == 0.5 - 0.5
    # 1 / 2 * 8 / 2 * (0.25 + 0.0625); 1 / 2 * (3 * 0.25 + 5 * 0.0625).
    assert derivatives.second_order(change) == pytest.approx(0.625)
    assert derivatives.fisher_order(change) == pytest.approx(0.53125)
    assert derivatives.fisher_trace == 8.0


@pytest.mark.slow
def test_an_embedding_has_the_gradients_of_its_rows():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), L.Embedding(4, 3, name="table"), L.Flatten(), L.Dense(1)]
    )
    model.compile(loss="mse")
    x, y = np.array([[0, 1], [1, 1], [3, 0], [0, 3]]), np.ones((4, 1), np.float32)
    profile = sensitivity(model, (x, y), perturbations=("pruned_50",), probes=2, estimate_examples=4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    table = model.get_layer("table").embeddings
    gradient = tf.convert_to_tensor(tape.gradient(loss, table.value)).numpy()
    assert profile.layer("table").gradient_weight == pytest.approx(np.abs(gradient * table.numpy()).sum(), rel=1e-4)
    assert profile.layer("table").hessian_trace > 0


def test_a_model_without_second_derivative_says_so_and_keeps_the_rest():
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), WithoutSecondDerivative(), L.Dense(1)])
    model.compile(loss="mse")
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    profile = sensitivity(model, (x, x[:, :1]), perturbations=("int4",), estimate_examples=32)
    assert any("No Hessian trace" in note for note in profile.notes)
    assert profile.layers[0].hessian_trace is None
    assert profile.layers[0].effects[0].first_order is not None


def test_few_examples_give_no_fisher_information_and_a_note(tiny):
    model, x, y = tiny
    profile = sensitivity(model, (x[:1], y[:1]), perturbations=("int4",), probes=0)
    assert profile.layers[0].fisher_trace is None
    assert any("No Fisher information" in note for note in profile.notes)


def test_no_estimates_are_made_when_none_are_asked_for(tiny):
    model, x, y = tiny
    profile = sensitivity(model, (x, y), perturbations=("int4",), estimate_examples=0)
    effect = profile.layers[0].effects[0]
    assert (effect.first_order, effect.second_order, effect.fisher) == (None, None, None)
    assert (profile.estimate_examples, profile.agreements) == (0, ())
