"""Teachers, students and data that are legitimate and not ordinary: taught rightly, or refused before any epoch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kopt
from kopt.core.errors import ConfigError, DataError, InputError
from kopt.distill import born_again, cache_teacher, smaller_student, teach
from kopt.distill.features import Feature, FeatureTerm

pytestmark = pytest.mark.slow
L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 4)).astype("float32"), RNG.integers(0, 3, 64)
LOSS = "sparse_categorical_crossentropy"


def mlp(names=("x",), units=4, size=4):
    keras.utils.set_random_seed(units)
    inputs = [keras.Input((size,), name=name) for name in names]
    hidden = L.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    return keras.Model(inputs, L.Dense(3, activation="softmax", name="out")(L.Dense(units, activation="relu")(hidden)))


def two_heads(units):
    inputs = keras.Input((4,))
    hidden = L.Dense(units)(inputs)
    return keras.Model(inputs, [L.Dense(3, activation="softmax", name=name)(hidden) for name in "ab"])


def test_a_report_is_made_where_the_teacher_takes_other_inputs():
    report = teach(mlp(), mlp(units=8, size=2), (X, Y), epochs=1, loss=LOSS, adapt=lambda x: x[:, :2])
    large = mlp(units=8, size=2)
    large.compile("sgd", LOSS, metrics=["accuracy"])
    assert report.teacher_value == pytest.approx(large.evaluate(X[:, :2], Y, verbose=0)[1], abs=1e-6)


def test_a_teacher_and_a_cache_of_another_teach_together(tmp_path):
    cache = cache_teacher(mlp(units=6), (X, Y), tmp_path)
    batches = cache.join(kopt.data.from_arrays(X, Y, batch_size=32))
    assert 0 <= teach(mlp(), [mlp(units=8), cache], batches, epochs=1, loss=LOSS).teacher_value <= 1


def test_examples_without_labels_are_no_reason_to_lose_the_report():
    y = Y.copy()
    y[:40] = -1
    report = teach(mlp(), mlp(units=8), (X, y), epochs=1, loss=LOSS, unlabeled=-1)
    assert [stage.name for stage in report.stages] == ["as given", "epoch 1"]


def test_a_teacher_is_judged_as_the_student_is():
    large, weight = mlp(units=8), np.r_[np.ones(32), np.zeros(32)].astype("float32")
    twin = keras.models.clone_model(large)
    twin.set_weights(large.get_weights())
    y = large.predict(X, verbose=0).argmax(-1)
    y[32:] = (y[32:] + 1) % 3
    report = teach(twin, large, (X, y, weight), epochs=1, loss=LOSS, learning_rate=1e-9)
    assert report.teacher_value == report.before


def test_a_student_of_logits_has_a_teacher_of_probabilities_judged():
    inputs = keras.Input((4,))
    student = keras.Model(inputs, L.Dense(3)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    large = mlp(units=8)
    report = teach(student, large, (X, Y), epochs=1, loss=loss)
    assert report.teacher_value == pytest.approx((large.predict(X, verbose=0).argmax(-1) == Y).mean())


def test_one_loss_of_several_outputs_is_judged_by_itself():
    assert teach(two_heads(4), two_heads(8), (X, [Y, Y]), epochs=1, loss=LOSS).metric == "loss"


def test_binary_logits_are_not_judged_by_a_cut_at_one_half():
    def model():
        inputs = keras.Input((1,))
        return keras.Model(inputs, L.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))

    x = np.repeat([[-0.3], [0.3]], 32, 0).astype("float32")
    loss, y = keras.losses.BinaryCrossentropy(from_logits=True), (x[:, 0] > 0).astype(int)
    assert teach(model(), model(), (x, y), epochs=1, loss=loss).metric == "loss"
    perfect = model()
    perfect.compile("sgd", loss)
    assert kopt.measure.evaluate(perfect, (x, y)).metrics == {"accuracy": 1.0}
    for judged in (
        lambda: kopt.optimize(perfect, (x, y), (x, y), workdir="never", progress=None),
        lambda: kopt.quantize.fallback(perfect, x, evaluate=(x, y), samples=20),
    ):
        with pytest.raises(ConfigError, match=r"gives logits.*End it with a sigmoid"):
            judged()


@pytest.mark.parametrize("packed", [list, dict])
def test_inputs_of_other_names_go_by_their_order(packed):
    student, large = mlp(("a", "b")), mlp(("p", "q"), 8)
    model = kopt.DistillationModel(student, large)
    model.compile("sgd", LOSS)
    x = [X, 2 * X] if packed is list else {"a": X, "b": 2 * X}
    history = model.fit(x, Y, batch_size=64, verbose=0).history
    theirs, ours = np.log(large.predict([X, 2 * X], verbose=0)), np.log(mlp(("a", "b")).predict([X, 2 * X], verbose=0))
    expected = float(tf.reduce_mean(kopt.train.soft_targets.kl(theirs, ours, temperature=3.0)))
    assert history["soft_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_saved_model_of_other_names_is_not_guessed_at(tmp_path):
    mlp(("z", "a"), 8).export(tmp_path / "saved")
    with pytest.raises(InputError, match="which is which is not known"):
        kopt.DistillationModel(mlp(("left", "right")), tmp_path / "saved")


def test_pixels_of_whole_numbers_are_not_made_of_fractions(tmp_path):
    inputs = keras.Input((4,), dtype="uint8", name="x")
    large = keras.Model(inputs, L.Dense(3, activation="softmax")(L.Rescaling(1 / 255)(inputs)))
    large.export(tmp_path / "saved")
    for teacher in (large, tmp_path / "saved"):
        with pytest.raises(InputError, match=r"'x' as float32, the teacher .* as uint8: what lies between"):
            kopt.DistillationModel(mlp(), teacher)
        model = kopt.DistillationModel(mlp(), teacher, adapt=lambda x: tf.cast(255 * x, "uint8"))
        model.compile("sgd", LOSS)
        model.fit(RNG.random((16, 4)).astype("float32"), Y[:16], verbose=0)


def test_a_saved_model_is_opened_under_a_strategy(tmp_path):
    mlp(units=8).export(tmp_path / "saved")
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = kopt.DistillationModel(mlp(), tmp_path / "saved")
        model.compile("sgd", LOSS)
    model.fit(X, Y, batch_size=32, verbose=0)


def test_a_teacher_that_xla_cannot_compile_is_not_compiled():
    inputs = keras.Input((4,), dtype="int64")
    looked_up = L.IntegerLookup(vocabulary=list(range(10)))(inputs)
    large = keras.Model(inputs, L.Dense(3, activation="softmax")(L.Flatten()(L.Embedding(20, 4)(looked_up))))
    inputs = keras.Input((4,), dtype="int64")
    small = keras.Model(inputs, L.Dense(3, activation="softmax")(L.Flatten()(L.Embedding(20, 2)(inputs))))
    assert not kopt.DistillationModel(small, large).supports_jit
    assert kopt.DistillationModel(mlp(), mlp(units=8)).supports_jit


def test_numbers_are_not_taken_for_classes():
    def box(units):
        inputs = keras.Input((4,))
        return keras.Model(inputs, L.Dense(4, name="box")(L.Dense(units)(inputs)))

    with pytest.raises(ConfigError, match=r"'box' is trained on numbers.*`losses='mse'`"):
        kopt.DistillationModel(box(2), box(8)).compile("sgd", "mse")
    for settings in ({"losses": "mse"}, {"student_form": "logits", "teacher_form": "logits"}):
        kopt.DistillationModel(box(2), box(8), **settings).compile("sgd", "mse")


def test_copies_that_are_born_again_keep_what_was_adapted():
    norm = L.Normalization()
    norm.adapt(RNG.normal(100, 5, (200, 4)))
    inputs = keras.Input((4,))
    [copy] = born_again(keras.Model(inputs, L.Dense(3, activation="softmax")(norm(inputs))), 1, lambda model: None)
    np.testing.assert_array_equal(copy.layers[1].mean, norm.mean)
    np.testing.assert_allclose(copy.layers[1](X + 100), norm(X + 100), rtol=1e-6)


def test_frozen_statistics_stay():
    inputs, norm = keras.Input((4,)), L.BatchNormalization()
    norm.trainable = False
    student = keras.Model(inputs, L.Dense(3, activation="softmax")(norm(inputs)))
    teach(student, mlp(units=8), (X + 5, Y), epochs=1, loss=LOSS, keep="last")
    np.testing.assert_array_equal(norm.moving_mean, 0)


def test_a_tensor_that_a_layer_does_not_give_is_no_feature():
    for name, words in (("out:3", "names tensor 3 of a layer that gives 1"), ("out:x", "which tensor of the layer")):
        with pytest.raises(ConfigError, match=words):
            kopt.DistillationModel(mlp(), mlp(units=8), features=[(name, name)])
    assert Feature.of({"student": "out"}).loss.kind == Feature("out").loss.kind


def test_padding_without_direction_is_no_difference():
    ours, theirs = tf.constant([[[1.0, 0], [5, 5]]]), tf.constant([[[1.0, 0], [0, 0]]])
    ours._keras_mask = tf.constant([[True, False]])
    term = FeatureTerm(Feature("a", loss="cosine"), (None, 2, 2), (None, 2, 2))
    assert float(term(theirs, ours)) == pytest.approx(0.0, abs=1e-6)


def test_what_a_wrapper_holds_is_narrowed():
    inputs = keras.Input((6, 4))
    x = L.TimeDistributed(L.Dense(16))(L.Bidirectional(L.LSTM(32, return_sequences=True))(inputs))
    student, _ = smaller_student(keras.Model(inputs, L.Dense(3, activation="softmax")(x)), width=0.5)
    assert [layer.output.shape[-1] for layer in student.layers[1:]] == [32, 8, 3]


def test_a_feature_called_as_an_output_does_not_take_its_place(tmp_path):
    inputs = keras.Input((4,))
    large = keras.Model(inputs, L.Dense(3, activation="softmax")(L.Dense(7, name="output_0")(inputs)))
    cache = cache_teacher(large, (X, Y), tmp_path, features=["output_0"], dtype="float32")
    (batch, _), *_ = cache.join(kopt.data.from_arrays(X, Y, batch_size=64))
    answer = cache.answer(X, batch["kopt_stored"])
    np.testing.assert_allclose(np.exp(answer.outputs[0]), large.predict(X, verbose=0), rtol=1e-4)
    np.testing.assert_allclose(answer.features["output_0"], large.get_layer("output_0")(X), rtol=1e-5)


def test_examples_of_several_lengths_are_refused_before_the_teacher_works(tmp_path):
    inputs = keras.Input((None, 4))
    large = keras.Model(inputs, L.Dense(3, activation="softmax")(inputs))

    def data(signature):
        batches = lambda: iter([np.ones((2, count, 4), "float32") for count in (3, 5)])  # noqa: E731
        return tf.data.Dataset.from_generator(batches, output_signature=signature)

    with pytest.raises(DataError, match="Pad all to one length"):
        cache_teacher(large, data(tf.TensorSpec((None, None, 4))), tmp_path)
    with pytest.raises(DataError, match="how many axes"):
        cache_teacher(large, data(tf.TensorSpec(None)), tmp_path)


def test_forms_are_one_an_output_and_weights_may_be_an_array():
    with pytest.raises(ConfigError, match="1 entries for 2 output"):
        kopt.DistillationModel(two_heads(4), two_heads(8), student_form=["probabilities"])
    kopt.DistillationModel(mlp(), [mlp(units=8), mlp(units=6)], teacher_weights=np.array([0.5, 0.5]))


def test_stored_answers_are_no_inputs_to_be_scaled(tmp_path):
    cache = cache_teacher(mlp(units=8), (1e3 * X, Y), tmp_path)
    model = kopt.DistillationModel(mlp(), cache)
    model.compile("sgd", LOSS)
    fast = kopt.train.accelerate(model, jit_compile=False)
    fast.fit(cache.join(kopt.data.from_arrays(1e3 * X, Y, batch_size=32)), verbose=0)
    assert not any("kopt_stored" in note for note in fast.report.notes)
    single = fast.model.student
    single.compile("sgd", LOSS)
    assert np.ndim(kopt.train.accelerate(single, jit_compile=False).train_on_batch(X, Y)) == 0


def test_classes_may_be_counted_by_numpy():
    model = mlp()
    model.compile("sgd", LOSS)
    fast = kopt.train.accelerate(model, jit_compile=False)
    fast.train_on_batch(X, Y, class_weight=dict(zip(np.unique(Y), (1.0, 2.0, 3.0), strict=True)))


def test_rows_of_whole_numbers_are_mixed():
    augment = kopt.data.Augmentation(mixup=0.4, num_classes=3)
    images, rows = RNG.random((12, 4, 4, 1)).astype("float32"), np.eye(3, dtype=int)[Y[:12]]
    (_, labels), *_ = kopt.data.from_arrays(images, rows, batch_size=12, augment=augment, seed=0)
    np.testing.assert_allclose(np.sum(labels, axis=-1), 1.0, rtol=1e-5)
