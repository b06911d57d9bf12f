"""Bits of weights: the integer program against all choices, the plan, training with it, the file that carries it."""

import itertools

import hard_networks
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from integer_arithmetic import quantized, scaled_twice

import kopt
from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.changes.bits import BitsPlan
from kopt.export.narrow_kernels import packed_nibbles
from kopt.quantize.mixed.allocation import allocate

L = keras.layers
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(10, 1000, 7)
    sizes = np.stack([weights, 2 * weights], axis=1)
    errors = np.sort(rng.random((7, 2)) * 10.0 ** rng.integers(-10, 0, (7, 1)), axis=1)[:, ::-1]
    budget = int(1.4 * weights.sum())
    best = min(
        (sum(errors[i, c] for i, c in enumerate(choice)), choice)
        for choice in itertools.product((0, 1), repeat=7)
        if sum(sizes[i, c] for i, c in enumerate(choice)) <= budget
    )
    found = allocate(errors, sizes, budget)
    assert sum(errors[i, c] for i, c in enumerate(found)) == pytest.approx(best[0])
    assert sum(sizes[i, c] for i, c in enumerate(found)) <= budget


def test_a_budget_below_four_bits_is_refused():
    with pytest.raises(ConfigError, match=r"take 30 bytes at least. Received a budget of 29"):
        allocate([[1.0, 0.5]] * 3, [[10, 20]] * 3, 29)


def test_two_weights_share_a_byte():
    assert packed_nibbles(np.array([-7, 7, 1], np.int8)).tolist() == [0x79, 0x01]


def dense(units=64):
    keras.utils.set_random_seed(0)
    i = keras.Input((32,), name="x")
    hidden = L.Dense(units, activation="relu", name="hidden")(i)
    return keras.Model(i, L.Dense(4, name="out")(hidden), name="dense")


@pytest.fixture(scope="module")
def planned():
    model, x = dense(), RNG.random((64, 32), np.float32)
    return model, x, kopt.quantize.bits(model, x, size=0.6)


def test_the_error_of_a_layer_is_what_rounding_its_kernel_by_hand_makes(planned):
    model, x, plan = planned
    exact = model.predict(x, verbose=0)
    for place, bits in enumerate((4, 8)):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        kernel, bias = copy.get_layer("hidden").get_weights()
        steps = np.abs(kernel).max(0) / (2 ** (bits - 1) - 1)
        copy.get_layer("hidden").set_weights([np.rint(kernel / steps) * steps, bias])
        noise = ((copy.predict(x, verbose=0) - exact) ** 2).sum() / (exact**2).sum()
        assert plan.layers[0].noise[place] == pytest.approx(noise, rel=2e-2)


def test_a_plan_holds_its_budget_and_goes_through_json(planned):
    """2,048 weights and 256: 60 % of 2,304 bytes are 1,382: 4 bits for the large layer and 8 for the small."""
    _, _, plan = planned
    assert (plan.budget_bytes, plan.size_bytes) == (1382, 1024 + 256)
    assert plan.bits == {"hidden": 4, "out": 8}
    assert plan.narrowest_db <= plan.output_db + 0.5 <= plan.widest_db
    assert BitsPlan.from_json(plan.to_json()).bits == plan.bits
    assert "1 of 2 layers get 4 bits: 1.25 KiB of kernels" in str(plan)
    assert "hidden" in plan.table()


def test_training_rounds_the_kernels_of_a_plan_to_its_bits(planned):
    model, _, plan = planned
    copy, report = kopt.quantize.aware(model, bits=plan)
    assert [(one.layer, one.bits) for one in report.kernels] == [("hidden", 4), ("out", 8)]
    kernel, _ = copy.get_layer("hidden").rounded_weights(None)
    assert max(np.unique(column).size for column in np.asarray(kernel).T) <= 15


