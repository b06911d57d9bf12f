import keras
import numpy as np
import pytest

from kopt.core.errors import ConfigError
from kopt.core.records.profiles.sensitivity import PERTURBATIONS, Perturbation
from kopt.profile.layer_sensitivity.kernels import granularity_of, targets_of
from kopt.profile.layer_sensitivity.perturbations import Granularity, add_noise, fake_quantize, perturb, prune_smallest

L = keras.layers


def test_four_bits_round_to_sevenths_of_the_largest_weight_of_a_channel():
    # Column 0: max 0.7, so the step is 0.1: 0.34 -> 0.3, -0.26 -> -0.3. Column 1: max 14, step 2: 5 -> 4 (2.5 rounds to
    # the even 2), 3.1 -> 4.
    kernel = np.array([[0.7, 14.0], [0.34, 5.0], [-0.26, 3.1]], np.float32)
    expected = [[0.7, 14.0], [0.3, 4.0], [-0.3, 4.0]]
    np.testing.assert_allclose(fake_quantize(kernel, 4, Granularity((-1,))), expected, rtol=1e-6)


def test_one_scale_for_the_whole_kernel_loses_the_small_channel():
    kernel = np.array([[0.7, 14.0], [0.34, 5.0]], np.float32)
    # The step is 2 for all.
    np.testing.assert_array_equal(fake_quantize(kernel, 4, Granularity()), [[0.0, 14.0], [0.0, 4.0]])


def test_every_gate_has_a_scale_of_its_own():
    kernel = np.array([[7.0, 3.4, 0.7, 0.34]], np.float32)
    expected = [[7.0, 3.0, 0.7, 0.3]]
    np.testing.assert_allclose(fake_quantize(kernel, 4, Granularity(gates=2)), expected, rtol=1e-6)


def test_eight_bits_reach_from_minus_127_to_127():
    kernel = np.linspace(-1, 1, 1001, dtype=np.float32)[:, None]
    codes = fake_quantize(kernel, 8, Granularity((-1,))) * 127
    assert (codes.min(), codes.max()) == (-127, 127)
    assert len(np.unique(np.rint(codes))) == 255


def test_a_channel_of_zeros_stays_zero():
    np.testing.assert_array_equal(fake_quantize(np.zeros((3, 2), np.float32), 8, Granularity((-1,))), np.zeros((3, 2)))


def test_the_smallest_magnitudes_become_zero_and_the_first_of_equal_ones():
    kernel = np.array([[3.0, -1.0], [2.0, 1.0], [-4.0, 1.0]], np.float32)
    # round(0.3 * 6) = 2 of the three ones, in memory order.
    np.testing.assert_array_equal(prune_smallest(kernel, 0.3), [[3.0, 0.0], [2.0, 0.0], [-4.0, 1.0]])
    np.testing.assert_array_equal(kernel[0], [3.0, -1.0])


def test_noise_has_the_asked_size_relative_to_the_kernel_and_repeats():
    kernel = np.random.default_rng(0).normal(0, 0.05, (200, 300)).astype(np.float32)
    change = add_noise(kernel, 0.1, [3, 4]) - kernel
    # 60,000 draws: the relative deviation of a standard deviation is 1 / sqrt(2 * 60,000) = 0.3 %.
    assert np.linalg.norm(change) / np.linalg.norm(kernel) == pytest.approx(0.1, rel=0.015)
    np.testing.assert_array_equal(add_noise(kernel, 0.1, [3, 4]) - kernel, change)
    assert not np.array_equal(add_noise(kernel, 0.1, [3, 5]) - kernel, change)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbed_kernels_keep_dtype_and_shape(name):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float16)
    changed = perturb(kernel, Perturbation.of(name), Granularity((-1,)), [0])
    assert (changed.dtype, changed.shape) == (kernel.dtype, kernel.shape)
    assert not np.array_equal(changed, kernel)


@pytest.mark.parametrize("name", [*PERTURBATIONS, "int2", "pruned_12.5", "noise_150"])
def test_names_go_to_perturbations_and_back(name):
    assert Perturbation.of(name).name == name


@pytest.mark.parametrize("name", ["int1", "int99", "pruned_100", "pruned_0", "noise_0", "prune_50", "", 8, None])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="Unknown perturbation"):
        Perturbation.of(name)


def test_the_nearest_name_is_suggested():
    with pytest.raises(ConfigError, match="Did you mean 'pruned_50'"):
        Perturbation.of("prune_50")


@pytest.mark.parametrize(
    ("layer", "shape", "name", "axes"),
    [
        (L.Dense(3), (None, 4), "kernel", (-1,)),
        (L.Conv2D(3, 2), (None, 8, 8, 4), "kernel", (-1,)),
        (L.Conv2DTranspose(3, 2), (None, 8, 8, 4), "kernel", (-2,)),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (None, 8, 8, 4), "kernel", (-2, -1)),
        (L.SeparableConv1D(3, 2), (None, 8, 4), "depthwise_kernel", (-2, -1)),
        (L.SeparableConv1D(3, 2), (None, 8, 4), "pointwise_kernel", (-1,)),
        (L.EinsumDense("abc,cde->abde", (None, 2, 3)), (None, 4, 5), "kernel", (1, 2)),
        (L.EinsumDense("abde,dec->abc", (None, 6)), (None, 4, 2, 3), "kernel", (2,)),
        (L.Embedding(5, 3), (None, 4), "embeddings", ()),
    ],
)
def test_scales_belong_to_output_channels(layer, shape, name, axes):
    layer.build(shape)
    [variable] = [one for one in layer.variables if one.name == name]
    assert granularity_of(layer, variable) == Granularity(axes)


def test_kernels_are_told_from_biases_scales_and_statistics():
    inputs = keras.Input((6, 4))
    x = L.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = L.PReLU(name="prelu")(L.BatchNormalization(name="norm")(x))
    x = L.Bidirectional(L.GRU(3, name="gru"), name="both")(x)
    targets, skipped = targets_of(keras.Model(inputs, L.Dense(2, name="dense")(x)))
    found = {target.path: [kernel.path.rsplit("/", 1)[1] for kernel in target.kernels] for target in targets}
    # The biases of attention, of shape (2, 3), and of the GRU, of shape (2, 9), have two axes as well.
    attention = {f"attention/{part}": ["kernel"] for part in ("query", "key", "value", "attention_output")}
    cells = {f"both/{way}_gru/gru_cell": ["kernel", "recurrent_kernel"] for way in ("forward", "backward")}
    assert found == {**attention, **cells, "dense": ["kernel"]}
    assert list(skipped) == ["norm", "prelu"]
    assert "fold" in skipped["norm"]
    assert "alpha" in skipped["prelu"]


@pytest.mark.slow
def test_integer_weights_are_skipped_with_the_reason():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="small"), L.Dense(2, name="last")])
    model.layers[0].quantize("int8")
    targets, skipped = targets_of(model)
    assert [target.path for target in targets] == ["last"]
    assert "int8" in skipped["small"]
