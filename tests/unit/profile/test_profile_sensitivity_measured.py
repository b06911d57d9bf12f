import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from kopt.core.errors import ConfigError
from kopt.core.records.profiles.sensitivity import PERTURBATIONS, Perturbation, SensitivityProfile
from kopt.graph import owned_variables
from kopt.profile import layer_sensitivity
from kopt.profile.layer_sensitivity import suffixes
from kopt.profile.layer_sensitivity.kernels import targets_of

L = keras.layers
RANDOM = np.random.default_rng(0)
KERNELS = [name for name in PERTURBATIONS if name != "removed"]


def sensitivity(model, data, **settings):
    """Measure without estimates, which have a test file of their own."""
    return layer_sensitivity.sensitivity(model, data, **{"estimate_examples": 0, **settings})


def images(count, *shape):
    return RANDOM.normal(size=(count, *shape)).astype(np.float32)


def compiled(model, loss="sparse_categorical_crossentropy", **settings):
    for variable in model.variables:  # Weights and statistics that are not all alike.
        if "float" in str(variable.dtype) and "variance" not in variable.name:
            variable.assign(variable.numpy() + RANDOM.normal(0, 0.1, variable.shape))
    model.compile(loss=loss, **settings)
    return model


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sequence_labeller():
    i = keras.Input((6,), dtype="int32")
    x = L.Embedding(12, 8, mask_zero=True)(i)
    return keras.Model(i, L.Dense(4, "softmax")(L.SimpleRNN(5, return_sequences=True)(x)))


def residual():
    i = x = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(x)
    y = L.Conv2D(4, 3, padding="same", name="inner")(x)
    y = L.BatchNormalization()(y)
    x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(i, L.Dense(3, "softmax", name="last")(L.GlobalAveragePooling2D()(x)))


def subclassed():
    model = zoo.Subclassed()
    model(np.zeros((1, 6), np.float32))
    return model


CASES = {
    "residual": (residual, images(20, 8, 8, 3), RANDOM.integers(0, 3, 20)),
    "lstm": (zoo.lstm, images(20, 10, 6), RANDOM.integers(0, 3, 20)),
    "transformer": (zoo.transformer, RANDOM.integers(0, 40, (20, 8)), RANDOM.integers(0, 3, 20)),
    "nested": (zoo.nested, images(20, 8, 8, 2), RANDOM.integers(0, 3, 20)),
    "conv1d": (zoo.conv1d, images(20, 24, 4), RANDOM.integers(0, 3, 20)),
    "subclassed": (subclassed, images(20, 6), RANDOM.integers(0, 4, 20)),
}


def judged(model, x, y, target, perturbation):
    kept = [kernel.variable.numpy() for kernel in target.kernels]
    for kernel, value in zip(target.kernels, target.perturbed(Perturbation.of(perturbation), 0), strict=True):
        kernel.variable.assign(value)
    losses, hits = plain(model, x, y)
    for kernel, value in zip(target.kernels, kept, strict=True):
        kernel.variable.assign(value)
    return losses, hits


def plain(model, x, y):
    outputs = model.predict(x, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=model.loss is LOGITS)
    return np.asarray(losses), np.argmax(outputs, -1) == y


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "transformer" else name for name in CASES]
)
def test_every_effect_is_that_of_the_model_with_the_perturbed_weights_assigned(name):
    build, x, y = CASES[name]
    model = compiled(build(), LOGITS if name in ("nested", "conv1d") else "sparse_categorical_crossentropy")
    profile = sensitivity(model, (x, y), perturbations=("int4", "pruned_70"), batch_size=7)
    targets = {target.path: target for target in targets_of(model)[0]}
    before = plain(model, x, y)
    assert set(targets) == {layer.layer for layer in profile.layers}
    for layer in profile.layers:
        for perturbation in ("int4", "pruned_70"):
            after = judged(model, x, y, targets[layer.layer], perturbation)
            effect = layer.effect(perturbation)
            changes = after[0] - before[0]
            assert effect.loss_change == pytest.approx(changes.mean(), rel=1e-3, abs=2e-6)
            assert effect.loss_error == pytest.approx(changes.std(ddof=1) / np.sqrt(20), rel=1e-3, abs=2e-6)
            assert effect.metric_drop == pytest.approx(before[1].mean() - after[1].mean(), abs=1e-6)
    assert profile.loss == pytest.approx(before[0].mean(), rel=1e-4)
    assert profile.metric_value == pytest.approx(before[1].mean())


