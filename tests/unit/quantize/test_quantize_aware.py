"""What `kopt.quantize.aware` makes of a model: where it rounds, what it keeps, how it trains, what it refuses."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

import kopt
from kopt.core.errors import ConfigError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.aware_training import Quantization, RangeRule
from kopt.quantize import aware
from kopt.quantize.modes import unrounded
from kopt.quantize.quantized_model import QuantizedFunctional
from kopt.quantize.ranges import FixedQuantizer, Quantizer
from kopt.quantize.weights import QuantizedWeights

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.random((32, 12, 12, 3), np.float32)
Y = RNG.integers(0, 5, 32)


def net(**settings):
    keras.utils.set_random_seed(3)
    i = keras.Input((8,), name="x")
    hidden = L.Dense(16, activation="relu", name="hidden", **settings)(i)
    return keras.Model(i, L.Dense(4, name="logits")(hidden), name="net")


def rounded_after(model):
    """Return the names of the layers whose output a quantizer takes, in order."""
    names = []
    for layer in model.layers:
        if isinstance(layer, (Quantizer, FixedQuantizer)):
            names += [node.input_tensors[0]._keras_history.operation.name for node in layer._inbound_nodes]
    return names


def step_of(model, loss="sparse_categorical_crossentropy", rate=0.1, **settings):
    model.compile(keras.optimizers.SGD(rate), loss, **settings)
    return model


def batch(size=8, count=32):
    return RNG.random((count, size), np.float32), RNG.random((count, 4), np.float32)


def test_convolutions_are_rounded_behind_their_relu_and_pooling_keeps_the_range():
    copy, report = aware(zoo.build("cnn"))
    assert rounded_after(copy) == ["image", "relu0", "relu1", "gap", "classes_2", "classes_softmax"]
    assert [(one.layer, one.folded) for one in report.kernels] == [
        ("conv0", "norm0"),
        ("conv1", "norm1"),
        ("classes", ""),
    ]
    assert report.left == ()
    assert not [layer for layer in copy.layers if isinstance(layer, L.BatchNormalization)]


def test_a_residual_sum_is_rounded_behind_its_relu():
    i = keras.Input((4, 4, 2), name="x")
    branch = L.BatchNormalization()(L.Conv2D(2, 3, padding="same", name="conv")(i))
    model = keras.Model(i, L.ReLU(name="relu")(L.Add(name="add")([i, branch])))
    assert rounded_after(aware(model)[0]) == ["x", "conv", "relu_2"]


def test_an_activation_that_is_no_part_of_its_operator_is_rounded_on_both_sides():
    i = keras.Input((4,), name="x")
    copy, _ = aware(keras.Model(i, L.Dense(3, activation="hard_silu", name="dense")(i)))
    assert rounded_after(copy) == ["x", "dense_2", "dense_hard_silu"]


def test_what_is_concatenated_shares_a_range_that_holds_all_of_it():
    i = keras.Input((4, 4, 3), name="x")
    a, b = L.Conv2D(2, 1, name="a")(i), L.Conv2D(2, 1, name="b")(i)
    o = L.Conv2D(1, 1, name="c")(L.MaxPooling2D(2)(L.Concatenate()([a, b])))
    copy, _ = aware(keras.Model(i, [o, L.Flatten()(b)]))
    quantizer = copy.get_layer("a_range")
    assert quantizer.sites == 2
    assert [node.input_tensors[0]._keras_history.operation.name for node in quantizer._inbound_nodes] == ["a", "b"]
    quantizer.ranges.assign([[-1.0, 3.0], [-2.0, 2.0]])
    quantizer.seen.assign([1, 1])
    assert quantizer.grid == kopt.quantize.grids.grid_of(-2.0, 3.0)


def test_before_training_only_weights_are_rounded():
    model = net()
    copy, _ = aware(model)
    x, _ = batch()
    reference = keras.models.clone_model(model)
    for layer in (reference.get_layer("hidden"), reference.get_layer("logits")):
        kernel = model.get_layer(layer.name).kernel.numpy()
        steps = np.abs(kernel).max(0) / 127
        layer.kernel.assign(np.rint(kernel / steps) * steps)
    np.testing.assert_allclose(copy(x), reference(x), atol=1e-6)


def test_the_first_batch_sets_the_range_and_others_move_it():
    """With a momentum of 0.75 the largest input is 1, then 1 + (3 - 1) / 4 = 1.5."""
    copy, _ = aware(net(), momentum=0.75)
    quantizer = copy.get_layer("x_range")
    for largest, expected in ((1.0, 1.0), (3.0, 1.5)):
        copy(np.array([[0, -0.5, largest, 0, 0, 0, 0, 0]], np.float32), training=True)
        np.testing.assert_allclose(quantizer.ranges.numpy(), [[-0.5, expected]], rtol=1e-6)
    copy(np.full((1, 8), 9.0, np.float32), training=False)
    assert quantizer.grid.high == pytest.approx(1.5, abs=0.01)


def test_a_frozen_range_stays_and_a_delayed_start_rounds_nothing():
    copy, _ = aware(net(), momentum=0.5, start=2, freeze=2)
    quantizer = copy.get_layer("x_range")
    x = np.linspace(0, 1, 8, dtype=np.float32)[None]
    first, _ = quantizer(x, site=0, training=True)
    np.testing.assert_array_equal(first, x)
    quantizer(3 * x, site=0, training=True)
    third, _ = quantizer(9 * x, site=0, training=True)
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[0, 2.0]])  # of the batches 1 and 3, not 9
    assert float(np.max(third)) == pytest.approx(2.0)


@pytest.mark.parametrize("ranges", ["ema", "percentile"])
def test_calibration_sets_ranges_and_counts_as_no_batch_of_training(ranges):
    x = np.linspace(0, 1, 8, dtype=np.float32)[None]
    copy, _ = aware(
        net(), ranges=ranges, percentile=100, momentum=0.5, start=1, freeze=2, calibration=x.repeat(40, 0), samples=40
    )
    quantizer = copy.get_layer("x_range")
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[0, 1.0]])
    assert float(np.max(quantizer(3 * x, training=False)[0])) == pytest.approx(1.0), "rounded outside of training"
    first, _ = quantizer(3 * x, site=0, training=True)
    np.testing.assert_array_equal(first, 3 * x)
    second, _ = quantizer(4 * x, site=0, training=True)
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[0, 3.0]])  # of 1 and 3, 2; of that and 4, 3
    assert float(np.max(second)) == pytest.approx(3.0)
    quantizer(9 * x, site=0, training=True)
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[0, 3.0]])
    assert list(quantizer.seen.numpy()) == [3]


def test_one_example_is_not_said_to_have_widened_nothing():
    with pytest.warns(UserWarning, match=r"1 example\(s\).* cannot be told.* up to 100%") as caught:
        aware(net(), calibration=batch(count=1)[0])
    assert "widened by" not in str(caught[0].message)


def test_percentiles_leave_outliers_out():
    copy, _ = aware(net(), ranges="percentile", percentile=99.0)
    x = np.linspace(0.0, 1.0, 1000, dtype=np.float32)
    x[-1] = 100.0
    quantizer = copy.get_layer("x_range")
    quantizer(x.reshape(-1, 8), site=0, training=True)
    # One in a hundred of 999 intervals is left out at each end: 9.
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[9 / 999, 990 / 999]], rtol=1e-4)


@pytest.mark.slow
def test_learned_ranges_begin_at_calibration_and_are_trained():
    x, y = batch()
    copy, _ = aware(net(), ranges="learned", calibration=x, samples=32)
    quantizer = copy.get_layer("hidden_relu_range")
    before = quantizer.ranges.numpy()
    assert before[0, 1] > 0
    assert any(variable is quantizer.ranges for variable in copy.trainable_variables)
    step_of(copy, "mse").fit(x, y, verbose=0)
    assert not np.array_equal(before, quantizer.ranges.numpy())


def learned_ranges(batches, **rule):
    """Train a calibrated range with Adam, whose momentum goes on without a gradient; return it after every batch."""
    quantizer = Quantizer(RangeRule("learned", **rule))
    quantizer.build()
    quantizer.ranges.assign([[0.0, 1.0]])
    quantizer.seen.assign([-4])
    optimizer, x, found = keras.optimizers.Adam(0.1), 2 * RNG.random((8, 4), np.float32), []
    for _ in range(batches):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(quantizer(x, site=0, training=True)[0])
        optimizer.apply(tape.gradient(loss, [quantizer.ranges.value]), [quantizer.ranges])
        found.append(float(quantizer.ranges[0, 1]))
    return found


def test_learned_ranges_stay_when_they_are_frozen():
    first, second, *others = learned_ranges(5, freeze=2)
    assert 1.0 > first > second
    assert others == [second] * 3


def test_a_delayed_start_of_learned_ranges_ends():
    first, second, third = learned_ranges(3, start=2)
    assert (first, second) == (1.0, 1.0)
    assert third < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_learned_ranges_stay_in_fit_and_when_they_are_loaded(compiled, tmp_path):
    x, y = batch(count=64)
    copy, _ = aware(net(), ranges="learned", freeze=2, calibration=x / 2)
    quantizer, found = copy.get_layer("x_range"), []
    copy.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=compiled, steps_per_execution=2)
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: found.append(quantizer.ranges.numpy()))
    copy.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[note])
    np.testing.assert_array_equal(found[1:], [found[0]] * 3)
    assert list(quantizer.seen.numpy()) == [8]
    copy.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(x, y, verbose=0)
    np.testing.assert_array_equal(loaded.get_layer("x_range").ranges.numpy(), found[0])


def test_frozen_normalizations_use_moving_statistics():
    copy, _ = aware(zoo.build("cnn"), freeze_batch_norm=1)
    layer = copy.get_layer("conv0")
    layer(X, training=True)
    moved = layer.norm.moving_mean.numpy()
    np.testing.assert_allclose(layer(X, training=True), layer(X, training=False), atol=1e-4)
    np.testing.assert_array_equal(layer.norm.moving_mean.numpy(), moved)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_trains_saves_loads_and_goes_on(compiled, tmp_path):
    copy, _ = aware(zoo.build("cnn"))
    step_of(copy, jit_compile=compiled).fit(X, Y, batch_size=16, verbose=0)
    copy.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), copy.predict(X, verbose=0))
    assert loaded.quantization == copy.quantization
    for model in (copy, loaded):
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), copy.predict(X, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_the_given_model_stays_as_it_is_and_names_stay():
    model = zoo.build("two_in_two_out")
    before = [variable.numpy() for variable in model.variables]
    copy, _ = aware(model)
    assert copy.output_names == model.output_names
    assert [tensor.name for tensor in copy.inputs] == [tensor.name for tensor in model.inputs]
    x = zoo.inputs(model, 4)
    step_of(copy, {"label": "mse", "score": "mse"}).fit(
        x, {"label": np.ones((4, 3)), "score": np.ones((4, 1))}, verbose=0
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.slow
def test_zeros_of_a_pruned_kernel_stay_zero():
    model = net()
    pruned, _ = kopt.prune.magnitude(model, 0.5)
    x, y = batch()
    for source in (pruned, kopt.prune.finalize(pruned)[0]):
        copy, report = aware(source)
        zeros = copy.get_layer("hidden").layer.kernel.numpy() == 0
        assert report.kernels[0].zeros == pytest.approx(0.5)
        step_of(copy, "mse").fit(x, y, verbose=0)
        kernel = copy.get_layer("hidden").layer.kernel.numpy()
        np.testing.assert_array_equal(kernel == 0, zeros)
        assert not np.array_equal(kernel, source.get_layer("hidden").kernel.numpy())


@pytest.mark.slow
def test_weights_that_share_a_value_go_on_sharing_it(tmp_path):
    model = net()
    kernel = model.get_layer("hidden").kernel
    codes = RNG.integers(0, 4, kernel.shape)
    kernel.assign(np.array([-0.5, 0.0, 0.25, 0.75], np.float32)[codes])
    copy, report = aware(model)
    assert report.kernels[0].values == 4
    x, y = batch()
    step_of(copy, "mse").fit(x, y, verbose=0)
    copy.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(x, y, verbose=0)
    after = loaded.get_layer("hidden").layer.kernel.numpy()
    assert [len(np.unique(after[codes == code])) for code in range(4)] == [1, 1, 1, 1]
    assert not after[codes == 1].any()
    assert abs(after[codes == 3][0] - 0.75) > 1e-6


def test_a_constraint_that_was_there_is_kept():
    copy, _ = aware(net(kernel_constraint=keras.constraints.NonNeg()))
    x, y = batch()
    step_of(copy, "mse", 5.0).fit(x, y, verbose=0)
    assert copy.get_layer("hidden").layer.kernel.numpy().min() == 0


@pytest.mark.parametrize("skip", [["hidden"], "hid*", lambda layer: layer.name == "hidden"])
def test_skipped_layers_compute_in_float(skip):
    copy, report = aware(net(), skip=skip)
    assert [one.layer for one in report.left] == ["hidden"]
    assert type(copy.get_layer("hidden")) is L.Dense
    assert [one.layer for one in report.kernels] == ["logits"]


def test_skips_by_class():
    _, report = aware(zoo.build("cnn"), skip=[L.Conv2D])
    assert {one.layer for one in report.left} == {"conv0", "conv1"}


def with_activations(relu, softmax, relu6):
    keras.utils.set_random_seed(3)
    i = keras.Input((8,), name="x")
    hidden = L.Activation(relu6, name="six")(L.Dense(16, activation=relu, name="hidden")(i))
    return keras.Model(i, L.Dense(4, activation=softmax, name="shares")(hidden), name="net")


@pytest.mark.parametrize("names", [tf.nn, keras.ops], ids=["tensorflow", "ops"])
def test_activations_of_other_names_are_those_of_keras(names):
    x, _ = batch()
    expected, report = aware(with_activations("relu", "softmax", "relu6"), calibration=x)
    copy, other = aware(with_activations(names.relu, names.softmax, names.relu6), calibration=x)
    assert other == report
    assert not report.left
    np.testing.assert_array_equal(copy(x), expected(x))


def test_what_has_no_integer_operator_is_listed_with_the_reason():
    _, report = aware(zoo.build("conv1d"))
    assert [(one.type, one.detail) for one in report.left] == [("SeparableConv1D", "TFLite has no integer ELU")]
    _, report = aware(zoo.build("conv3d"))
    assert report.left[0].detail == "TFLite has no integer CONV_3D"


@pytest.mark.parametrize(
    ("name", "reason"), [("conv1d", "no integer ELU"), ("unet", "refuses trained ranges of 16 bits")]
)
def test_16_bits_refuse_float_layers(name, reason):
    with pytest.raises(UnsupportedModelError, match=f"cannot hold float layers.*{reason}"):
        aware(zoo.build(name), scheme="int16x8")


def test_nested_models_come_out_flat():
    copy, report = aware(zoo.build("nested"))
    assert [(one.layer.split("/")[0], one.type) for one in report.kernels] == [
        ("backbone", "Conv2D"),
        ("classes", "Dense"),
    ]
    assert not [layer for layer in copy.layers if isinstance(layer, keras.Model)]


def test_the_report_round_trips_and_shows():
    _, report = aware(zoo.build("conv1d"))
    assert Quantization.from_json(report.to_json()).kernels == report.kernels
    assert "no integer ELU" in report.table(120)
    assert str(report).endswith("1 layer(s) compute in float.")
    assert report.figure().axes


def unbuilt():
    return keras.Sequential([L.Dense(3)])


def with_nan():
    model = net()
    model.get_layer("hidden").kernel.assign(np.full((8, 16), np.nan))
    return model


def integer():
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of layers that hold no weights
        model.quantize("int8")
    return model


@pytest.mark.parametrize(
    ("make", "settings", "error", "message"),
    [
        (unbuilt, {}, InputError, "is not built"),
        (lambda: zoo.build("subclassed"), {}, UnsupportedModelError, r"call` is Python code.*scheme=\"int8\""),
        (lambda: aware(net())[0], {}, UnsupportedModelError, "is quantization-aware already"),
        (with_nan, {}, NonFiniteError, "hidden/kernel"),
        (integer, {}, UnsupportedModelError, r"converted with `keras.Model.quantize`: .*hidden"),
        (net, {"skip": ["hiden"]}, ConfigError, "no layer is called so. Did you mean 'hidden'"),
        (net, {"scheme": "int2"}, ConfigError, "Unknown `scheme` 'int2'"),
        (net, {"ranges": "learned"}, ConfigError, "`calibration`"),
        (net, {"ranges": "best"}, ConfigError, "Unknown `ranges` 'best'"),
        (net, {"freeze": 0}, ConfigError, "`freeze` must be"),
        (net, {"skip": ["hidden", "logits"]}, UnsupportedModelError, "has a kernel to quantize. hidden"),
    ],
)
def test_refusals(make, settings, error, message):
    with pytest.raises(error, match=message):
        aware(make(), **settings)


def test_export_before_training_says_what_to_do(tmp_path):
    copy, _ = aware(net())
    with pytest.raises(InputError, match=r"has no range yet.*one step of `fit`"):
        kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_quantizer_that_calibrates_follows_ranges_outside_training_and_counts_no_batch():
    copy, _ = aware(net(), start=1)
    quantizer, x = copy.get_layer("x_range"), np.linspace(0, 1, 8, dtype=np.float32)[None]
    quantizer.calibrates = True
    for scale in (1, 3, 2):
        quantizer(scale * x, site=0, training=False)
    quantizer.calibrates = False
    np.testing.assert_allclose(quantizer.ranges.numpy(), [[0, 3.0]])
    np.testing.assert_array_equal(quantizer(9 * x, site=0, training=True)[0], 9 * x)


@pytest.mark.slow
@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
def test_export_takes_ranges_that_training_has_not_seen_from_calibration(io_dtype, tmp_path):
    x, _ = batch(count=64)
    settings = {"scheme": "int8", "calibration": x, "io_dtype": io_dtype}
    copy, _ = aware(net())
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", **settings)
    assert any(note.startswith("3 range(s) come from `calibration`") for note in made.notes)
    assert not copy.get_layer("x_range").is_ready, "the given model stays as it is"
    calibrated, _ = aware(net(), calibration=x)
    expected = kopt.export.tflite(calibrated, tmp_path / "n.tflite", **settings)
    assert made.quantization == expected.quantization
    assert made.calibration_sha256
    assert not expected.calibration_sha256
    with pytest.warns(UserWarning, match=r"Calibrated with 5 example\(s\)"):
        kopt.export.tflite(copy, tmp_path / "f.tflite", scheme="int8", calibration=x[:5])


def test_onnx_says_where_an_untrained_copy_takes_ranges_from(tmp_path):
    with pytest.raises(ConfigError, match=r"has no ranges yet.*`kopt.quantize.aware` instead"):
        kopt.export.onnx(aware(net())[0], tmp_path / "m.onnx", scheme="int8", calibration=batch()[0])


def test_export_in_another_scheme_is_refused(tmp_path):
    copy, _ = aware(net())
    with pytest.raises(ConfigError, match="was trained for the scheme 'int8'"):
        kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="dynamic")


def test_a_rule_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="`percentile`"):
        RangeRule(percentile=50.0)


@pytest.mark.slow
def test_gradients_reach_every_kernel():
    copy, _ = aware(zoo.build("transformer"))
    x = zoo.inputs(copy, 8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(copy(x, training=True)[:, 0])
    gradients = tape.gradient(loss, [variable.value for variable in copy.trainable_variables])
    missing = [v.path for v, g in zip(copy.trainable_variables, gradients, strict=True) if g is None]
    assert missing == []
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)


def sequences(*lengths):
    return [
        np.random.default_rng(place).normal(size=(24, length, 8)).astype("float32")
        for place, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    "named",
    [("query", "value"), ("query", "value", "key"), ("query", "key", "value")],
    ids=lambda named: " ".join(named),
)
def test_attention_takes_what_it_is_called_with_by_name(named):
    keras.utils.set_random_seed(0)
    queries, keys, values = keras.Input((5, 8)), keras.Input((7, 8)), keras.Input((7, 8))
    given = {"query": queries, "key": keys, "value": values}
    attended = L.MultiHeadAttention(2, 4)(**{name: given[name] for name in named})
    used = [tensor for tensor in (queries, keys, values) if tensor is not keys or "key" in named]
    model = keras.Model(used, L.Dense(3)(L.Flatten()(attended)))
    x = sequences(5, 7, 7)[: len(used)]
    copy, _ = aware(model, calibration=x)
    with unrounded():
        np.testing.assert_allclose(copy(x), model(x), atol=1e-5)


def test_a_vision_transformer_with_a_flatten_behind_its_blocks():
    """The output projection of Keras' attention says nothing of the length of the sequence."""
    keras.utils.set_random_seed(0)
    x = i = keras.Input((6, 8))
    for _ in range(2):
        normal = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(2, 4)(normal, normal)])
        x = L.Add()([x, L.Dense(8)(L.Dense(16, activation="relu")(x))])
    model = keras.Model(i, L.Dense(3)(L.Flatten()(x)))
    (data,) = sequences(6)
    copy, _ = aware(model, calibration=data)
    assert copy.output_shape == model.output_shape
    with unrounded():
        np.testing.assert_allclose(copy(data), model(data), atol=1e-5)


