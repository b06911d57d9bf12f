"""Models as people have them: padded sequences, default names, ensembles, independent labels, shared layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, DataError, InputError, UnsupportedModelError

L = keras.layers
GENERATOR = np.random.default_rng(0)


def decibels(exact, found):
    return 10 * np.log10((exact**2).mean() / ((exact - found) ** 2).mean())


@pytest.mark.slow
def test_a_layer_normalization_of_padding_survives_rounding():
    x = GENERATOR.normal(size=(256, 12, 8)).astype("float32")
    x[:, 8:] = 0
    model = keras.Sequential([keras.Input((12, 8)), L.LayerNormalization(), L.Flatten(), L.Dense(3)])
    exact = model.predict(x, verbose=0)
    copy, _ = kopt.quantize.aware(model, calibration=x)
    assert decibels(exact, copy.predict(x, verbose=0)) > 20
    after, _ = kopt.quantize.post_training(model, x)
    after.compile(keras.optimizers.SGD(0.0), "mse")
    after.fit(x, exact, verbose=0)
    assert decibels(exact, after.predict(x, verbose=0)) > 20


@pytest.mark.slow
def test_a_rounded_layer_normalization_keeps_what_held_it_in_training():
    gamma = keras.regularizers.L2(0.1)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.LayerNormalization(gamma_regularizer=gamma)])
    copy, _ = kopt.quantize.aware(model)
    assert float(sum(copy.losses)) == pytest.approx(float(sum(model.losses)))
    again = keras.models.clone_model(copy)
    assert float(sum(again.losses)) == pytest.approx(float(sum(model.losses)))


@pytest.mark.slow
@pytest.mark.parametrize("left", ["conv2d", "conv2d_1"])
def test_of_two_layers_with_names_of_keras_the_named_one_stays_in_float(left, tmp_path):
    keras.backend.clear_session()
    convolutions = [L.Conv2D(8, 3, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((12, 12, 3)), *convolutions, L.GlobalAveragePooling2D(), L.Dense(4)])
    assert [layer.name for layer in model.layers[:2]] == ["conv2d", "conv2d_1"]
    x = GENERATOR.normal(size=(64, 12, 12, 3)).astype("float32")
    copy, _ = kopt.quantize.aware(model, calibration=x, skip=[left])
    made = kopt.export.tflite(copy, tmp_path / "skipped.tflite", scheme="int8")
    kinds = {one.dtype: one.count for one in made.operators if one.name == "CONV_2D"}
    assert kinds == {"float32": 1, "int8": 1}
    copy, _ = kopt.quantize.aware(model, calibration=x, bits={left: 4})
    kopt.export.tflite(copy, tmp_path / "narrow.tflite", scheme="int8")


@pytest.mark.slow
def test_calibration_of_training_looks_at_all_examples():
    x = GENERATOR.normal(size=(1000, 10, 6)).astype("float32")
    layers = [L.Conv1D(8, 3, activation="gelu"), L.GlobalAveragePooling1D(), L.Dense(3)]
    model = keras.Sequential([keras.Input((10, 6)), *layers])
    exact = model.predict(x, verbose=0)
    few, many = (kopt.quantize.aware(model, calibration=x, samples=count)[0] for count in (32, 1000))
    plain, _ = kopt.quantize.post_training(model, x, options=[], samples=1000)
    found = decibels(exact, many.predict(x, verbose=0))
    assert found > decibels(exact, few.predict(x, verbose=0)) + 2
    assert found > decibels(exact, plain.predict(x, verbose=0)) - 2


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [lambda: L.Bidirectional(L.LSTM(16)), lambda: L.TimeDistributed(L.Dense(16))])
def test_a_smaller_student_with_wrapped_layers_runs(wrapper):
    teacher = keras.Sequential([keras.Input((7, 5)), L.Conv1D(32, 3), wrapper(), L.Flatten(), L.Dense(3)])
    student, report = kopt.distill.smaller_student(teacher, width=0.5)
    assert student.predict(np.zeros((2, 7, 5), "float32"), verbose=0).shape == (2, 3)
    assert report.parameters_after < report.parameters_before


def test_a_student_as_large_as_its_teacher_is_none():
    teacher = keras.Sequential([keras.Input((8,)), L.Dense(16), L.Dense(3)])
    with pytest.raises(ConfigError, match="`target_macs` is not below what the teacher has, 176"):
        kopt.distill.smaller_student(teacher, target_macs=1e12)


def ensemble(inputs):
    return L.Average()([L.Dense(4, activation="softmax")(inputs) for _ in range(2)])


ENDS = {
    "ensemble": (ensemble, "probabilities"),
    "wrapped": (lambda i: L.TimeDistributed(L.Dense(4, activation="softmax"))(L.RepeatVector(3)(i)), "probabilities"),
    "own softmax": (lambda i: L.Lambda(lambda x: keras.ops.softmax(x))(L.Dense(4)(i)), "probabilities"),
    "sigmoids": (lambda i: L.Concatenate()([L.Dense(1, activation="sigmoid")(i) for _ in range(3)]), "sigmoids"),
    "logits": (lambda i: L.Dense(4)(i), "logits"),
    "pooled logits": (lambda i: L.GlobalAveragePooling1D()(L.Dense(4)(L.RepeatVector(3)(i))), "logits"),
    "sum of logits": (lambda i: L.Add()([L.Dense(4)(i), L.Dense(4)(i)]), "logits"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_last_layer_does_not_say_is_found_out(end):
    make, form = ENDS[end]
    inputs = keras.Input((8,))
    teacher, student = (keras.Model(inputs, make(inputs)) for _ in range(2))
    (output,) = kopt.DistillationModel(student, teacher).report.outputs
    assert (output.student_form, *output.teacher_forms) == (form, form)


def labels_of_their_own(units):
    return keras.Sequential([keras.Input((8,)), L.Dense(units, activation="relu"), L.Dense(3)])


@pytest.mark.slow
def test_logits_of_independent_labels_are_held_against_each_other_one_by_one():
    keras.utils.set_random_seed(0)
    x = GENERATOR.normal(size=(2000, 8)).astype("float32")
    y = (x[:, :3] > 0).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    teacher, student = labels_of_their_own(32), labels_of_their_own(8)
    teacher.compile(keras.optimizers.Adam(1e-2), loss)
    teacher.fit(x, y, epochs=20, verbose=0)
    model = kopt.DistillationModel(student, teacher, alpha=1.0)
    assert model.report.outputs[0].loss == "kl"
    model.compile(keras.optimizers.Adam(1e-2), loss)
    assert model.report.outputs[0].loss == "binary_kl"
    model.fit(x, y, epochs=20, verbose=0)
    assert ((student.predict(x, verbose=0) > 0) == y).mean() > 0.95
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    assert model.report.outputs[0].loss == "kl"
    with pytest.raises(ConfigError, match=r"independent of each other.*`losses='binary_kl'`"):
        kopt.DistillationModel(student, teacher, losses="kl").compile("adam", loss)


def test_losses_in_a_list_are_looked_at():
    teacher = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    student = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ConfigError, match="gives logits"):
        kopt.DistillationModel(student, teacher).compile("adam", ["sparse_categorical_crossentropy"])


@pytest.mark.slow
def test_a_teacher_that_would_be_trained_is_refused():
    inputs = keras.Input((8,))
    shared = L.Dense(16, activation="relu")
    hidden = shared(inputs)
    teacher = keras.Model(inputs, L.Dense(4, activation="softmax")(L.Dense(16)(hidden)))
    student = keras.Model(inputs, L.Dense(4, activation="softmax")(hidden))
    x, y = GENERATOR.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4

    def train(one, other):
        model = kopt.DistillationModel(one, other)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, verbose=0)

    with pytest.raises(InputError, match="shares 2 variables with the teacher"):
        train(student, teacher)
    with pytest.raises(InputError, match="shares 4 variables"):
        train(student, student)
    shared.trainable = False
    before = teacher.get_weights()
    train(student, teacher)
    for one, other in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def two_heads(order):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = L.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, [L.Dense(3, activation="softmax", name=name)(hidden) for name in order])


@pytest.mark.slow
def test_recovery_holds_outputs_of_one_name_against_each_other():
    teacher, student = two_heads("uv"), two_heads("vu")
    x = GENERATOR.normal(size=(512, 6)).astype("float32")
    answers = dict(zip("uv", teacher.predict(x, verbose=0), strict=True))
    labels = {name: one.argmax(1) for name, one in answers.items()}
    student.compile("adam", dict.fromkeys("uv", "sparse_categorical_crossentropy"))
    settings = {"epochs": 15, "teacher": teacher, "distillation": 20.0, "learning_rate": 1e-2}
    found, _ = kopt.prune.recover(student, (x, labels), **settings)
    v, u = found.predict(x, verbose=0)
    assert np.abs(u - answers["u"]).mean() < 0.08
    assert np.abs(v - answers["v"]).mean() < 0.08


def binary_logits():
    keras.utils.set_random_seed(0)
    x = GENERATOR.normal(size=(400, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] + 0.5 * GENERATOR.normal(size=400) > 0).astype("int64")
    model = keras.Sequential([keras.Input((6,)), L.Dense(16, activation="relu"), L.Dense(1)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(x, y, epochs=10, verbose=0)
    return model, x, y


@pytest.mark.slow
def test_metrics_of_probabilities_are_not_computed_of_logits():
    model, x, y = binary_logits()
    names = ("accuracy", "auc", "precision", "recall", "binary_accuracy", "binary_crossentropy")
    found = kopt.measure.evaluate(model, (x, y), metrics=names).metrics
    ending = keras.Model(model.inputs, keras.ops.sigmoid(model.outputs[0]))
    expected = kopt.measure.evaluate(ending, (x, y), metrics=names).metrics
    assert found == pytest.approx(expected, abs=1e-5)
    logits = model.predict(x, verbose=0)[:, 0]
    assert found["precision"] == pytest.approx(y[logits > 0].mean())
    own = keras.metrics.AUC(from_logits=True, name="own")
    assert kopt.measure.evaluate(model, (x, y), metrics=own).metrics["own"] == pytest.approx(found["auc"], abs=1e-2)
    for metric in ("auc", "precision", "accuracy"):
        with pytest.raises(ConfigError, match=f"gives logits, as the loss says .* and {metric} takes probabilities"):
            kopt.optimize(model, (x, y), (x, y), budget=kopt.Budget(0.1, metric=metric))


def test_a_metric_of_several_numbers_is_refused():
    labels = np.eye(3, dtype="float32")[[0, 1, 2, 1]]
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    with pytest.raises(ConfigError, match=r"'f1_score' gives 3 numbers.*average='macro'"):
        kopt.measure.evaluate(model, (np.eye(4, dtype="float32"), labels), metrics="f1_score")


def test_labels_that_are_no_numbers_are_refused_where_layers_fall_back():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    x = np.eye(4, dtype="float32").repeat(8, 0)
    with pytest.raises(DataError, match="Labels must be an array of numbers"):
        kopt.quantize.fallback(model, x, evaluate=(x, np.array(["0", "1", "2", "1"] * 8)))
    with pytest.raises(DataError, match="Pass them as an array, not a dict"):
        kopt.quantize.fallback(model, x, evaluate=(x, {"a": np.zeros(32, int)}))


def image_model(layer):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(layer(L.Conv2D(4, 3)(inputs)))))


IMAGES = GENERATOR.normal(size=(40, 8, 8, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        lambda h: L.ReLU(1.0)(h),
        lambda h: L.ReLU(max_value=6.0, negative_slope=0.1)(h),
        lambda h: keras.ops.flip(h, axis=1),
    ],
    ids=["another end", "slope and end", "flip"],
)
def test_what_has_no_integers_is_left_and_said(layer, tmp_path):
    copy, report = kopt.quantize.aware(image_model(layer), calibration=IMAGES)
    assert len(report.left) == 1
    kopt.export.tflite(copy, tmp_path / "model.tflite", scheme="int8")


@pytest.mark.parametrize(
    "layer",
    [
        lambda h: L.Activation("gelu")(h),
        lambda h: L.Activation("hard_silu")(h),
        lambda h: L.Activation("hard_sigmoid")(h),
        lambda h: L.PReLU(shared_axes=[1, 2])(h),
        lambda h: L.UpSampling2D()(h),
        lambda h: L.LayerNormalization()(h),
    ],
    ids=["gelu", "hard_silu", "hard_sigmoid", "prelu", "upsampling", "layer normalization"],
)
def test_what_has_no_16_bits_is_refused_before_training(layer):
    with pytest.raises(UnsupportedModelError, match="A file of 16-bit activations cannot hold float layers"):
        kopt.quantize.aware(image_model(layer), scheme="int16x8")


@pytest.mark.slow
def test_features_of_a_rounding_student_are_those_behind_its_activations():
    layers = [L.Conv2D(8, 3, activation="relu", name="c"), L.Flatten(), L.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    copy, _ = kopt.quantize.aware(model, calibration=IMAGES)
    distilled = kopt.DistillationModel(copy, model, features=["c"])
    distilled.compile(keras.optimizers.SGD(0.0))
    assert distilled.fit(IMAGES, verbose=0).history["c_fitnet"][0] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [True, False])
def test_losses_by_output_rank_channels(by_name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = L.Dense(16, activation="relu", name="hidden")(inputs)
    heads = {name: L.Dense(3, activation="softmax", name=name)(hidden) for name in "pq"}
    model = keras.Model(inputs, heads if by_name else list(heads.values()))
    x = GENERATOR.normal(size=(64, 6)).astype("float32")
    y = {name: GENERATOR.integers(0, 3, 64) for name in "pq"}
    loss = dict.fromkeys("pq", "sparse_categorical_crossentropy")
    y, loss = (y, loss) if by_name else (list(y.values()), list(loss.values()))
    settings = {"criterion": "taylor", "data": (x, y), "round_to": 1}
    _, given = kopt.prune.channels(model, target_macs=0.5, loss=loss, **settings)
    model.compile("sgd", loss)
    _, compiled = kopt.prune.channels(model, target_macs=0.5, **settings)
    assert given.groups == compiled.groups
    with pytest.raises(ConfigError, match=r"Unknown loss 'mze'"):
        kopt.prune.channels(model, target_macs=0.5, loss={"p": "mze"}, **settings)


@pytest.mark.slow
def test_what_a_quantized_teacher_takes_is_said_in_code_that_works(tmp_path):
    inputs = keras.Input((4,))
    teacher = keras.Model(inputs, L.Dense(3, activation="softmax")(inputs))
    x = GENERATOR.normal(size=(64, 4)).astype("float32")
    file = kopt.export.tflite(teacher, tmp_path / "t.tflite", scheme="int8", calibration=x, io_dtype="int8").path
    student = keras.models.clone_model(teacher)
    with pytest.raises(InputError, match=r"`adapt=lambda x: .*`\.") as refused:
        kopt.DistillationModel(student, file)
    code = str(refused.value).partition("`adapt=")[2].rpartition("`")[0]
    adapt = eval(code, {"tf": tf})
    found = kopt.measure.load(file).run({kopt.measure.load(file).inputs[0].name: adapt(x).numpy()})
    runner = kopt.measure.load(file)
    expected = runner.predict(x)
    info = runner.outputs[0]
    values = (next(iter(found.values())).astype("float32") - info.zero_point) * info.scale
    np.testing.assert_allclose(values, expected, atol=1e-6)
    kopt.DistillationModel(student, file, adapt=adapt)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["skipped", "causal", "masked"])
def test_an_attention_that_stays_in_float_behind_integers(way, tmp_path):
    x = GENERATOR.normal(size=(96, 10, 6)).astype("float32")
    inputs = keras.Input((10, 6))
    attention = L.MultiHeadAttention(2, 4, name="attention")
    how = {"skipped": {}, "causal": {"use_causal_mask": True}, "masked": {"attention_mask": np.tri(10)[None]}}[way]
    attended = attention(L.Dense(8)(inputs), L.Dense(8)(inputs), **how)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(attended)))
    copy, report = kopt.quantize.aware(model, calibration=x, skip=["attention"] if way == "skipped" else ())
    assert [one.layer for one in report.left] == ["attention"]
    made = kopt.export.tflite(copy, tmp_path / "model.tflite", scheme="int8")
    found = kopt.measure.load(made.path).predict(x)
    expected = copy.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1.01 * np.diff(np.unique(expected)).max())
    counts = {one.dtype: one.count for one in made.operators if one.name == "FULLY_CONNECTED"}
    assert counts == {"float32": 4, "int8": 3}
