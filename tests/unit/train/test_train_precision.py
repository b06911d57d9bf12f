"""Precision: the scoped policy, the choice by hardware, loss scaling, and another precision for an existing model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.training.hardware import GpuInfo, Hardware
from kopt.train import internals
from kopt.train.numerics.mixed_precision import to_precision
from kopt.train.numerics.precision import (
    choose_precision,
    needs_loss_scaling,
    precision,
    resolve_policy,
    scaled_optimizer,
)

L = keras.layers


def mlp(head_dtype="float32", hidden_dtype="float32"):
    x = keras.Input((4,), name="x")
    hidden = L.Dense(8, "relu", dtype=hidden_dtype, name="hidden")(x)
    return keras.Model(x, L.Dense(3, dtype=head_dtype, name="out")(hidden))


def reasons(report):
    return {action.layer: action.detail for action in report.skipped}


def round_to(array, dtype):
    return tf.cast(tf.cast(array, dtype), "float32").numpy()


# The scoped policy.


def test_the_policy_holds_inside_and_is_restored_after_an_error():
    def inside():
        with precision("mixed_bfloat16") as policy:
            assert policy.compute_dtype == "bfloat16"
            assert L.Dense(1).compute_dtype == "bfloat16"
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert keras.config.dtype_policy().name == "float32"
    assert L.Dense(1).compute_dtype == "float32"


def test_nested_scopes_restore_the_outer_one():
    with precision("mixed_float16"):
        with precision("float32"):
            assert keras.config.dtype_policy().name == "float32"
        assert keras.config.dtype_policy().name == "mixed_float16"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("mixed_bfloat_16", r"Unknown policy 'mixed_bfloat_16'\. Did you mean 'mixed_bfloat16'\? Accepted: float32"),
        ("float16", r"keeps the weights in float16, too.* Use 'mixed_float16'"),
        ("bfloat16", "Use 'mixed_bfloat16'"),
        (16, "Unknown policy 16"),
    ],
)
def test_an_unknown_policy_is_refused_before_anything_changes(policy, message):
    with pytest.raises(ConfigError, match=message), precision(policy):
        pytest.fail("the block must not run")
    with pytest.raises(ConfigError, match=message):
        to_precision(mlp(), policy)
    assert keras.config.dtype_policy().name == "float32"


def test_auto_is_what_the_hardware_says():
    assert resolve_policy("auto") == choose_precision().policy


# The choice by hardware.


def gpus(*capabilities):
    return tuple(GpuInfo(f"GPU {capability}", capability) for capability in capabilities)


@pytest.mark.parametrize(
    ("hardware", "policy", "device", "reason"),
    [
        (Hardware("c", tpus=8, gpus=gpus((8, 0))), "mixed_bfloat16", "TPU, 8 cores", "matrix units"),
        (Hardware("c", gpus=gpus((9, 0))), "mixed_bfloat16", "GPU (9, 0)", "compute capability 9.0"),
        (Hardware("c", gpus=gpus((8, 0))), "mixed_bfloat16", "GPU (8, 0)", "compute capability 8.0"),
        (Hardware("c", gpus=gpus((7, 5))), "mixed_float16", "GPU (7, 5)", "the loss is scaled"),
        (Hardware("c", gpus=gpus((6, 1))), "float32", "GPU (6, 1)", "came with 7.0"),
        (Hardware("c", gpus=gpus((9, 0), (7, 0))), "mixed_float16", "GPU (7, 0)", "7.0"),
        (Hardware("c", gpus=gpus((9, 0), None)), "float32", "GPU None", "not known"),
        (Hardware("EPYC", ("avx2", "avx512_bf16")), "mixed_bfloat16", "EPYC", "avx512_bf16"),
        (Hardware("Xeon", ("amx_bf16", "avx512_bf16")), "mixed_bfloat16", "Xeon", "amx_bf16"),
        (Hardware("old", ("avx2", "avx512f")), "float32", "old", "no instruction"),
        (Hardware("M3"), "float32", "M3", "no instruction"),
    ],
)
def test_the_rule(hardware, policy, device, reason):
    choice = choose_precision(hardware)
    assert (choice.policy, choice.device) == (policy, device)
    assert reason in choice.reason
    assert str(choice) == f"{policy} on {device}: {choice.reason}"
    assert Hardware.from_json(hardware.to_json()) == hardware


# Loss scaling.


def test_one_float16_layer_inside_a_nested_model_needs_loss_scaling():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, dtype="mixed_float16")], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, L.Dense(1)])
    assert needs_loss_scaling(outer)
    assert not needs_loss_scaling(mlp(hidden_dtype="mixed_bfloat16"))
    outer.compile("sgd", "mse")
    assert not isinstance(outer.optimizer, keras.optimizers.LossScaleOptimizer)  # why `scaled_optimizer` exists


def test_an_optimizer_is_wrapped_once_and_only_where_it_is_needed():
    half, single = mlp(hidden_dtype="mixed_float16"), mlp()
    sgd = keras.optimizers.SGD(0.5)
    assert scaled_optimizer(single, sgd) is sgd
    scaled = scaled_optimizer(half, sgd)
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    assert scaled.inner_optimizer is sgd
    assert scaled_optimizer(half, scaled) is scaled
    static = keras.optimizers.SGD(0.5, loss_scale_factor=128.0)
    assert scaled_optimizer(half, static) is static


def test_scaling_saves_gradients_that_float16_cannot_hold():
    # d/dw of mean((w * x)) * 1e-6 * 0.01 is 1e-8 for x = 1, below 2^-24, the smallest float16.
    x = keras.Input((1,))
    layer = L.Dense(1, use_bias=False, kernel_initializer="ones", dtype="mixed_float16")
    model = keras.Model(x, layer(x))

    def step(optimizer):
        with tf.GradientTape() as tape:
            loss = tf.cast(tf.reduce_mean(model(np.ones((1, 1), "float32"))) * 1e-4, "float32") * 1e-4
            loss = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return float(layer.kernel[0, 0])

    rate = 1e5
    assert step(keras.optimizers.SGD(rate)) == 1.0
    scaled = scaled_optimizer(model, keras.optimizers.SGD(rate))
    scaled.build(model.trainable_variables)
    # 1 - 1e5 * 1e-8 with float16's rounding of 1e-4 (2^-14 steps) twice.
    np.testing.assert_allclose(step(scaled), 1 - 1e-3, atol=2e-6)


# Another precision for an existing model.


def test_the_weights_are_the_same_variables_and_the_given_model_is_as_it_was():
    model = mlp()
    config = model.get_config()
    mixed, report = to_precision(model, "mixed_bfloat16")
    assert [id(v.value) for v in mixed.variables] == [id(v.value) for v in model.variables]
    assert model.get_config() == config
    assert [action.layer for action in report.applied] == ["hidden"]
    assert reasons(report) == {"out": "gives an output of the model"}
    mixed.get_layer("hidden").kernel.assign(np.full((4, 8), 0.5))
    np.testing.assert_array_equal(model.get_layer("hidden").kernel, np.full((4, 8), 0.5))


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")])
def test_the_hidden_layer_computes_in_the_policys_type_and_the_output_in_float32(policy, dtype):
    model = mlp()
    mixed, _ = to_precision(model, policy)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    kernel, bias, out, out_bias = model.get_weights()
    # By hand: operands rounded to 16 bits, products summed exactly (float64), the sum rounded, float32 from there on.
    product = round_to((round_to(x, dtype).astype("float64") @ round_to(kernel, dtype).astype("float64")), dtype)
    hidden = np.maximum(round_to(product + round_to(bias, dtype), dtype), 0)
    expected = hidden @ out + out_bias
    found = mixed(x).numpy()
    assert found.dtype == np.float32
    # An order of summation may move a hidden value by one unit in the last place: 2^-8 or 2^-11 of about 2, weight < 1.
    np.testing.assert_allclose(found, expected, atol={"bfloat16": 2e-2, "float16": 2e-3}[dtype])
    assert not np.array_equal(found, model(x).numpy())


# Largest difference from float32, as a fraction of the largest output: some layers of rounding to 8 or 11 bits.
BOUNDS = {"mixed_bfloat16": 2e-2, "mixed_float16": 2.5e-3}
MODELS = [name for name in zoo.BUILDERS if name not in ("ops", "efficientnet_b0", "resnet50", "mobilenet_v2")]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", BOUNDS)
def test_every_kind_of_model_keeps_its_outputs_its_weights_and_its_way_back(name, policy):
    model = zoo.build(name)
    inputs = zoo.inputs(model, 8)
    mixed, report = to_precision(model, policy)
    expected = keras.tree.flatten(model(inputs, training=False))
    for a, b in zip(expected, keras.tree.flatten(mixed(inputs, training=False)), strict=True):
        assert b.dtype == tf.float32
        assert float(np.abs(a - b).max()) <= BOUNDS[policy] * float(np.abs(a).max())
        assert not np.array_equal(a, b)
    assert report.applied
    assert [id(v.value) for v in mixed.variables] == [id(v.value) for v in model.variables]
    assert all(layer.dtype_policy.name in ("float32", "int64", "string") for layer in model.layers)
    back, _ = to_precision(mixed, "float32")
    for a, b in zip(expected, keras.tree.flatten(back(inputs, training=False)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_fragile_stays_in_float32_with_the_reason():
    x = keras.Input((6, 4))
    y = L.Rescaling(0.5, name="rescaling")(x)
    y = L.Dense(4, activation="softmax", name="gate")(y)
    y = L.UnitNormalization(name="unit")(L.Softmax(name="softmax")(y))
    y = L.SpectralNormalization(L.Dense(4), name="spectral")(y)
    y = L.Dense(4, activity_regularizer="l2", name="regularized")(y)
    y = L.Dense(4, name="logits")(y)
    y = keras.ops.exp(y * 0.5)
    y = L.Dense(4, dtype="float64", name="double")(L.Dense(4, name="plain")(y))
    y = L.BatchNormalization(name="norm")(L.Dense(4, name="last")(y))
    model = keras.Model(x, L.Flatten(name="flat")(L.Dense(2, name="head")(y)))
    _, report = to_precision(model, "mixed_float16", keep=[L.BatchNormalization, lambda layer: layer.name == "last"])
    exp = next(operation.name for operation in model.operations if type(operation).__name__ == "Exp")
    assert reasons(report) == {
        "rescaling": "prepares inputs that are not scaled yet",
        "gate": "its activation is softmax",
        "softmax": "a softmax sums exponentials",
        "unit": "sums squares in the type it computes in",
        "spectral": "writes the kernel back in the type it computes in",
        "regularized": "its activity regularizer sums over the output",
        "logits": f"feeds the operation {exp!r}",
        "double": "has the policy 'float64' of its own",
        "norm": "kept in float32 as asked",
        "last": "kept in float32 as asked",
        "head": "gives an output of the model",
        "flat": "gives an output of the model",
    }
    assert [action.layer for action in report.applied] == ["plain"]


@pytest.mark.parametrize(
    "make", [L.BatchNormalization, L.LayerNormalization, lambda **k: L.GroupNormalization(4, **k), L.RMSNormalization]
)
def test_keras_computes_normalization_statistics_in_float32(make):
    # Values near 1000: their squares leave float16, which ends at 65504.
    x = round_to(np.random.default_rng(0).normal(1000, 200, (64, 8)).astype("float32"), "float16")
    half, single = make(dtype="mixed_float16"), make(dtype="float32")
    half(x, training=True) if isinstance(half, L.BatchNormalization) else half(x)
    a = half(x, training=True) if isinstance(half, L.BatchNormalization) else half(x)
    single(x, training=True) if isinstance(single, L.BatchNormalization) else single(x)
    b = single(x, training=True) if isinstance(single, L.BatchNormalization) else single(x)
    np.testing.assert_allclose(tf.cast(a, "float32"), b, rtol=2**-10, atol=2**-10)
    for one, other in zip(half.variables, single.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unit_normalization_does_not_which_is_why_it_is_kept():
    x = np.full((1, 4), 300.0, "float32")  # 4 * 300^2 = 360000 > 65504
    assert float(L.UnitNormalization(dtype="mixed_float16")(x)[0, 0]) == 0.0
    assert float(L.UnitNormalization()(x)[0, 0]) == 0.5


def test_a_shared_layer_stays_one_layer_and_dropout_draws_from_one_stream():
    model = zoo.build("siamese")
    mixed, report = to_precision(model, "mixed_bfloat16")
    assert [action.layer for action in report.applied].count("shared") == 1
    assert len(mixed.variables) == len(model.variables)
    dropped = keras.Sequential([keras.Input((64,)), L.Dropout(0.5, seed=1), L.Dense(2)])
    low, _ = to_precision(dropped, "mixed_bfloat16")
    before = dropped.layers[0].seed_generator.state.numpy()
    low(np.ones((1, 64), "float32"), training=True)
    assert not np.array_equal(dropped.layers[0].seed_generator.state.numpy(), before)


def test_names_paths_and_typos_in_keep():
    model = zoo.build("nested")
    inner = next(layer.name for layer in model.get_layer("backbone").layers if isinstance(layer, L.Conv2D))
    for name in (inner, f"backbone/{inner}"):
        assert reasons(to_precision(model, "mixed_bfloat16", keep=name)[1])[f"backbone/{inner}"] == (
            "kept in float32 as asked"
        )
    with pytest.raises(ConfigError, match=r"'clases', which is no layer.*Did you mean 'classes'"):
        to_precision(model, "mixed_bfloat16", keep=["clases"])
    with pytest.raises(ConfigError, match=r"Received: 3 \(builtins.int\)"):
        to_precision(model, "mixed_bfloat16", keep=[3])


def test_nothing_to_change_is_an_error_that_says_why():
    with pytest.raises(UnsupportedModelError, match="dense: gives an output of the model"):
        to_precision(zoo.build("ops"), "mixed_bfloat16")


class NoFloat32Output(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = L.Dense(4, name="hidden")
        self.head = L.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def test_a_subclassed_model_must_name_its_output_layer():
    model = NoFloat32Output()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    expected = model(x).numpy()
    with pytest.raises(UnsupportedModelError, match=r"would be bfloat16.*keep=\['head'\]"):
        to_precision(model, "mixed_bfloat16")
    mixed, report = to_precision(model, "mixed_bfloat16", keep="head")
    found = mixed(x)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    assert [action.layer for action in report.applied] == ["hidden"]
    assert mixed.head.kernel.value is model.head.kernel.value


def test_a_lambda_computes_in_the_new_precision():
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: 2 * x, name="twice"), L.Dense(1)])
    mixed, _ = to_precision(model, "mixed_bfloat16")
    x = np.ones((2, 4), "float32")
    assert mixed.get_layer("twice").compute_dtype == "bfloat16"
    np.testing.assert_allclose(mixed(x), model(x), rtol=2e-2)


def test_compile_scales_the_loss_of_a_float16_model_and_one_optimizer_serves_both():
    model = mlp()
    mixed, _ = to_precision(model, "mixed_float16")
    mixed.compile("sgd", "mse")
    assert isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    adam = keras.optimizers.Adam(0.1)
    adam.build(model.trainable_variables)
    gradients = [np.ones(v.shape, "float32") for v in mixed.trainable_variables]
    before = model.get_weights()
    adam.apply(gradients, mixed.trainable_variables)
    # The first step of Adam is the learning rate times the sign of the gradient.
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 0.1, atol=1e-5)


def test_trainable_flags_constraints_and_policies_of_layers_come_along():
    model = mlp()
    model.get_layer("hidden").trainable = False
    constraint = keras.constraints.NonNeg()
    model.get_layer("out").kernel.constraint = constraint
    mixed, _ = to_precision(model, "mixed_bfloat16")
    assert [v.path for v in mixed.trainable_variables] == ["out/kernel", "out/bias"]
    assert mixed.get_layer("out").kernel.constraint is constraint
    mixed.trainable = False
    assert len(model.trainable_variables) == 2


@pytest.mark.slow
def test_a_mixed_model_saves_reloads_and_exports(tmp_path):
    model = zoo.build("cnn")
    mixed, _ = to_precision(model, "mixed_float16")
    inputs = zoo.inputs(model, 4)
    mixed.save(tmp_path / "mixed.keras")
    reloaded = keras.models.load_model(tmp_path / "mixed.keras")
    np.testing.assert_array_equal(reloaded(inputs), mixed(inputs))
    # Keras writes no policy for the model itself, so `compile` alone would not scale the loss.
    assert reloaded.dtype_policy.name == "float32"
    assert needs_loss_scaling(reloaded)
    mixed.export(tmp_path / "saved", verbose=False)
    exported = tf.saved_model.load(tmp_path / "saved")  # It holds the variables that its function reads.
    np.testing.assert_allclose(exported.serve(inputs), mixed(inputs), atol=2e-3)


# The private parts behind it.


def test_a_shared_value_is_one_variable_for_reading_training_and_checkpoints(tmp_path):
    one, other = L.Dense(2), L.Dense(2)
    one.build((None, 3)), other.build((None, 3))
    internals.share_value(one.kernel, other.kernel)
    assert one.kernel.value is other.kernel.value
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(other(np.ones((1, 3), "float32")))
    np.testing.assert_array_equal(tape.gradient(loss, one.kernel), np.ones((3, 2)))
    path = tf.train.Checkpoint(layer=other).write(str(tmp_path / "checkpoint"))
    expected = one.kernel.numpy()
    one.kernel.assign(np.zeros((3, 2)))
    tf.train.Checkpoint(layer=other).read(path)
    np.testing.assert_array_equal(one.kernel, expected)


def test_preprocessing_layers_are_told_from_others():
    for layer in (L.Rescaling(1.0), L.Normalization(), L.RandomFlip(), L.Resizing(2, 2), L.CategoryEncoding(2)):
        assert internals.prepares_input(layer)
    assert not internals.prepares_input(L.Dense(1))
    assert not internals.prepares_input(zoo.Scale())
