"""What brings accuracy back: statistics, a teacher, training, and the best of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channel_cases import outputs, randomized
from test_prune_channels import conv_block, head, image
from zoo import Subclassed

import kopt
from kopt.core.errors import ConfigError, DataError, InputError, NonFiniteError, UnsupportedModelError
from kopt.core.records.changes.recovery import RecoveryStage
from kopt.prune import Recovery, channels, magnitude, recover
from kopt.prune.recovering.distilling import Distilled
from kopt.train.soft_targets import kl

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 3))).argmax(axis=1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(norm=True, **last):
    keras.utils.set_random_seed(3)
    layers = [L.Dense(32, name="hidden"), *([L.BatchNormalization(name="norm")] if norm else []), L.ReLU()]
    return keras.Sequential([keras.Input((8,)), *layers, L.Dense(3, name="out", **last)], name="net")


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_divergence_by_hand():
    z, t = RNG.normal(size=(2, 5, 4)).astype("float32")
    p, q = softmax(t / 3.0), softmax(z / 3.0)
    np.testing.assert_allclose(kl(t, z, temperature=3.0), 9.0 * (p * np.log(p / q)).sum(axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kl(t, t, temperature=3.0), np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("logits", [True, False])
def test_the_distilled_loss_is_that_of_the_task_plus_the_divergence(logits):
    last = {} if logits else {"activation": "softmax"}
    student, teacher = randomized(mlp(**last), 1), randomized(mlp(**last), 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    trainer = Distilled(student, teacher, temperature=2.0, weight=0.5)
    trainer.compile("sgd", loss)
    z, t = (outputs(model, X[:6])[0] for model in (student, teacher))
    if not logits:
        z, t = np.log(z), np.log(t)
    weights = np.array([1, 2, 0, 1, 1, 3], "float32")
    p, q = softmax(t / 2.0), softmax(z / 2.0)
    task = -np.log(softmax(z)[np.arange(6), Y[:6]])
    expected = np.mean(weights * (task + 0.5 * 4.0 * (p * np.log(p / q)).sum(axis=-1)))
    found = trainer.compute_loss(X[:6], Y[:6], student(X[:6]), weights)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert len(trainer.trainable_variables) == len(student.trainable_variables)


def test_statistics_bring_a_pruned_model_nearer_to_the_original():
    i = image()
    x = conv_block(conv_block(conv_block(i, 32, "a"), 32, "b"), 32, "c")
    keras.utils.set_random_seed(0)
    images = RNG.normal(size=(64, 8, 8, 3)).astype("float32")
    model, _ = kopt.train.reestimate_batch_norm(randomized(keras.Model(i, head(x))), images)
    smaller, _ = channels(model, keep=0.5)
    mended, report = kopt.train.reestimate_batch_norm(smaller, images)

    def error(other):
        return float(np.square(outputs(other, images)[0] - outputs(model, images)[0]).mean())

    assert error(mended) < 0.8 * error(smaller)
    assert [change.layer for change in report.layers] == ["a_bn", "b_bn", "c_bn"]


@pytest.mark.slow
def test_every_stage_is_judged_and_the_best_one_is_returned():
    model = randomized(mlp())
    model.compile("sgd", LOSS)
    before = [value.copy() for value in model.get_weights()]
    recovered, report = recover(model, (X, Y), (X[:48], Y[:48]), epochs=3, learning_rate=0.02, seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    names = ["as given", "batch normalization", "epoch 1", "epoch 2", "epoch 3"]
    assert [stage.name for stage in report.stages] == names
    hits = [np.mean(outputs(one, X[:48])[0].argmax(axis=1) == Y[:48]) for one in (model, recovered)]
    assert hits == pytest.approx([report.before, report.after])
    assert report.after == max(stage.metric for stage in report.stages)
    assert report.after > report.before + 0.2
    # Also after training the statistics are those of the data, not moving averages over 9 updates.
    kernel, bias = recovered.get_layer("hidden").get_weights()
    expected = (X @ kernel + bias).mean(axis=0)
    np.testing.assert_allclose(recovered.get_layer("norm").moving_mean.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert type(recovered) is keras.Sequential
    assert not recovered.compiled
    assert (report.metric, report.judged_on, report.teacher) == ("accuracy", "validation", "")


@pytest.mark.slow
def test_a_training_that_makes_it_worse_is_not_returned():
    model = mlp(norm=False)
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    recovered, report = recover(model, (X, np.zeros((96, 3))), epochs=1, learning_rate=10.0, loss="mse")
    assert report.best == "as given"
    assert [(stage.name, stage.metric) for stage in report.stages] == [("as given", None), ("epoch 1", None)]
    assert report.stages[0].loss == 0.0
    assert not any(value.any() for value in recovered.get_weights())
    assert report.judged_on == "train"


@pytest.mark.slow
def test_a_teacher_is_learned_from_without_being_changed():
    teacher = randomized(mlp(), 1)
    teacher.compile("adam", LOSS)
    teacher.fit(X, Y, epochs=20, verbose=0)
    held = [value.copy() for value in teacher.get_weights()]
    smaller, _ = channels(teacher, keep=0.25)
    train = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    far = {}
    for weight in (0.0, 20.0):
        learned, report = recover(
            smaller, train, (X, Y), epochs=15, teacher=teacher, distillation=weight, learning_rate=0.02
        )
        apart = kl(outputs(teacher, X)[0], outputs(learned, X)[0], temperature=2.0)
        far[weight] = float(np.mean(apart))
        assert report.teacher == "net"
        assert report.after > report.before
    assert far[20.0] < 0.7 * far[0.0]
    assert all(np.array_equal(one, other) for one, other in zip(held, teacher.get_weights(), strict=True))


@pytest.mark.slow
def test_data_sets_of_unknown_length_weights_and_metrics_by_name():
    train = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).filter(lambda x, y: True)
    _, report = recover(mlp(), train, epochs=1, loss=LOSS, metric="sparse_top_k_categorical_accuracy")
    assert report.metric == "sparse_top_k_categorical_accuracy"
    _, report = recover(mlp(), (X, Y, np.ones(96)), epochs=1, loss=LOSS)
    assert report.metric == "accuracy"


def test_the_report_shows_itself(tmp_path):
    stages = (RecoveryStage("as given", 2.0, 0.5), RecoveryStage("epoch 1", 1.0, 0.75))
    report = Recovery("net", "accuracy", "validation", "big", stages, "epoch 1")
    assert Recovery.from_json(report.to_json()) == report
    assert "net: accuracy from 50.00% to 75.00% (epoch 1)." in report.table()
    assert "Learned from big. Judged on the validation data." in report.table()
    assert "epoch 1" in report.table(rows=1)
    assert report.plot(tmp_path / "recovery.svg").read_text().startswith("<")
    plain = Recovery("net", "loss", "train", "", (RecoveryStage("as given", 2.0),), "as given")
    assert "loss from 2.0000 to 2.0000" in plain.table()


ENDLESS = tf.data.Dataset.from_tensors((X[:4], Y[:4])).repeat()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"batch_size": 1.5}, ConfigError, "batch_size"),
        ({"temperature": 0}, ConfigError, "temperature"),
        ({"distillation": -1}, ConfigError, "distillation"),
        ({"learning_rate": float("nan")}, ConfigError, "learning_rate"),
        ({"loss": None}, ConfigError, "There is no loss"),
        ({"loss": "msee"}, ConfigError, "Unknown loss 'msee'"),
        ({"teacher": keras.Sequential([keras.Input((8,)), L.Dense(4)])}, ConfigError, "outputs of the same shapes"),
        ({"metric": "accurracy"}, ConfigError, "metric"),
        ({"train": ENDLESS}, DataError, "never ends"),
        ({"validation": ENDLESS}, DataError, "`validation` never ends"),
        ({"train": ENDLESS.take(0)}, DataError, "empty"),
        ({"train": (X[:, :4], Y)}, DataError, "8"),
        ({"train": (X, Y + 7)}, DataError, r"\[0, 3\)|range"),
        ({"train": (X * np.nan, Y)}, NonFiniteError, "NaN"),
        ({"train": X}, DataError, "must be"),
    ],
)
def test_bad_input(settings, error, text):
    with pytest.raises(error, match=text):
        recover(mlp(), **{"train": (X, Y), "loss": LOSS, "epochs": 1, **settings})


def test_models_that_cannot_be_recovered():
    with pytest.raises(InputError, match="finalize"):
        recover(magnitude(mlp(), 0.5)[0], (X, Y), loss=LOSS)
    with pytest.raises(InputError, match="not built"):
        recover(keras.Sequential([L.Dense(3)]), (X, Y), loss=LOSS)
    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    with pytest.raises(UnsupportedModelError):
        recover(subclassed, (X[:, :4], np.zeros((96, 1))), loss="mse")


def two_heads():
    keras.utils.set_random_seed(0)
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    x = L.Dense(16, activation="relu", name="hidden")(L.Concatenate()([first, second]))
    model = keras.Model([first, second], {"a": L.Dense(3, name="a")(x), "b": L.Dense(2, name="b")(x)})
    model.compile("adam", {"a": LOSS, "b": "mse"}, loss_weights={"a": 1.0, "b": 1e-4})
    return model, [X, -X], {"a": Y, "b": 100 * RNG.normal(size=(96, 2)).astype("float32")}


def test_the_weights_of_compiled_losses_count():
    model, x, y = two_heads()
    _, report = recover(model, (x, y), epochs=1)
    loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert report.stages[0].loss == pytest.approx(loss, rel=1e-5)


def test_several_outputs_are_held_against_a_teacher_by_their_losses_and_weights():
    (student, x, y), (teacher, *_) = two_heads(), two_heads()
    randomized(teacher, 5)
    trainer = Distilled(student, teacher, temperature=2.0, weight=0.5)
    trainer.compile("sgd", {"a": LOSS, "b": "mse"}, loss_weights={"a": 1.0, "b": 1e-4})
    plain = student.compute_loss(x, y, student(x))
    ours, theirs = student(x), teacher(x)
    p, q = softmax(np.array(theirs["a"]) / 2.0), softmax(np.array(ours["a"]) / 2.0)
    classes = np.mean(4.0 * (p * np.log(p / q)).sum(axis=-1))
    values = np.mean(np.square(np.array(theirs["b"]) - np.array(ours["b"])))
    found = trainer.compute_loss(x, y, ours)
    assert float(found) == pytest.approx(float(plain) + 0.5 * (classes + 1e-4 * values), rel=1e-4)
    _, report = recover(student, (x, y), epochs=1, teacher=teacher)
    assert report.teacher == teacher.name
    trainer.compile("sgd", {"a": LOSS})
    found = float(trainer.compute_loss(x, {"a": Y}, ours)) - float(LOSS(Y, ours["a"]))
    assert found == pytest.approx(0.5 * classes, rel=1e-3), "an output without a loss is left out"


@pytest.mark.parametrize("logits", [True, False])
def test_sigmoids_are_held_against_a_teacher_label_by_label(logits):
    last = {} if logits else {"activation": "sigmoid"}
    student, teacher = randomized(mlp(**last), 1), randomized(mlp(**last), 2)
    loss = keras.losses.BinaryCrossentropy(from_logits=logits)
    trainer = Distilled(student, teacher, temperature=1.0, weight=0.5)
    trainer.compile("sgd", loss)
    y = RNG.integers(0, 2, (96, 3)).astype("float32")
    q, p = (np.array(model(X), "float64") for model in (student, teacher))
    if logits:
        q, p = (1 / (1 + np.exp(-one)) for one in (q, p))
    apart = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    found = float(trainer.compute_loss(X, y, student(X)))
    assert found == pytest.approx(float(loss(y, student(X))) + 0.5 * apart, rel=1e-3)


def test_a_teacher_brings_back_a_model_of_numbers_and_one_with_a_loss_of_its_own():
    teacher = randomized(mlp(), 2)
    targets = teacher.predict(X, verbose=0)
    smaller, _ = channels(teacher, keep=0.5)

    def own(y, z):
        return keras.ops.mean(keras.ops.abs(y - z), axis=-1)

    for loss in ("mse", own):
        _, report = recover(smaller, (X, targets), epochs=10, loss=loss, teacher=teacher, learning_rate=0.01)
        assert report.metric == "loss"
        assert report.stages[report.stages.index(next(s for s in report.stages if s.name == report.best))].loss < (
            0.8 * report.stages[0].loss
        )


def test_the_scores_of_rounds_are_by_the_compiled_losses():
    model, x, y = two_heads()
    smaller, report = kopt.prune.iterative(
        model, target_params=0.5, rounds=2, train=(x, y), validation=(x, y), epochs=1, criterion="taylor", round_to=1
    )
    assert smaller.get_layer("hidden").units < 16
    assert report.metric_before == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-5)


def test_a_teacher_does_not_take_the_loss_scaling_from_a_student_in_float16(monkeypatch):
    with kopt.train.precision("mixed_float16"):
        student = mlp(dtype="float32")
    seen = []
    fit = Distilled.fit
    monkeypatch.setattr(
        Distilled, "fit", lambda self, *args, **settings: (seen.append(self.optimizer), fit(self, *args, **settings))[1]
    )
    recover(student, (X, Y), epochs=1, loss=LOSS, teacher=mlp())
    assert isinstance(seen[0], keras.optimizers.LossScaleOptimizer)


def test_a_metric_of_which_lower_is_better_is_refused():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ConfigError, match=r"higher is better\. Received: 'mae', of which lower is"):
        kopt.prune.recover(model, (x, x[:, :1]), loss="mse", metric="mae", epochs=1)