@pytest.mark.slow
def test_a_layer_shared_by_sequences_of_two_lengths(tmp_path):
    keras.utils.set_random_seed(0)
    shared, first, second = L.Dense(5, name="shared"), keras.Input((4, 8)), keras.Input((7, 8))
    model = keras.Model([first, second], [shared(first), shared(second)])
    data = sequences(4, 7)
    copy, _ = aware(model, calibration=data)
    made = kopt.export.tflite(copy, tmp_path / "model.tflite", scheme="int8")
    runner = kopt.measure.load(made.path)
    for found, wanted in zip(runner.predict(data).values(), copy(data), strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.05)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask attached to it")
def test_a_nested_model_behind_a_mask_is_refused():
    inner_input = keras.Input((6, 8))
    inner = keras.Model(inner_input, L.Dense(4)(inner_input), name="inner")
    tokens = keras.Input((6,), dtype="int32")
    embedded = L.Embedding(10, 8, mask_zero=True)(tokens)
    model = keras.Model(tokens, L.Dense(3)(L.Flatten()(inner(embedded))))
    with pytest.raises(UnsupportedModelError, match="nested model 'inner' is called with a mask"):
        aware(model)
    assert kopt.profile.model(model).parameters == model.count_params()


def test_masks_that_still_change_are_refused_and_finished_ones_stay():
    x, y = batch()
    pruned, _ = kopt.prune.magnitude(net(), kopt.prune.schedules.Polynomial(0.5, begin=1, end=4, frequency=1))
    with pytest.raises(UnsupportedModelError, match=r"pruned as it trains: its masks follow Polynomial.* at step 0"):
        aware(pruned)
    step_of(pruned, "mse").fit(x, y, batch_size=8, verbose=0)
    copy, _ = aware(pruned)
    assert [one.preserved for one in copy.layers if isinstance(one, QuantizedWeights)] == ["zeros", "zeros"]
    aware(kopt.prune.magnitude(net(), 0.5)[0])


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class Scaled(L.Layer):
    def __init__(self, other):
        super().__init__(name="scaled")
        self.other = other

    def call(self, x):
        return x * self.other.bias


