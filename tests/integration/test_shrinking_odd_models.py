"""Models, data and settings that are legitimate and not ordinary: searched and pruned rightly, or refused at once."""

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, DataError
from kopt.prune.recovering.distilling import Distilled
from kopt.search.lessons import prepare
from kopt.search.training import Training

pytestmark = pytest.mark.slow
L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 5)).astype("float32"), RNG.integers(0, 3, 80)
LOSS = "sparse_categorical_crossentropy"


def named_output():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    return keras.Model(
        inputs, {"kind": L.Dense(3, activation="softmax", name="out")(L.Dense(8, name="hidden")(inputs))}
    )


def plain(loss=None):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(16, name="a"), L.Dense(16, name="b"), L.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((5,)), *layers], name="plain")
    if loss is not None:
        model.compile("adam", loss)
    return model


def test_one_output_in_a_dict_is_searched_to_the_end(tmp_path):
    model = named_output()
    model.compile("adam", LOSS)
    budget = kopt.Budget(max_drop=0.5)
    run = {"workdir": tmp_path / "run", "progress": None, "techniques": ["tflite-float32"]}
    result = kopt.optimize(model, (X, Y), (X, Y), budget=budget, **run)
    assert result.best_name == "tflite-float32"
    assert result.sensitivity is not None


@pytest.mark.parametrize("metric", [None, "accuracy", "loss", keras.metrics.AUC(from_logits=False, name="auc")])
def test_its_sensitivity_is_that_of_the_output_itself(metric):
    boxed = named_output()
    bare = keras.Model(boxed.inputs, boxed.outputs[0])
    y = np.eye(3, dtype="float32")[Y] if isinstance(metric, keras.metrics.Metric) else Y
    loss = "categorical_crossentropy" if y.ndim == 2 else LOSS
    found = [
        kopt.profile.sensitivity(one, (X, y), loss=loss, metric=metric, estimate_examples=8) for one in (boxed, bare)
    ]
    for one, other in zip(*(profile.layers for profile in found), strict=True):
        assert str(one) == str(other)


def test_gradients_by_a_given_loss_go_into_the_dict():
    for call in (
        lambda: kopt.prune.gradient(named_output(), (X, Y), sparsity=0.5, loss=LOSS),
        lambda: kopt.prune.channels(named_output(), keep=0.5, criterion="taylor", data=(X, Y), loss=LOSS, round_to=1),
    ):
        assert call()[0].output["kind"].shape == (None, 3)
    inputs = keras.Input((5,))
    unlike = keras.Model(inputs, [L.Dense(3)(inputs), L.Dense(2)(inputs)])
    with pytest.raises(ConfigError, match="the model has 2 outputs"):
        kopt.prune.gradient(unlike, (X, [X[:, :3], X[:, :2]]), sparsity=0.5, loss="mse")


def test_several_labels_of_an_example_are_not_judged_by_the_largest():
    inputs, dense = keras.Input((3,)), L.Dense(3, activation="sigmoid")
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.eye(3) * 50, np.zeros(3)])
    x = RNG.normal(size=(100, 3)).astype("float32")
    with pytest.raises(DataError, match="several classes of an example or none"):
        kopt.quantize.fallback(model, x, evaluate=(x, (x > 0).astype(int)), samples=20)
    found = kopt.measure.evaluate(model, (x, (x > 0).astype(int)), metrics="binary_accuracy").metrics
    assert found["binary_accuracy"] == pytest.approx(1.0)


def test_metric_objects_count_all_batches():
    model = plain()
    batches = kopt.data.from_arrays(X, np.eye(3)[Y], batch_size=16)
    found = [
        kopt.measure.evaluate(model, batches, metrics=one).metrics
        for one in ("mae", keras.metrics.MeanAbsoluteError("mae"))
    ]
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("loss", [{"out": LOSS}, [LOSS]])
def test_a_loss_in_a_dict_or_list_is_the_loss(loss):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(3, activation="softmax", name="out")(inputs))
    model.compile("adam", loss)
    assert prepare(model, (X, Y), Training(), num_classes=3, seed=0).loss == LOSS
    assert kopt.prune.recover(model, (X, Y), epochs=1)[1].metric == "accuracy"


def test_the_loss_that_keras_resolves_is_taken():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(3, activation="softmax")(inputs))
    model.compile("adam", "crossentropy")
    assert kopt.prune.recover(model, (X, np.eye(3)[Y]), epochs=1)[1].stages


def test_inputs_alone_may_come_as_a_split():
    for data in (kopt.data.Split(X, None), (X, None)):
        assert len(prepare(plain("mse"), data, Training(), num_classes=None, seed=0).train) == 72


def test_a_teacher_counts_steps_of_sequences_as_the_loss_does():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int64")
    models = [
        keras.Model(inputs, L.Dense(3, activation="softmax")(L.Embedding(9, 4, mask_zero=True)(inputs))) for _ in "ab"
    ]
    x = RNG.integers(1, 9, (6, 4))
    x[:, 2:] = 0
    trainer = Distilled(*models, temperature=1.0, weight=1.0)
    trainer.compile("sgd", LOSS)
    q, p = (model.predict(x, verbose=0)[:, :2] for model in models)
    apart = np.mean((p * np.log(p / q)).sum(-1))
    y = RNG.integers(0, 3, (6, 4))
    plain_loss = models[0]
    plain_loss.compile("sgd", LOSS)
    task = float(plain_loss.compute_loss(x, y, plain_loss(x)))
    assert float(trainer.compute_loss(x, y, models[0](x))) == pytest.approx(task + apart, rel=1e-4)
    weights = RNG.random((6, 4)).astype("float32")
    _, report = kopt.prune.recover(models[0], (x, y, weights), epochs=1, loss=LOSS, teacher=models[1])
    assert report.stages


def test_a_subclassed_teacher_is_asked():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    teacher = Own()
    teacher(X)
    _, report = kopt.prune.recover(plain(), (X, np.zeros((80, 3))), epochs=1, loss="mse", teacher=teacher)
    assert report.teacher == teacher.name


def test_rounds_of_other_settings_are_not_taken(tmp_path):
    model = plain()

    def resumed(**settings):
        _, report = kopt.prune.iterative(
            model, target_params=0.6, rounds=1, fine_tune=lambda _: None, round_to=1, workdir=tmp_path, **settings
        )
        return report.resumed

    assert [resumed(protect={"a"}), resumed(protect={"a"}), resumed(protect={"b"})] == [0, 1, 0]
    losses = keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError()
    data = {"validation": (X, np.zeros((80, 3)))}
    assert [resumed(loss=losses[0], **data), resumed(loss=losses[0], **data), resumed(loss=losses[1], **data)] == [
        0,
        1,
        0,
    ]


def test_layers_that_an_iterator_names_are_protected_in_every_round():
    smaller, _ = kopt.prune.iterative(
        plain(), target_params=0.6, rounds=2, fine_tune=lambda model: None, round_to=1, protect=iter(["a"])
    )
    assert smaller.get_layer("a").units == 16
    assert smaller.get_layer("b").units < 16


def test_one_class_is_called_one_class(tmp_path):
    model = keras.Sequential([keras.Input((5,)), L.Dense(3, activation="softmax")])
    budget = kopt.Budget(max_class_drop=0.1)
    with pytest.raises(ConfigError, match="validation has one only"):
        kopt.optimize(model, (X, Y), (X, 0 * Y), budget=budget, workdir=tmp_path / "run", progress=None)