@pytest.mark.slow
def test_the_model_is_left_as_it_was():
    model = compiled(
        keras.Sequential([keras.Input((4,)), L.Dense(8), L.Dropout(0.5), L.BatchNormalization(), L.Dense(3, "softmax")])
    )
    x, y = images(30, 4), RANDOM.integers(0, 3, 30)
    model.fit(x, y, verbose=0)
    model.train_function, model.predict_function = before = object(), object()
    values = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    state = np.random.get_state()[1].copy()
    layer_sensitivity.sensitivity(model, (x, y))
    for variable, value in zip((*model.variables, *model.optimizer.variables), values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert (model.train_function, model.predict_function) == before
    assert "call" not in vars(model.layers[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.slow
def test_two_runs_give_the_same_record_but_for_the_time():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    first, second = (sensitivity(model, (x, y), perturbations=("noise_10", "int4"), seed=3) for _ in range(2))
    assert first.layers == second.layers
    other = sensitivity(model, (x, y), perturbations=("noise_10", "int4"), seed=4)
    assert other.layers[0].effect("noise_10") != first.layers[0].effect("noise_10")
    assert other.layers[0].effect("int4").loss_change == first.layers[0].effect("int4").loss_change


def test_a_layer_of_equal_input_and_output_is_passed_over_when_removed_and_another_one_sees_nothing():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    profile = sensitivity(model, (x, y), perturbations=("removed",), batch_size=8)
    first = keras.Model(model.input, model.get_layer("first").output)(x)
    tail = model.layers
    normalized = tail[[layer.name for layer in tail].index("inner") + 1](first, training=False)
    passed = model.get_layer("last")(tf.reduce_mean(tf.nn.relu(first + normalized), axis=(1, 2)))
    losses = keras.losses.sparse_categorical_crossentropy(y, passed)
    effect = profile.layer("inner").effect("removed")
    assert effect.passed_over
    assert effect.squared_change is None
    assert effect.loss_change == pytest.approx(np.mean(losses) - profile.loss, rel=1e-3, abs=1e-6)
    effect = profile.layer("last").effect("removed")
    assert not effect.passed_over
    constant = keras.ops.softmax(model.get_layer("last").bias)
    expected = -np.log(np.asarray(constant))[y].mean()
    assert effect.loss_change == pytest.approx(expected - profile.loss, rel=1e-3, abs=1e-6)


def test_a_shared_layer_is_not_passed_over():
    i = keras.Input((4,))
    shared = L.Dense(4, name="shared")
    model = compiled(keras.Model(i, L.Dense(3, "softmax")(shared(shared(i)))))
    profile = sensitivity(model, (images(9, 4), RANDOM.integers(0, 3, 9)), perturbations=("removed",))
    assert not profile.layer("shared").effect("removed").passed_over


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 6000, 1 << 30])
def test_little_memory_changes_the_number_of_passes_and_nothing_else(limit):
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    whole = sensitivity(model, (x, y), batch_size=8)
    parts = sensitivity(model, (x, y), batch_size=8, cache_bytes=limit)
    assert parts.layers == whole.layers
    assert any("groups" in note for note in parts.notes) == (limit < 1 << 30)


@pytest.mark.slow
def test_layers_that_share_a_function_have_the_same_effects(monkeypatch):
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    apart = sensitivity(model, (x, y))
    monkeypatch.setattr(suffixes, "MOST_SUFFIXES", 1)
    together = sensitivity(model, (x, y))
    for one, other in zip(apart.layers, together.layers, strict=True):
        for effect, same in zip(one.effects, other.effects, strict=True):
            assert same.loss_change == pytest.approx(effect.loss_change, rel=1e-4, abs=1e-6)


def test_the_last_layer_is_computed_alone():
    calls = []

    @keras.saving.register_keras_serializable("kopt_tests")
    class Counting(L.Layer):
        def call(self, inputs):
            def count(value):
                calls.append(len(value))
                return value

            outputs = tf.numpy_function(count, [inputs], tf.float32)
            outputs.set_shape(inputs.shape)
            return outputs

    model = compiled(keras.Sequential([keras.Input((4,)), Counting(), L.Dense(3, "softmax", name="last")]))
    calls.clear()
    x, y = images(40, 4), RANDOM.integers(0, 3, 40)
    sensitivity(model, (x, y), perturbations=KERNELS, batch_size=10)
    # Eight examples to hold the outputs against the loss; one each for the shape of the outputs, for the sizes of
    # what is kept and to optimize the graph; two extra passes over the first batch, for the time; then one pass over
    # four batches, whatever the number of perturbations.
    assert calls == [8, 1, 1, 1, 10, 10, 10, 10, 10, 10]


@pytest.mark.slow
def test_weights_of_examples_weigh_the_differences():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    weight = np.array([2.0] * 5 + [0.0] * 10 + [1.0] * 5, np.float32)
    weighted = sensitivity(model, (x, y, weight), perturbations=("int4",), batch_size=6)
    rows = np.r_[0:5, 0:5, 15:20]
    repeated = sensitivity(model, (x[rows], y[rows]), perturbations=("int4",), batch_size=6)
    assert weighted.examples == 10
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-5)
    for one, other in zip(weighted.layers, repeated.layers, strict=True):
        assert one.effects[0].loss_change == pytest.approx(other.effects[0].loss_change, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_a_data_set_gives_what_arrays_give():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    arrays = sensitivity(model, (x, y), batch_size=8)
    dataset = sensitivity(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(8))
    assert dataset.layers == arrays.layers


@pytest.mark.slow
def test_masked_steps_count_for_nothing():
    model = compiled(sequence_labeller())
    x = RANDOM.integers(1, 12, (16, 6))
    x[:, 4:] = 0
    y = RANDOM.integers(0, 4, (16, 6))
    other = y.copy()
    other[:, 4:] = (y[:, 4:] + 1) % 4
    first, second = (sensitivity(model, (x, one), perturbations=("int4",)) for one in (y, other))
    assert first.loss == second.loss
    assert first.metric_value == second.metric_value
    assert first.loss == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-4)