def test_what_a_copy_would_not_have_of_a_training_is_refused():
    i = keras.Input((8,))
    with pytest.raises(UnsupportedModelError, match="overrides `train_step`, which its copy would not have"):
        aware(OwnStep(i, L.Dense(4)(i)))
    with pytest.raises(UnsupportedModelError, match="Layers hidden of model 'net' have an `activity_regularizer`"):
        aware(net(activity_regularizer="l2"))
    tied = Scaled(net().get_layer("hidden"))
    with pytest.raises(UnsupportedModelError, match="Layers 'hidden' and 'scaled' share the variable"):
        aware(keras.Model(i, tied(tied.other(i))))
    # Where nothing is trained, neither matters.
    x, _ = batch()
    assert kopt.quantize.diagnose(net(activity_regularizer="l2"), x).layers


def test_kernels_that_share_values_are_not_scaled():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, name="first"), L.ReLU(), L.Conv2D(4, 3, name="second"), L.Flatten(), L.Dense(5)]
    model = keras.Sequential([keras.Input((12, 12, 3)), *layers])
    shared, _ = kopt.cluster.finalize(kopt.cluster.weights(model, clusters=8, layers=["first"])[0])
    copy, _ = kopt.quantize.post_training(shared, X, options=["equalize"])
    assert np.unique(copy.get_layer("first").layer.kernel).size == 8


