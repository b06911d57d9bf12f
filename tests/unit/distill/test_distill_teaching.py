"""One call that teaches a student."""

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, DataError
from kopt.core.records.changes.distillation import TeachingReport

L = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(256, 8)).astype("float32")
TRUE = RANDOM.normal(size=(8, 3)).astype("float32")
Y = (X @ TRUE).argmax(-1)


@pytest.fixture
def teacher():
    """It knows the rule by which the labels were made."""
    model = keras.Sequential([keras.Input((8,)), L.Dense(3, activation="softmax", name="rule")], name="rule")
    model.set_weights([TRUE, np.zeros(3, "float32")])
    return model


@pytest.fixture
def student():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((8,)), L.Dense(3, activation="softmax", name="classes")], name="pupil")


CE = "sparse_categorical_crossentropy"


@pytest.mark.slow
def test_a_student_learns_and_the_report_says_what_it_is_worth(student, teacher, tmp_path):
    before = teacher.get_weights()[0]
    report = kopt.distill.teach(
        student, teacher, (X[:192], Y[:192]), (X[192:], Y[192:]), epochs=5, loss=CE, learning_rate=0.1
    )
    found = np.mean(student.predict(X[192:], verbose=0).argmax(-1) == Y[192:])
    assert report.after == pytest.approx(found, abs=1e-6)
    assert report.after > max(report.before, 0.8)
    assert report.teacher_value == pytest.approx(1.0)
    assert (report.parameters, report.macs, report.teacher_parameters) == (27, 24, 27)
    assert [stage.name for stage in report.stages] == ["as given", *(f"epoch {number}" for number in range(1, 6))]
    np.testing.assert_array_equal(teacher.get_weights()[0], before)
    shown = report.table()
    assert "pupil learned from rule" in shown
    assert "output classes: kl" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert report.plot(tmp_path / "course.svg").read_text().startswith("<svg")
    assert TeachingReport.from_json(report.to_json()).best == report.best


def test_statistics_that_lag_behind_a_short_training_are_estimated_anew(teacher):
    keras.utils.set_random_seed(1)
    inside = [L.Dense(16), L.BatchNormalization(momentum=0.9999, name="norm"), L.ReLU()]
    student = keras.Sequential([keras.Input((8,)), *inside, L.Dense(3, activation="softmax")])
    report = kopt.distill.teach(student, teacher, (3 * X + 1, Y), epochs=4, loss=CE, learning_rate=0.02, alpha=0.0)
    lagging, settled = report.stages[-2:]
    assert (lagging.name, settled.name, report.best) == ("epoch 4", "batch normalization", "batch normalization")
    assert settled.metric > lagging.metric + 0.05
    before_norm = student.layers[0](3 * X + 1).numpy()
    np.testing.assert_allclose(student.get_layer("norm").moving_mean, before_norm.mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_work_of_a_subclassed_teacher_is_counted(student):
    class Rule(keras.Model):
        def __init__(self):
            super().__init__(name="rule")
            self.inner, self.outer = L.Dense(16, activation="relu"), L.Dense(3, activation="softmax")

        def call(self, x):
            return self.outer(self.inner(x))

    rule = Rule()
    rule(X[:1])
    report = kopt.distill.teach(student, rule, (X, Y), epochs=1, loss=CE)
    assert report.teacher_macs == 8 * 16 + 16 * 3


@pytest.mark.slow
def test_the_best_epoch_is_kept_but_masks_end_with_their_schedule(student, teacher):
    # A rate that only destroys: what was given stays the best.
    student.set_weights([TRUE, np.zeros(3, "float32")])
    data = {"train": (X, -Y % 3), "validation": (X, Y), "epochs": 2, "loss": CE, "learning_rate": 3.0, "alpha": 0.0}
    report = kopt.distill.teach(student, teacher, **data)
    assert report.best == "as given"
    np.testing.assert_array_equal(student.get_weights()[0], TRUE)
    last = kopt.distill.teach(student, teacher, **data, keep="last")
    assert last.best == "epoch 2"
    assert last.after < last.before
    student.set_weights([TRUE, np.zeros(3, "float32")])
    schedule = kopt.prune.schedules.Polynomial(0.5, begin=1, end=8, frequency=1)
    masked, _ = kopt.prune.magnitude(student, schedule)
    assert kopt.distill.teach(masked, teacher, **data).best == "epoch 2"
    assert np.mean(kopt.prune.finalize(masked)[0].get_weights()[0] == 0) == 0.5


@pytest.mark.slow
def test_progress_counts_epochs(student, teacher):
    said = []

    class Told:
        def start(self, total):
            said.append(total)

        def step(self, description):
            said.append(description)

        def finish(self):
            said.append("end")

    kopt.distill.teach(student, teacher, (X, Y), epochs=2, loss=CE, progress=Told())
    assert said == [2, "epoch 1", "epoch 2", "end"]


@pytest.mark.slow
def test_a_loss_without_a_metric_is_judged_by_itself(student, teacher):
    report = kopt.distill.teach(student, teacher, (X, np.eye(3)[Y]), epochs=1, loss="mse")
    assert (report.metric, report.teacher_value, report.judged_on) == ("loss", None, "train")
    assert report.after < report.before
    assert "Left" in report.table()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "There is no loss"),
        ({"loss": CE, "keep": "first"}, ConfigError, "`keep`"),
        ({"loss": CE, "epochs": 0}, ConfigError, "`epochs`"),
        ({"loss": CE, "temperature": 0}, ConfigError, "`temperature`"),
        ({"loss": CE, "train": (X, Y + 3)}, DataError, "class"),
        ({"loss": CE, "train": (X[:, :4], Y)}, DataError, "8"),
    ],
)
def test_mistakes(student, teacher, settings, error, message):
    with pytest.raises(error, match=message):
        kopt.distill.teach(student, teacher, **{"train": (X, Y), **settings})


def test_labels_that_are_missing_on_purpose(student, teacher):
    y = np.where(np.arange(256) % 2, Y, -1)
    report = kopt.distill.teach(student, teacher, (X, y), (X, Y), epochs=1, loss=CE, unlabeled=-1)
    assert report.teacher_value == pytest.approx(1.0)


def test_a_cache_teaches(student, teacher, tmp_path):
    data = kopt.data.from_arrays(X, Y, batch_size=32)
    cache = kopt.distill.cache_teacher(teacher, data, tmp_path / "cache")
    report = kopt.distill.teach(student, cache, cache.join(data), (X, Y), epochs=1, loss=CE)
    assert [stage.name for stage in report.stages] == ["as given", "epoch 1"]


@pytest.mark.slow
def test_of_equal_accuracies_the_lower_loss_is_best(teacher):
    """Nineteen of twenty examples are of one class: accuracy does not move while the student learns."""
    keras.utils.set_random_seed(0)
    labels = (np.arange(256) % 20 == 0).astype("int64")
    small = keras.Sequential([keras.Input((8,)), L.Dense(2, "softmax")])
    small.layers[0].bias.assign([5.0, 0.0])
    small.layers[0].kernel.assign(0.1 * small.layers[0].kernel)
    large = keras.Sequential([keras.Input((8,)), L.Dense(2, "softmax")])
    before = small.get_weights()
    data = {"train": (X, labels), "validation": (X, labels), "epochs": 2, "loss": CE, "alpha": 0.0}
    report = kopt.distill.teach(small, large, **data, learning_rate=1e-3)
    assert len({stage.metric for stage in report.stages}) == 1
    assert report.best == min(report.stages, key=lambda stage: stage.loss).name == "epoch 2"
    assert not np.array_equal(small.get_weights()[0], before[0])
