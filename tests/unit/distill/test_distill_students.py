"""Students made of a teacher, and trainings in a row."""

import keras
import numpy as np
import pytest
from distillation_cases import CLASSES, L, bits, examples, network, teacher

import kopt
from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.distill import born_again, mobile_student, smaller_student, teach_in_turn

X, Y = examples()


def residual(repeats=4):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(16, 3, padding="same", name="stem")(inputs)
    for index in range(repeats):
        inner = L.Conv2D(16, 3, padding="same", name=f"inner{index}")(x)
        inner = L.BatchNormalization(name=f"norm{index}")(L.ReLU()(inner))
        x = L.Add(name=f"add{index}")([x, inner] if index % 2 else [inner, x])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Softmax(name="probs")(L.Dense(CLASSES, name="head")(x)), name="residual")


def test_channels_are_scaled_and_outputs_kept():
    large = residual()
    before = bits(large)
    student, report = smaller_student(large, width=0.5)
    assert student.get_layer("stem").filters == student.get_layer("inner2").filters == 8
    assert student.get_layer("head").units == CLASSES
    assert student.output_shape == large.output_shape
    # 3x3 kernels: 1 -> 8 and four of 8 -> 8, the head 8 -> 4; four normalizations of 8 channels.
    assert report.parameters_after == (9 * 8 + 8) + 4 * (9 * 64 + 8) + 4 * 4 * 8 + (8 * 4 + 4)
    assert bits(large) == before
    assert student.predict(X, verbose=0).shape == (len(X), CLASSES)


def test_the_first_channels_of_the_teacher_are_taken():
    large = residual()
    student, report = smaller_student(large, width=0.5)
    np.testing.assert_array_equal(
        student.get_layer("inner1").kernel, large.get_layer("inner1").kernel.numpy()[:, :, :8, :8]
    )
    np.testing.assert_array_equal(student.get_layer("head").bias, large.get_layer("head").bias)
    assert set(report.cut) >= {"stem", "inner0", "norm0", "head"}
    same, report = smaller_student(large, depth=0.5)
    assert set(report.copied) == {"stem", "inner0", "norm0", "inner1", "norm1", "head"}
    fresh, report = smaller_student(large, width=0.5, initialize=False)
    assert report.copied == report.cut == ()
    assert bits(fresh) != bits(student)
    assert same.name == "student"


def test_blocks_are_passed_by():
    """The student is the teacher without the inner branch of its last blocks."""
    large = residual()
    student, report = smaller_student(large, depth=0.5)
    assert report.removed == ("add2", "add3")
    upto = keras.Model(large.inputs, large.get_layer("add1").output)
    pooled = upto.predict(X, verbose=0).mean((1, 2))
    head = large.get_layer("head")
    logits = pooled @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(np.log(student.predict(X, verbose=0)), keras.ops.log_softmax(logits), atol=1e-5)


def test_layers_in_a_row_are_passed_by():
    inputs = keras.Input((6,))
    x = inputs
    for index in range(4):
        x = L.Dense(6, activation="relu", name=f"dense{index}")(x)
    large = keras.Model(inputs, L.Dense(2, name="head")(x))
    student, report = smaller_student(large, depth=0.25)
    assert report.removed == ("dense1", "dense2", "dense3")
    assert student.count_params() == 6 * 6 + 6 + 6 * 2 + 2


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "cost"), [("target_macs", "macs_after"), ("target_params", "parameters_after")])
@pytest.mark.parametrize("make", [smaller_student, mobile_student])
def test_a_target_is_reached_from_below(setting, cost, make):
    large = residual()
    whole = {"macs_after": "macs_before", "parameters_after": "parameters_before"}[cost]
    extra = {"round_to": 1} if make is smaller_student else {}
    _, report = make(large, **{setting: 0.5}, **extra)
    assert 0.35 < getattr(report, cost) / getattr(report, whole) <= 0.5


@pytest.mark.filterwarnings("ignore:The student takes:UserWarning")  # a tiny teacher
def test_a_mobile_student_gives_what_the_teacher_gives():
    student, report = mobile_student(teacher(), width=0.5)
    assert student.output_shape == (None, CLASSES)
    assert student.layers[-1].activation is keras.activations.softmax
    assert any(isinstance(layer, L.DepthwiseConv2D) for layer in student.layers)
    assert report.parameters_after == student.count_params()
    kopt.DistillationModel(student, teacher())


def test_a_mobile_student_larger_than_its_teacher_is_warned_of():
    small = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(4, activation="softmax")])
    with pytest.warns(UserWarning, match=r"The student takes [\d,]+ multiply-accumulates .* the teacher 256"):
        mobile_student(small, width=0.5)


def test_assistants_teach_in_turn():
    models = [teacher(), network(5, name="assistant"), network(2, name="last")]
    seen = []

    def train(model):
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        model.train_on_batch(X, Y)
        seen.append((model.teachers[0].name, model.student.name))

    before = [bits(model) for model in models]
    reports = teach_in_turn(models, train, temperature=2.0)
    assert seen == [("teacher", "assistant"), ("assistant", "last")]
    assert [report.student for report in reports] == ["assistant", "last"]
    assert [bits(model) == old for model, old in zip(models, before, strict=True)] == [True, False, False]


def test_generations_are_copies_with_fresh_weights():
    first, pairs = network(), []
    students = born_again(first, 2, lambda model: pairs.append((model.teachers[0].model, model.student)))
    assert pairs == [(first, students[0]), (students[0], students[1])]
    assert len({bits(model)[0] for model in (first, *students)}) == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: smaller_student(teacher(), width=0.5, target_macs=0.5), ConfigError, "Give one of them"),
        (lambda: smaller_student(teacher(), width=0.0), ConfigError, r"`width` must be a finite number in \(0, 1\]"),
        (lambda: smaller_student(teacher(), depth=0.5), ConfigError, "No block of 'teacher' can be left out"),
        (lambda: smaller_student(teacher(), target_params=1), ConfigError, "No width brings the student to"),
        (lambda: mobile_student(keras.Sequential([keras.Input((4,)), L.Dense(2)])), UnsupportedModelError, "one image"),
        (lambda: teach_in_turn([teacher()], print), ConfigError, "at least two models"),
        (lambda: born_again(teacher(), 0, print), ConfigError, "`generations` must be a whole number"),
    ],
)
def test_what_cannot_be_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_layer_that_allows_no_other_width_is_named_with_its_reason():
    network = keras.Sequential(
        [keras.Input((4,)), L.Dense(8), L.Reshape((4, 2), name="pairs"), L.Flatten(), L.Dense(2)]
    )
    with pytest.raises(UnsupportedModelError, match=r"because of 'pairs' \(Reshape\): The total size of the tensor"):
        smaller_student(network, width=0.5, round_to=1)


def test_statistics_of_adapted_inputs_go_along(tmp_path):
    x = np.random.default_rng(0).normal(50, 5, (200, 6)).astype("float32")
    scale = L.Normalization(name="scale")
    scale.adapt(x)
    large = keras.Sequential([keras.Input((6,)), scale, L.Dense(16, activation="relu"), L.Dense(1)])
    student, report = smaller_student(large, width=0.5, round_to=1)
    assert "scale" in report.copied
    np.testing.assert_allclose(student.get_layer("scale")(x), scale(x), atol=1e-5)
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), student.predict(x, verbose=0), atol=1e-5)