@pytest.mark.slow
def test_several_outputs_add_up_with_the_weights_of_compile():
    model = zoo.two_in_two_out()
    losses = {"label": "sparse_categorical_crossentropy", "score": "mse"}
    compiled(model, losses, loss_weights={"label": 1.0, "score": 0.25})
    x = {"image": images(12, 6, 6, 1), "meta": images(12, 3)}
    y = {"label": RANDOM.integers(0, 3, 12), "score": images(12, 1)}
    profile = sensitivity(model, (x, y), perturbations=("pruned_50",), batch_size=5)
    assert profile.metric == "loss"
    assert profile.loss == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-4)
    head = profile.layer("score").effect("pruned_50")
    assert head.metric_drop == head.loss_change != 0


def test_a_kernel_that_the_loss_does_not_see_is_skipped():
    i = keras.Input((4,))
    model = keras.Model(i, {"a": L.Dense(1, name="a")(i), "b": L.Dense(1, name="b")(i)})
    model.compile(loss={"a": "mse", "b": "mse"})
    data = images(8, 4), {"a": images(8, 1), "b": images(8, 1)}
    profile = sensitivity(model, data, loss=lambda y, outputs: tf.reduce_mean((y["a"] - outputs["a"]) ** 2, -1))
    assert [layer.layer for layer in profile.layers] == ["a"]
    assert "does not depend" in profile.skipped["b"]


@pytest.mark.parametrize(
    ("metric", "name"),
    [("mae", "mean_absolute_error"), (keras.metrics.RootMeanSquaredError(), "root_mean_squared_error")],
)
def test_a_metric_that_counts_downwards_drops_when_it_grows(metric, name):
    model = compiled(keras.Sequential([keras.Input((4,)), L.Dense(2)]), "mse")
    x = images(40, 4)
    y = model.predict(x, verbose=0)
    profile = sensitivity(model, (x, y), metric=metric, perturbations=("pruned_70",), batch_size=16)
    effect = profile.layers[0].effects[0]
    assert profile.metric == name
    assert profile.metric_value == pytest.approx(0, abs=1e-5)
    [target] = targets_of(model)[0]
    [kernel] = target.perturbed(Perturbation.of("pruned_70"), 0)
    errors = x @ kernel + model.layers[0].bias.numpy() - y
    expected = np.abs(errors).mean() if name == "mean_absolute_error" else np.sqrt((errors**2).mean())
    assert effect.metric_drop == pytest.approx(expected, rel=1e-4)
    assert (effect.metric_error is None) == (name == "root_mean_squared_error")


