"""What `keras.distillation.Distiller` of Keras 3.15 gets wrong or refuses, a test each."""

import keras
import numpy as np
import pytest
from distillation_cases import CLASSES, L, bits, examples, network, teacher

import kopt

X, Y = examples()
LOSS = "sparse_categorical_crossentropy"


def distilled(student=None, *, loss=LOSS, compiled=None, **settings):
    model = kopt.DistillationModel(student or network(), teacher(), **settings)
    model.compile(keras.optimizers.SGD(0.05), loss, **(compiled or {}))
    return model


def test_evaluating_with_features_keeps_batch_statistics():
    model = distilled(features="auto")
    before = bits(model)
    model.evaluate(X, Y, verbose=0)
    assert bits(model) == before


def test_regularization_is_part_of_the_loss():
    student = network(regularizer="l2")
    expected = 0.01 * float((student.get_layer("one").kernel.numpy() ** 2).sum())
    model = distilled(student, compiled={"run_eagerly": True})
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert logs["loss"] == pytest.approx(0.3 * logs["hard_loss"] + 0.7 * logs["soft_loss"] + expected, rel=1e-5)


def test_sample_weights_count():
    """An example of weight 0 changes nothing, one of weight 2 counts twice; the mean is over all examples."""
    logs = []
    for x, y, weight in ((X[:4], Y[:4], [1.0, 0.0, 2.0, 1.0]), (X[[0, 2, 2, 3]], Y[[0, 2, 2, 3]], [1.0] * 4)):
        model = distilled(network(norm=False), features="auto", compiled={"run_eagerly": True})
        for projector in model.projectors:
            projector.kernel.assign(np.ones(projector.kernel.shape))
        logs.append(model.train_on_batch(x, y, sample_weight=np.array(weight), return_dict=True))
    for name, value in logs[0].items():
        assert value == pytest.approx(logs[1][name], rel=1e-5), name


def test_class_weights_count():
    weight = {0: 0.0, 1: 2.0, 2: 1.0, 3: 0.5}
    by_class = distilled(compiled={"run_eagerly": True}).train_on_batch(X, Y, class_weight=weight, return_dict=True)
    weights = np.array([weight[label] for label in Y])
    by_example = distilled(compiled={"run_eagerly": True}).train_on_batch(X, Y, sample_weight=weights, return_dict=True)
    plain = distilled(compiled={"run_eagerly": True}).train_on_batch(X, Y, return_dict=True)
    assert by_class == by_example
    assert by_class["soft_loss"] != plain["soft_loss"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_student_of_another_precision_than_the_teacher(policy):
    student = network(dtype=policy)
    model = distilled(student, features="auto", compiled={"run_eagerly": True})
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    before = bits(student)
    seen = []
    large = model.teachers[0].model
    plain = large.get_layer("two").call
    large.get_layer("two").call = lambda inputs: seen.append(inputs.dtype.name) or plain(inputs)
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert bits(student) != before
    assert seen == ["float32"]


@pytest.mark.slow
def test_features_of_unequal_widths_sizes_and_ranks():
    model = distilled(features=[("two", "two"), ("one", "two"), ("pooled", "one")])
    assert [projector.kernel.shape for projector in model.projectors] == [(6, 16), (3, 16), (6, 8)]
    before = [bits(projector) for projector in model.projectors]
    history = model.fit(X, Y, verbose=0).history
    assert {"two_fitnet", "one_fitnet", "pooled_fitnet"} <= set(history)
    assert all(bits(one) != other for one, other in zip(model.projectors, before, strict=True))


def test_data_without_labels():
    history = distilled(loss=None).fit(X, verbose=0).history
    assert set(history) == {"loss", "soft_loss"}


@pytest.mark.slow
def test_layers_of_a_subclassed_student():
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.head = L.Conv2D(2, 3, name="conv"), L.GlobalMaxPooling2D(), L.Dense(CLASSES)

        def call(self, inputs):
            return self.head(self.pool(self.conv(inputs)))

    student = Small()
    student(X)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = distilled(student, loss=loss, features=[("conv", "two")], student_form="logits")
    assert "conv_fitnet" in model.fit(X, Y, verbose=0).history


def test_the_student_runs_once_a_step():
    student, calls = network(), []
    layer = student.get_layer("one")
    plain = layer.call
    layer.call = lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    model = distilled(student, features="auto", compiled={"run_eagerly": True})
    model.train_on_batch(X, Y)
    calls.clear()
    model.train_on_batch(X, Y)
    assert len(calls) == 1