@pytest.mark.slow
def test_bits_that_cannot_be_are_refused():
    model, x = dense(8), RNG.random((20, 32), np.float32)
    with pytest.raises(ConfigError, match=r"no layer is called so. Did you mean 'hidden'"):
        kopt.quantize.aware(model, bits={"hiden": 4})
    with pytest.raises(ConfigError, match=r"are 4 or 8. Received: hidden=3"):
        kopt.quantize.aware(model, bits={"hidden": 3})
    with pytest.raises(ConfigError, match=r"go with `scheme='int8'`"):
        kopt.quantize.aware(model, bits={"hidden": 4}, scheme="int16x8")
    with pytest.raises(ConfigError, match=r"'up' 4 bits, and its kernel is only of 8 bits"):
        kopt.quantize.aware(separable(), bits={"up": 4})
    with pytest.raises(ConfigError, match=r"bytes at least"):
        kopt.quantize.bits(model, x, size=0.4)
    with pytest.raises(UnsupportedModelError, match=r"quantization-aware already"):
        kopt.quantize.bits(kopt.quantize.aware(model)[0], x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain", "dense", "separable"])
def test_the_file_carries_four_bits_and_computes_what_training_computed(name, tmp_path):
    models = {"chain": hard_networks.chain, "dense": dense, "separable": separable}
    model = models[name]()
    x = RNG.random((64, *model.input.shape[1:]), np.float32)
    layers = [layer.name for layer in model.layers if layer.weights and layer.name != "up"]
    wide, narrow = (kopt.quantize.aware(model, bits=dict.fromkeys(layers, bits), calibration=x)[0] for bits in (8, 4))
    files = {
        bits: kopt.export.tflite(copy, tmp_path / f"{bits}.tflite", scheme="int8")
        for bits, copy in ((8, wide), (4, narrow))
    }
    stored = [one for one in files[4].quantization if one.dtype == "int4"]
    kernels = [layer for layer in narrow.layers if getattr(layer, "kernel_bits", 8) == 4]
    assert len(stored) == len(kernels) >= len(layers)
    weights = sum(int(np.prod(layer.layer.kernel.shape)) for layer in kernels)
    assert files[8].size_bytes - files[4].size_bytes == pytest.approx(weights / 2, abs=400)
    found, expected = kopt.measure.load(files[4].path).predict(x), narrow.predict(x, verbose=0)
    # Kernels of 4 bits are computed by LiteRT's own operators, not by XNNPACK, and these round otherwise; the file is
    # exact, see the next test.
    step = np.diff(np.unique(expected)).min()
    assert np.abs(found - expected).max() <= 3.01 * step


@pytest.mark.slow
def test_the_file_computes_a_convolution_of_four_bits_to_the_last_integer(tmp_path):
    """Against arithmetic in NumPy: weights from -7 to 7, biases of 32 bits, two roundings, as the reference kernels."""
    keras.utils.set_random_seed(1)
    i = keras.Input((4, 4, 16), name="x")
    layer = L.Conv2D(8, 1, bias_initializer="normal", name="conv")
    model = keras.Model(i, layer(i))
    x = RNG.normal(size=(64, 4, 4, 16)).astype("float32")
    copy, _ = kopt.quantize.aware(model, bits={"conv": 4}, calibration=x)
    artifact = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8", io_dtype="int8")
    taken, given = (one.grid for one in copy.layers if hasattr(one, "ranges"))
    kernel, bias = layer.get_weights()
    steps = np.abs(kernel).max((0, 1, 2)) / 7
    weights = np.rint(kernel[0, 0] / steps).astype(np.int64)
    accumulators = (quantized(x, taken) - taken.zero_point) @ weights + np.rint(bias / (taken.scale * steps))
    made = [scaled_twice(accumulators[..., n].astype(np.int64), taken.scale * steps[n] / given.scale) for n in range(8)]
    integers = np.clip(np.stack(made, -1) + given.zero_point, -128, 127)
    runner = Interpreter(artifact.path, experimental_op_resolver_type=OpResolverType.BUILTIN_REF).get_signature_runner()
    rows = quantized(x, taken).astype(np.int8)
    found = np.concatenate([next(iter(runner(x=rows[n : n + 1]).values())) for n in range(len(x))])
    np.testing.assert_array_equal(found, integers)


def separable():
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 4), name="x")
    hidden = L.SeparableConv2D(16, 3, activation="relu", name="separable")(i)
    hidden = L.Conv2DTranspose(8, 2, strides=2, name="up")(hidden)
    return keras.Model(i, L.Dense(3, name="out")(L.GlobalAveragePooling2D()(hidden)), name="separable_net")


def test_a_model_without_kernels_that_can_be_narrow_is_refused():
    model = keras.Sequential([keras.Input((4, 4, 2)), L.Conv2DTranspose(3, 3)])
    with pytest.raises(UnsupportedModelError, match=r"No kernel of model .* can have 4 bits"):
        kopt.quantize.bits(model, RNG.random((24, 4, 4, 2), np.float32), size=0.6)


@pytest.mark.slow
def test_an_argmax_is_judged_by_what_it_is_taken_of(planned):
    model, x, plan = planned
    chosen = keras.Model(model.input, keras.ops.argmax(model.output, axis=-1))
    assert kopt.quantize.bits(chosen, x, size=0.6).output_db == pytest.approx(plan.output_db)


@pytest.mark.slow
def test_four_bits_for_all_are_taken_where_their_errors_cancel_each_other():
    """The kernel of `b` is 0.9 of that of `a`: of the error of both in 4 bits a tenth is left, of that of one all."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8,), name="x")
    a, b = L.Dense(6, name="a"), L.Dense(6, name="b")
    model = keras.Model(i, L.Subtract()([a(i), b(i)]))
    b.kernel.assign(0.9 * a.kernel)
    plan = kopt.quantize.bits(model, RNG.normal(size=(40, 8)), size=0.75)
    assert plan.bits == {"a": 4, "b": 4}
    assert plan.output_db == plan.narrowest_db < plan.widest_db
    assert plan.size_bytes == 48 < plan.budget_bytes