def test_a_table_is_refused_before_training():
    i = keras.Input((1,), dtype="string", name="word")
    words = L.Embedding(4, 3)(L.StringLookup(vocabulary=["a", "b"], name="table")(i))
    model = keras.Model(i, L.Dense(2)(L.Flatten()(words)))
    with pytest.raises(UnsupportedModelError, match=r"'table' of model .* look values up in a table"):
        aware(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda copy: kopt.prune.magnitude(copy, 0.5),
        lambda copy: kopt.prune.channels(copy, keep=0.5),
        lambda copy: kopt.cluster.weights(copy, clusters=4),
        lambda copy: kopt.restructure.low_rank(keras.Sequential([keras.Input((8,)), copy]), rank=2),
    ],
    ids=["masks", "channels", "codebooks", "part"],
)
def test_what_would_lose_the_record_of_rounding_is_refused(change):
    copy, _ = aware(net())
    with pytest.raises(UnsupportedModelError, match=r"'net' computes with rounded numbers\. Prune, cluster"):
        change(copy)


@pytest.mark.parametrize(
    "function", [lambda x: keras.ops.elu(x), functools.partial(keras.ops.leaky_relu, negative_slope=0.3), L.ELU(0.5)]
)
@pytest.mark.slow
def test_activations_without_a_name_or_rule_train_in_float(function, tmp_path):
    x, y = batch()
    i = keras.Input((8,))
    model = keras.Model(i, L.Dense(4)(L.Dense(16, activation=function, name="own")(i)))
    copy, report = aware(model, calibration=x)
    assert [one.layer for one in report.left] == ["own"]
    step_of(copy, "mse").fit(x, y, verbose=0)
    made = kopt.export.tflite(copy, tmp_path / "m.tflite", scheme="int8")
    np.testing.assert_allclose(kopt.measure.load(made.path).predict(x), copy.predict(x, verbose=0), atol=1e-5)


