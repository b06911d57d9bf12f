"""Output channels, dead ones, and effective ranks against hand arithmetic and full decompositions."""

import keras
import numpy as np
import pytest

from kopt.profile.weights.channels import (
    as_matrix,
    channel_axes,
    channel_norms,
    channels_of,
    dead_channels,
    pieces,
)
from kopt.profile.weights.effective_rank import (
    ESTIMATE,
    effective_rank,
    estimated_rank,
    rank_from_singular_values,
    singular_values,
)

L = keras.layers


def rng(seed=0):
    return np.random.default_rng(seed)


AXES = {
    "dense": (L.Dense(4), "kernel", 2, (1,)),
    "convolution": (L.Conv2D(4, 3), "kernel", 4, (3,)),
    "depthwise": (L.DepthwiseConv2D(3), "kernel", 4, (2, 3)),
    "depthwise of separable": (L.SeparableConv2D(4, 3), "depthwise_kernel", 4, (2, 3)),
    "pointwise of separable": (L.SeparableConv2D(4, 3), "pointwise_kernel", 4, (3,)),
    "transposed": (L.Conv2DTranspose(4, 3), "kernel", 4, (2,)),
    "embedding": (L.Embedding(10, 4), "embeddings", 2, (0,)),
    "query of attention": (L.EinsumDense("abc,cde->abde", (None, 2, 3)), "kernel", 3, (1, 2)),
    "output of attention": (L.EinsumDense("abcd,cde->abe", (None, 4)), "kernel", 3, (2,)),
    "recurrent": (L.LSTMCell(4), "recurrent_kernel", 2, (1,)),
    "bias": (L.Dense(4), "bias", 1, None),
    "bias of two axes": (L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), "bias", 2, None),
    "normalization of two axes": (L.LayerNormalization(axis=(1, 2)), "gamma", 2, None),
}


@pytest.mark.parametrize(("layer", "name", "rank", "axes"), AXES.values(), ids=AXES)
def test_output_channels_stand_on_the_axes_of_the_layer_type(layer, name, rank, axes):
    assert channel_axes(layer, name, rank) == axes


def test_a_kernel_becomes_inputs_by_channels():
    kernel = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert np.array_equal(as_matrix(kernel, (2,)), kernel.reshape(6, 4))
    assert np.array_equal(as_matrix(kernel, (1, 2)), kernel.reshape(2, 12))
    assert np.array_equal(as_matrix(kernel, (0,)), kernel.reshape(2, 12).T)
    middle = as_matrix(kernel, (1,))
    assert middle.shape == (8, 3)
    assert np.array_equal(middle[:, 1], kernel[:, 1, :].reshape(-1))
    for axes in ((2,), (1, 2), (0,)):
        assert np.shares_memory(as_matrix(kernel, axes), kernel), axes


@pytest.mark.parametrize("transposed", [False, True])
def test_pieces_cover_a_matrix_larger_than_one(transposed):
    matrix = rng().standard_normal((3000, 200), dtype="float32")
    matrix = matrix.T if transposed else matrix
    seen = np.full(matrix.shape, np.nan)
    for rows, columns, piece in pieces(matrix):
        assert piece.dtype == np.float64
        seen[rows, columns] = piece
    assert np.array_equal(seen, matrix)
    assert channel_norms(matrix) == pytest.approx(np.linalg.norm(matrix.astype("float64"), axis=0))


def test_dead_channels_are_all_zero_or_far_below_the_median_of_the_others():
    matrix = np.array([[3.0, 0.0, 0.002, 6.0, 0.01], [4.0, 0.0, 0.0, 8.0, 0.0]])
    assert channel_norms(matrix) == pytest.approx([5, 0, 0.002, 10, 0.01])
    # The median of 5, 0.002, 10, 0.01 is (5 + 0.01) / 2 = 2.505: below 0.0025 is dead.
    assert list(dead_channels(channel_norms(matrix), 1e-3)) == [False, True, True, False, False]
    record = channels_of(matrix, (1,), 1e-3)
    assert (record.count, record.dead, record.dead_indices) == (5, 2, (1, 2))
    assert dead_channels(np.zeros(3), 1e-3).all()
    assert list(dead_channels(np.array([0.0, 1e-30]), 0.0)) == [True, False]


def test_nan_does_not_hide_a_dead_channel():
    assert channels_of(np.array([[np.nan, 0.0, 1.0], [2.0, 0.0, 1.0]]), (1,), 1e-3).dead_indices == (1,)


def test_effective_rank_by_hand():
    assert rank_from_singular_values(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    # Shares 3/4 and 1/4: exp(3/4 log 4/3 + 1/4 log 4) = (4/3)^(3/4) * 4^(1/4).
    assert rank_from_singular_values(np.array([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    assert rank_from_singular_values(np.zeros(3)) == 0


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (1, 7), (3000, 5)])
def test_singular_values_agree_with_a_decomposition(shape):
    matrix = rng().standard_normal(shape, dtype="float32")
    expected = np.linalg.svd(matrix.astype("float64"), compute_uv=False)
    assert np.sort(singular_values(matrix))[::-1] == pytest.approx(expected, rel=1e-6)


def test_a_matrix_of_rank_three_is_seen_as_one():
    matrix = np.zeros((30, 20), "float32")
    matrix[(0, 5, 9), (3, 4, 19)] = 7
    record = effective_rank(matrix, 20, rng())
    assert record.value == pytest.approx(3)
    assert (record.full, record.rows, record.columns, record.method, record.error) == (20, 30, 20, "exact", None)


@pytest.mark.slow
def test_an_estimate_is_within_its_error_of_the_exact_rank():
    matrix = rng().standard_normal((180, 120)).astype("float32")
    exact = rank_from_singular_values(singular_values(matrix))
    estimates = np.array([estimated_rank(matrix, rng(seed)) for seed in range(12)])
    # Of the t distribution with 7 degrees of freedom, 98 % lie within 3 errors.
    assert (np.abs(estimates[:, 0] - exact) <= 3 * estimates[:, 1]).sum() >= 11
    assert abs(estimates[:, 0].mean() - exact) < 0.01 * exact


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8", "float64"])
def test_an_estimate_takes_every_dtype_and_wide_matrices(dtype):
    matrix = (20 * rng().standard_normal((120, 180))).astype(dtype)
    exact = rank_from_singular_values(singular_values(matrix))
    record = effective_rank(matrix, 119, rng())
    assert record.method == ESTIMATE
    assert (record.full, record.rows, record.columns) == (120, 120, 180)
    assert abs(record.value - exact) <= 4 * record.error
    assert record.error < 0.05 * exact


def test_an_estimate_takes_matrices_whose_process_ends_early():
    assert estimated_rank(np.zeros((20, 10), "float32"), rng()) == (0.0, 0.0)
    value, error = estimated_rank(np.eye(30, dtype="float32"), rng())
    assert value == pytest.approx(30, rel=1e-5)  # Every vector gives the same quadrature.
    assert error == pytest.approx(0, abs=1e-4)
    tiny = 1e-20 * rng().standard_normal((40, 30)).astype("float32")
    assert estimated_rank(tiny, rng())[0] == pytest.approx(estimated_rank(1e20 * tiny, rng())[0], rel=1e-3)
