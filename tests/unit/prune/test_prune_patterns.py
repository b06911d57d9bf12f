import numpy as np
import pytest

from kopt.prune.weight_masks import patterns

WEIGHTS = np.array([[0.1, -0.9, 0.3, -0.2], [0.8, 0.05, -0.4, 0.7]], "float32")


def test_elements_are_ranked_by_magnitude():
    mask = patterns.element_mask(WEIGHTS, 0.5).numpy()
    assert mask.tolist() == [[False, True, False, False], [True, False, True, True]]


def test_half_weights_are_rounded_to_even_and_one_stays():
    # 8 (1 - 0.8125) = 1.5 rounds to 2, 8 (1 - 0.6875) = 2.5 to 2; and however sparse, one is left.
    for sparsity, kept in ((0.8125, 2), (0.6875, 2), (0.999, 1)):
        assert patterns.element_mask(WEIGHTS, np.float32(sparsity)).numpy().sum() == kept


def test_weights_of_equal_magnitude_stay_together():
    assert patterns.element_mask(np.array([0.5, -0.5, 0.5, 0.1], "float32"), 0.75).numpy().sum() == 3


@pytest.mark.parametrize(("pooling", "expected"), [("AVG", [[1, 0], [0, 1]]), ("MAX", [[1, 0], [1, 0]])])
def test_blocks_are_ranked_as_a_whole(pooling, expected):
    # Means 0.5, 0.35 | 0.35, 0.6; largest 0.9, 0.4 | 0.7, 0.6.
    weights = np.array([[0.9, 0.1, 0.3, 0.4], [0.0, 0.7, 0.6, -0.6]], "float32")
    mask = patterns.block_mask(weights, 0.5, (1, 2), pooling).numpy()
    assert mask.astype(int).tolist() == np.repeat(expected, 2, axis=1).tolist()


def test_blocks_of_a_convolution_lie_in_its_matrix_of_inputs_times_outputs():
    weights = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")
    mask = patterns.block_mask(weights, 0.5, (4, 3), "AVG").numpy().reshape(9, 4, 2, 3)
    whole = mask.all(axis=(1, 3))
    assert (whole == mask.any(axis=(1, 3))).all()
    means = np.abs(weights.reshape(9, 4, 2, 3)).mean(axis=(1, 3))
    assert (whole == (means >= np.median(means))).all()


def test_n_of_m_are_kept_along_the_inputs():
    weights = np.array([[1, 9], [2, 8], [3, 7], [4, 6], [5, 1]], "float32")  # 5 inputs, 2 outputs
    mask = patterns.n_m_mask(weights, 2, 4).numpy()
    # The fifth input begins a group of one, which is kept.
    assert mask.astype(int).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("shape", [(8, 5), (3, 8, 5), (3, 3, 8, 5), (2, 3, 3, 8, 5)])
def test_n_of_m_of_any_convolution(shape):
    weights = np.random.default_rng(0).normal(size=shape).astype("float32")
    kept = patterns.n_m_mask(weights, 2, 4).numpy()
    groups = np.moveaxis(kept, -2, -1).reshape(-1, 4)
    assert (groups.sum(axis=1) == 2).all()
    magnitudes = np.moveaxis(np.abs(weights), -2, -1).reshape(-1, 4)
    assert (np.where(groups, magnitudes, np.inf).min(axis=1) > np.where(groups, 0, magnitudes).max(axis=1)).all()


def test_channels_are_ranked_by_their_norm():
    weights = np.ones((3, 3, 2, 4), "float32") * np.array([1.0, 4.0, 2.0, 3.0], "float32")
    mask = patterns.channel_mask(weights, 0.5, (3,)).numpy()
    assert mask.all(axis=(0, 1, 2)).tolist() == [False, True, False, True]
    assert mask.any(axis=(0, 1, 2)).tolist() == [False, True, False, True]


def test_all_weights_are_ranked_together_and_no_kernel_is_emptied():
    large, small = np.arange(10.0, 18.0, dtype="float32"), np.arange(1.0, 9.0, dtype="float32")
    first, second = patterns.global_masks([large, small], 0.5)
    assert first.numpy().all()
    assert second.numpy().tolist() == [False] * 7 + [True]