def test_a_layer_as_activation_is_copied_with_its_weights():
    i = keras.Input((8,))
    slopes = L.PReLU(alpha_initializer=keras.initializers.Constant(0.3))
    slopes.build((None, 16))
    model = keras.Model(i, L.Dense(4)(L.Dense(16, activation=slopes, name="own")(i)))
    copy, report = aware(model)
    assert not report.left
    (copied,) = (layer for layer in copy.layers if isinstance(layer, L.PReLU))
    assert copied is not slopes
    np.testing.assert_array_equal(copied.alpha, slopes.alpha)


def with_its_input(structure):
    i = keras.Input((8,), name="a")
    return keras.Model(i, structure(L.Dense(4, name="dense")(i), i))


@pytest.mark.parametrize("structure", [lambda y, a: [y, a], lambda y, a: {"p": a, "q": y}])
def test_a_model_that_gives_its_input_back_keeps_the_names_of_its_outputs(structure):
    model = with_its_input(structure)
    copy, _ = aware(model)
    again = QuantizedFunctional.from_config(copy.get_config())
    assert again.output_names == copy.output_names == model.output_names
    assert kopt.graph.signature(copy) == kopt.graph.signature(again) == kopt.graph.signature(model)
    rewritten, _ = kopt.graph.rewrite(copy, lambda layer: None)
    assert kopt.graph.signature(rewritten) == kopt.graph.signature(model)


def test_a_model_of_tf_keras_is_quantized_as_the_one_of_keras_3():
    model, x = net(), batch()[0]
    old = kopt.graph.to_tf_keras(model)
    copy, report = aware(old)
    assert report == aware(kopt.graph.from_tf_keras(old))[1]
    with unrounded():
        np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)
    _, report = kopt.quantize.post_training(old, x, options=())
    assert len(report.quantization.kernels) == 2
