import keras
import numpy as np
import pytest
import tensorflow as tf
from training_cases import CLASSES, examples, largest_difference, network

from kopt.core.errors import ConfigError, DataError, DivergedError
from kopt.train import make_train_step

X, Y = examples(40)
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
WEIGHTS = {label: 1.0 + label for label in range(CLASSES)}
LOSS = "sparse_categorical_crossentropy"


def expected(**settings):
    model = network()
    return model, model.fit(X, Y, batch_size=16, shuffle=False, verbose=0, **settings).history


def step_of(model, **settings):
    settings.setdefault("jit_compile", False)
    return make_train_step(model, keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], **settings)


def check(model, logs, plain, history):
    assert largest_difference(plain, model) < 1e-6
    for key, values in history.items():
        assert float(logs[key]) == pytest.approx(values[0], abs=1e-6)


@pytest.mark.slow
def test_a_loop_of_steps_is_an_epoch_of_fit():
    model = network(compiled=False)
    step = step_of(model)
    for x, y in DATA:
        logs = step(x, y)
    check(model, logs, *expected())
    assert not model.compiled


@pytest.mark.slow
def test_many_steps_in_one_graph_are_the_same():
    model = network(compiled=False)
    check(model, step_of(model).run(DATA), *expected())


@pytest.mark.slow
def test_run_goes_on_with_an_iterator():
    one, other = network(compiled=False), network(compiled=False)
    step_of(one).run(DATA)
    iterator, step = iter(DATA), step_of(other)
    step.run(iterator, 2)
    step.run(iterator, 1)
    assert largest_difference(one, other) == 0
    with pytest.raises(DataError, match="no batches left"):
        step.run(iterator)


@pytest.mark.slow
def test_class_and_sample_weights_multiply():
    sample_weight = np.linspace(0.1, 1, 40, dtype=np.float32)
    both = sample_weight * np.array([WEIGHTS[label] for label in Y], np.float32)
    model = network(compiled=False)
    step = step_of(model, class_weight=WEIGHTS)
    for start in range(0, 40, 16):
        rows = slice(start, start + 16)
        logs = step(X[rows], Y[rows], sample_weight[rows])
    check(model, logs, *expected(sample_weight=both))
    model = network(compiled=False)
    check(model, step_of(model, class_weight=WEIGHTS).run(DATA), *expected(class_weight=WEIGHTS))


@pytest.mark.slow
def test_metrics_begin_anew():
    step = step_of(network(compiled=False))
    first = float(step(X[:16], Y[:16])["loss"])
    step.reset_metrics()
    second = float(step(X[16:32], Y[16:32])["loss"])
    mean = float(step(X[:16], Y[:16])["loss"])
    assert first != second != mean


@pytest.mark.slow
def test_skipped_steps_are_counted():
    step = step_of(network(compiled=False))
    step(X[:4], Y[:4])
    step(X[:4] * np.nan, Y[:4])
    assert step.skipped_steps == 1
    step.reset_metrics()
    assert step.skipped_steps == 0


@pytest.mark.slow
def test_flush_applies_what_is_left():
    model = network(compiled=False)
    step = step_of(model, accumulate_steps=4)
    before = model.get_weights()[0]
    step(X[:8], Y[:8])
    np.testing.assert_array_equal(model.get_weights()[0], before)
    step.flush()
    assert not np.array_equal(model.get_weights()[0], before)
    assert int(step.optimizer.iterations) == 1


