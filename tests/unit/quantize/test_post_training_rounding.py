"""Learned rounding: its functions, a kernel whose best rounding is known, and blocks of several kernels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.records.changes.aware_training import RangeRule
from kopt.graph import GraphView
from kopt.quantize.after_training import learned_rounding
from kopt.quantize.after_training.bench import Bench
from kopt.quantize.after_training.blocks import blocks_of
from kopt.quantize.after_training.learned_rounding import Rounding
from kopt.quantize.copying import rounded_copy
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
RNG = np.random.default_rng(0)


def test_the_stretched_sigmoid_reaches_its_ends_and_is_undone():
    """sigmoid(0) = 0.5: 0.5 * 1.2 - 0.1 = 0.5. At -3: 0.0474 * 1.2 - 0.1 < 0."""
    found = learned_rounding.stretched_sigmoid(tf.constant([0.0, -3.0, 3.0]))
    np.testing.assert_allclose(found, [0.5, 0.0, 1.0], atol=1e-6)
    share = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(
        learned_rounding.stretched_sigmoid(learned_rounding.inverse_of_share(share)), share, atol=1e-6
    )


def test_only_shares_that_are_neither_cost():
    """1 - |2 * 0.5 - 1| ** 2 = 1 and 1 - 0.5 ** 2 = 0.75: with two ends the mean of four is 0.4375."""
    found = learned_rounding.undecided(tf.constant([0.0, 1.0, 0.5, 0.75]), tf.constant(2.0))
    assert float(found) == pytest.approx(0.4375)


def test_the_exponent_falls_after_the_warm_up():
    """Half of what comes after a fifth is at 0.6: the middle of 20 and 2."""
    assert [learned_rounding.beta_at(at) for at in (0.0, 0.2, 0.6, 1.0)] == pytest.approx([20, 20, 11, 2])


def layer_of(kernel, bits):
    layer = QuantizedWeights(keras.layers.Dense(kernel.shape[1]), bits=bits, name="dense")
    layer.build((None, kernel.shape[0]))
    layer.layer.kernel.assign(kernel)
    return layer


def rounded(kernel, inputs, bits=2, iterations=200):
    layer, before = layer_of(kernel, bits), Rounding(layer_of(kernel, bits))

    def compute(rows, kernels):
        return [tf.gather(inputs, rows) @ kernels["dense"]]

    moved = learned_rounding.learn([layer], compute, [inputs @ kernel], iterations)
    found = layer.layer.kernel.numpy()
    assert moved == (not np.array_equal(found, before.on_grid(np.rint(before.share))))
    return found


def test_two_weights_that_act_together_are_not_both_rounded_down():
    """Integers are -1, 0 and 1 of a step of 1. Both inputs are alike: 0.4 + 0.45 is nearer to 1 than to 0."""
    kernel = np.array([[0.4], [0.45], [1.0]], np.float32)
    x = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)
    found = rounded(kernel, np.concatenate([x, x, 0 * x], axis=1))
    np.testing.assert_allclose(sorted(found[:2, 0]), [0.0, 1.0])
    assert found[2] == 1.0


def test_zeros_and_the_largest_weights_stay_and_others_move_by_one_step_at_most():
    generator = np.random.default_rng(1)
    kernel = generator.normal(size=(16, 8)).astype(np.float32)
    kernel[generator.random(kernel.shape) < 0.5] = 0.0
    found = rounded(kernel, generator.normal(size=(64, 16)).astype(np.float32), bits=4, iterations=50)
    steps = np.abs(kernel).max(axis=0) / 7
    assert np.abs(found - kernel).max(axis=0) == pytest.approx(np.minimum(steps, np.abs(found - kernel).max(axis=0)))
    assert not found[kernel == 0].any()
    np.testing.assert_allclose(np.abs(found).max(axis=0), np.abs(kernel).max(axis=0), rtol=1e-6)


def test_four_bits_give_the_output_back_better_than_the_nearest_rounding():
    generator = np.random.default_rng(2)
    kernel = generator.normal(size=(32, 8)).astype(np.float32)
    x = (generator.normal(size=(256, 4)) @ generator.normal(size=(4, 32))).astype(np.float32)
    steps = np.abs(kernel).max(axis=0) / 7
    nearest = np.rint(kernel / steps) * steps
    found = rounded(kernel, x[:192], bits=4, iterations=500)
    new = x[192:]
    errors = [np.square(new @ one - new @ kernel).mean() for one in (found, nearest)]
    assert errors[0] < 0.5 * errors[1]


def residual(bits=4):
    """A copy of a residual net with kernels of so many bits on its bench; and the net."""
    keras.utils.set_random_seed(0)
    i = keras.Input((12,), name="x")
    x = L.Dense(24, "relu", name="stem")(i)
    for number in range(2):
        inner = L.Dense(24, "relu", name=f"first_{number}")(x)
        x = L.ReLU(name=f"sum_{number}")(L.Add()([x, L.Dense(24, name=f"second_{number}")(inner)]))
    model = keras.Model(i, L.Dense(6, name="logits")(x), name="net")
    given = {layer.name: bits for layer in model.layers if isinstance(layer, L.Dense)}
    copy, _ = rounded_copy(model, "int8", RangeRule(), (), fold=True, bits=given)
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(256, 4)) @ generator.normal(size=(4, 12))).astype(np.float32)
    return Bench(copy, [x[:192]], [x[192:]], {}), model


def test_blocks_meet_in_one_tensor_and_part_no_kernel():
    bench, _ = residual()
    blocks = blocks_of(bench.view)
    assert [one for block in blocks for one in block.calls] == list(bench.view.calls)
    kernels = [[layer.name for layer in block.layers] for block in blocks]
    # The stem alone is too little, and a residual sum takes both branches along. The output has the name `logits`.
    assert kernels == [["stem", "first_0", "second_0"], ["first_1", "second_1"], ["logits_2"]]
    assert all(len(block.outputs) == 1 for block in blocks)


def test_a_kernel_of_several_blocks_makes_them_one():
    i = keras.Input((8,), name="x")
    shared = L.Dense(8, "relu", name="shared")
    x = shared(L.Dense(8, "relu", name="first")(i))
    x = shared(L.Dense(8, "relu", name="second")(x))
    model = keras.Model(i, L.Dense(3, name="logits")(x))
    copy, _ = rounded_copy(model, "int8", RangeRule(), (), fold=True)
    kernels = [[layer.name for layer in block.layers] for block in blocks_of(GraphView.of(copy))]
    assert kernels == [["first", "shared", "second"], ["logits_2"]]


@pytest.mark.slow
def test_layers_and_blocks_give_the_output_back_better_than_the_nearest_rounding():
    errors = {}
    ways = {"nearest": None, "layers": learned_rounding.learn_rounding, "blocks": learned_rounding.reconstruct}
    for name, how in ways.items():
        bench, _ = residual()
        if how is not None:
            assert how(bench, 400).layers >= 4
        errors[name] = bench.error()
    assert errors["layers"] < 0.8 * errors["nearest"]
    assert errors["blocks"] < 0.8 * errors["nearest"]


def test_a_layer_that_is_called_again_is_visited_once():
    i = keras.Input((4, 6), name="x")
    model = keras.Model(i, L.ReLU()(L.Dense(3, name="hidden")(L.SimpleRNN(5, name="memory")(i))))
    copy, _ = rounded_copy(model, "int8", RangeRule(), (), fold=True)
    x = RNG.normal(size=(8, 4, 6)).astype(np.float32)
    visited = []
    Bench(copy, [x], [x], {}).layer_by_layer(lambda layer, *_: visited.append(layer.name))
    assert sorted(visited) == ["hidden", "memory_kernel", "memory_recurrent"]