def test_the_state_of_a_metric_object_is_left_alone():
    metric = keras.metrics.AUC()
    metric.update_state([0, 1], [0.2, 0.9])
    before = [variable.numpy() for variable in metric.variables]
    model = compiled(keras.Sequential([keras.Input((4,)), L.Dense(1, "sigmoid")]), "binary_crossentropy")
    sensitivity(model, (images(20, 4), np.arange(20) % 2), metric=metric, perturbations=("int4",))
    for variable, value in zip(metric.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_logits_of_a_binary_model_are_cut_at_zero():
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False)])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    model.layers[0].kernel.assign([[1.0]])
    x = np.array([[-0.2], [0.2], [0.4], [0.8]], np.float32)
    profile = sensitivity(model, (x, np.array([0, 1, 1, 1])), perturbations=("removed",))
    assert profile.metric_value == 1.0


@pytest.mark.slow
def test_one_hot_labels_give_the_accuracy_of_class_numbers():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    numbers = sensitivity(model, (x, y), perturbations=("pruned_70",))
    model.compile(loss="categorical_crossentropy")
    one_hot = sensitivity(model, (x, np.eye(3, dtype=np.float32)[y]), perturbations=("pruned_70",))
    assert one_hot.metric_value == numbers.metric_value
    assert one_hot.layers[0].effects[0].metric_drop == numbers.layers[0].effects[0].metric_drop


def test_regularization_is_no_part_of_the_loss():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax", kernel_regularizer="l2")])
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = images(10, 4), RANDOM.integers(0, 3, 10)
    profile = sensitivity(model, (x, y), perturbations=("int4",))
    assert profile.loss == pytest.approx(plain(model, x, y)[0].mean(), rel=1e-5)


def test_mixed_precision_is_measured_in_mixed_precision():
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(8, "relu", dtype="mixed_float16"), L.Dense(3, "softmax", dtype="float32")]
    )
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = images(10, 4), RANDOM.integers(0, 3, 10)
    profile = sensitivity(model, (x, y), perturbations=("int4",))
    assert profile.loss == pytest.approx(plain(model, x, y)[0].mean(), rel=1e-5)
    assert profile.layers[0].effects[0].squared_change > 0


def test_a_record_survives_json():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    profile = sensitivity(model, (x, y))
    again = SensitivityProfile.from_json(profile.to_json())
    assert again.layers == profile.layers
    assert again.skipped == profile.skipped
    assert profile.perturbed_runs == 3 * len(PERTURBATIONS)


def test_only_the_layers_asked_for_are_perturbed():
    model, x, y = compiled(residual()), *CASES["residual"][1:]
    profile = sensitivity(model, (x, y), layers=("inner",), perturbations=("int8",))
    assert [layer.layer for layer in profile.layers] == ["inner"]
    assert profile.skipped["first"] == "not asked for"
    with pytest.raises(ConfigError, match="Did you mean 'inner'"):
        profile.layer("iner")


@pytest.mark.slow
def test_progress_is_told_of_every_step():
    class Steps:
        def __init__(self):
            self.total, self.steps, self.finished = 0, [], False

        def start(self, total):
            self.total = total

        def step(self, description):
            self.steps.append(description)

        def finish(self):
            self.finished = True

    model, x, y = compiled(residual()), *CASES["residual"][1:]
    steps = Steps()
    layer_sensitivity.sensitivity(model, (x, y), batch_size=8, probes=2, perturbations=("int8",), progress=steps)
    assert steps.steps == ["gradients", "curvature 1 of 2", "curvature 2 of 2", "batch 1", "batch 2", "batch 3"]
    assert (steps.total, steps.finished) == (6, True)


def test_paths_are_those_of_the_graph():
    model = compiled(zoo.nested(), LOGITS)
    profile = sensitivity(model, (images(8, 8, 8, 2), RANDOM.integers(0, 3, 8)), perturbations=("int8",))
    known = {owned.path for owned in owned_variables(model)}
    assert {kernel for layer in profile.layers for kernel in layer.kernels} <= known
    assert [layer.layer.split("/")[0] for layer in profile.layers] == ["backbone", "classes"]