def test_float16_layers_get_their_loss_scaled():
    model = network(compiled=False)
    model.get_layer("dense").dtype_policy = keras.DTypePolicy("mixed_float16")
    assert isinstance(step_of(model).optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.slow
def test_a_short_training_stays_plain_and_says_so():
    model = network(compiled=False)
    step = step_of(model, jit_compile="auto")
    for _ in range(12):
        step(X[:16], Y[:16])
    decision = step.decision
    assert decision.reason.startswith("not tried: too little training")
    assert decision.plain_step_ms > 0


@pytest.mark.slow
def test_both_forms_are_measured_when_it_can_pay(monkeypatch):
    monkeypatch.setattr("kopt.train.steps.jit.WORTHWHILE_S", 0.0)
    step = step_of(network(compiled=False, dropout=0), jit_compile="auto")
    for _ in range(12):
        step(X[:16], Y[:16])
    decision = step.decision
    assert decision.reason.startswith("measured: compiled steps run at ")
    assert decision.jit_compile == (decision.jit_step_ms < decision.plain_step_ms)
    assert decision.compile_s > 0


def test_class_weights_need_labels():
    with pytest.raises(ConfigError, match="labels of one output"):
        step_of(network(compiled=False), class_weight=WEIGHTS)(X[:4])


def test_run_refuses_what_is_no_stream_of_batches():
    step = step_of(network(compiled=False))
    with pytest.raises(DataError, match=r"must be a tf\.data\.Dataset of batches.*Received: builtins\.tuple"):
        step.run((X, Y), 3)
    for steps in (0, -5):
        with pytest.raises(ConfigError, match=f"`steps` must be .*Received: {steps}"):
            step.run(DATA, steps)
    assert not step.optimizer.built


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, None, "There are no targets, and the loss 'sparse_categorical_crossentropy'"),
        (X, Y + CLASSES, "Targets must lie in"),
        (X[:, :2], Y, "needs float32"),
        (X[0], Y[0], "gives single examples"),
        (X, np.array(["a", "b"] * 20), "Targets are object; a loss needs numbers"),
    ],
)
def test_a_first_batch_that_does_not_fit_is_refused(x, y, message):
    step = step_of(network(compiled=False))
    with pytest.raises(DataError, match=message):
        step(x, y)
    if y is not None and y.dtype.kind != "U":
        with pytest.raises(DataError, match=message):
            step.run(tf.data.Dataset.from_tensors((x, y)))


def with_a_label_out_of_range():
    labels = Y.copy()
    labels[20] = 77
    return tf.data.Dataset.from_tensor_slices((X, labels)).batch(10)


@pytest.mark.slow
def test_a_label_out_of_range_in_a_later_batch_is_named():
    with pytest.raises(DataError, match=rf"the label 77, but the labels must lie in \[0, {CLASSES}\)"):
        step_of(network(compiled=False)).run(with_a_label_out_of_range())


@pytest.mark.slow
def test_a_label_out_of_range_is_left_out_by_a_compiled_step():
    # It has no way to raise: it gives NaN.
    step = step_of(network(compiled=False), jit_compile=True)
    assert step.run(with_a_label_out_of_range())["skipped_steps"] == 1


@pytest.mark.slow
def test_batches_that_are_left_out_are_counted_and_many_in_a_row_end_the_run():
    step = step_of(network(compiled=False), max_nonfinite_steps=3)
    assert "skipped_steps" not in step(X[:4], Y[:4])
    assert int(step(X[:4] * np.nan, Y[:4])["skipped_steps"]) == 1
    with pytest.raises(
        DivergedError, match=r"3 steps in a row were NaN or infinite, up to step 2 of this run;.*The batch"
    ):
        step.run(tf.data.Dataset.from_tensor_slices((X * np.nan, Y)).batch(4))


def test_weights_that_could_not_be_applied_are_refused():
    step = step_of(network(compiled=False), class_weight=WEIGHTS)
    with pytest.raises(ConfigError, match="cannot be applied to an iterator"):
        step.run(iter(DATA))
    with pytest.raises(ConfigError, match="Pass `y` with it"):
        step_of(network(compiled=False))(X[:4], None, np.ones(4))


@pytest.mark.slow
def test_a_layer_frozen_between_two_steps_stays_as_it_is():
    model = network(compiled=False)
    step = step_of(model)
    step(X[:16], Y[:16])
    model.get_layer("conv").trainable = False
    frozen = model.get_layer("conv").get_weights()[0]
    step(X[:16], Y[:16])
    np.testing.assert_array_equal(model.get_layer("conv").get_weights()[0], frozen)
