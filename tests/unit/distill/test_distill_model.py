"""`DistillationModel`: its loss by hand, what it honors, and what it leaves alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distillation_cases import CLASSES, L, bits, examples, network, teacher

import kopt
from kopt.core.errors import ConfigError, InputError, MissingDependencyError, NonFiniteError, UnsupportedModelError
from kopt.distill import Feature, OutputLoss

X, Y = examples()
LOSS = "sparse_categorical_crossentropy"


def distilled(student=None, of=None, *, loss=LOSS, compiled=None, **settings):
    model = kopt.DistillationModel(student or network(), of or teacher(), **settings)
    model.compile(keras.optimizers.SGD(0.05), loss, **(compiled or {}))
    return model


def kl(teacher_probabilities, student_probabilities, temperature):
    """By hand, from probabilities."""
    powers = [one ** (1 / temperature) for one in (teacher_probabilities, student_probabilities)]
    p, q = (one / one.sum(-1, keepdims=True) for one in powers)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def crossentropy(probabilities, labels=Y):
    return -np.log(probabilities[np.arange(len(labels)), labels])


def loss_of(model, y=Y, sample_weight=None):
    """Return the loss that a training step has on all examples, and its terms, without taking the step."""
    outputs = model(X, training=True)
    y = None if y is None else tf.constant(y)
    loss = model.compute_loss(tf.constant(X), y, outputs, sample_weight, training=True)
    return float(loss), {name: float(value) for name, value in outputs._kopt_terms.items()}


def trained_outputs(student):
    """Return what a student gives in training, with the batch's own statistics, and leave it as it is."""
    kept = student.get_weights()
    outputs = student(X, training=True).numpy()
    student.set_weights(kept)
    return outputs


@pytest.mark.parametrize(("ending", "form"), [("softmax", "probabilities"), ("sigmoid", "sigmoids"), (None, "logits")])
def test_rounding_changes_nothing_about_what_an_output_is(ending, form):
    model = keras.Sequential([keras.Input(X.shape[1:]), L.Flatten(), L.Dense(CLASSES, ending, name="says")])
    rounded, _ = kopt.quantize.aware(model, calibration=X)
    (output,) = kopt.DistillationModel(rounded, model).report.outputs
    assert (output.student_form, output.teacher_forms) == (form, (form,))


def test_a_loss_that_takes_the_output_for_something_else_is_refused():
    logits = keras.Sequential([keras.Input(X.shape[1:]), L.Flatten(), L.Dense(CLASSES, name="says")])
    with pytest.raises(ConfigError, match=r"'says' of the student gives logits .*from_logits=True"):
        distilled(logits)
    right = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert distilled(logits, loss=right).compiled
    assert distilled(logits, student_form="probabilities").compiled  # the user knows better
    with pytest.raises(ConfigError, match="takes logits"):
        distilled(loss=right)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    student, large = network(regularizer="l2"), teacher()
    q, p = trained_outputs(student), large(X, training=False).numpy()
    loss, terms = loss_of(distilled(student, large, temperature=2.0, alpha=0.6))
    hard, soft = crossentropy(q).mean(), kl(p, q, 2.0).mean()
    regularization = 0.01 * (student.get_layer("one").kernel.numpy() ** 2).sum()
    assert terms["hard_loss"] == pytest.approx(hard, rel=1e-5)
    assert terms["soft_loss"] == pytest.approx(soft, rel=1e-4)
    assert loss == pytest.approx(0.4 * hard + 0.6 * soft + regularization, rel=1e-5)


@pytest.mark.slow
def test_fit_takes_the_step_of_a_loop_by_hand():
    student, by_hand, large = network(), network(), teacher()
    distilled(student, large).fit(X, Y, batch_size=len(X), verbose=0)
    optimizer = keras.optimizers.SGD(0.05)
    with tf.GradientTape() as tape:
        q, p = by_hand(X, training=True), large(X, training=False)
        p, q_soft = (tf.nn.softmax(tf.math.log(one) / 3.0) for one in (p, q))
        soft = 9.0 * tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p / q_soft), axis=-1))
        total = 0.3 * tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, q)) + 0.7 * soft
    optimizer.apply(tape.gradient(total, by_hand.trainable_variables), by_hand.trainable_variables)
    for one, other in zip(student.variables, by_hand.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, err_msg=one.path)


@pytest.mark.slow
@pytest.mark.parametrize("features", [(), "auto"])
def test_the_teacher_is_left_alone(features):
    large = teacher()
    before, trainable = bits(large), [layer.trainable for layer in large._flatten_layers()]
    model = distilled(of=large, features=features)
    model.fit(X, Y, verbose=0)
    assert bits(large) == before
    assert [layer.trainable for layer in large._flatten_layers()] == trainable
    owned = {id(variable) for variable in model.variables}
    assert not owned & {id(variable) for variable in large.variables}


def test_weights_of_examples_and_classes_reach_every_term():
    student, large = network(), teacher()
    model = distilled(student, large, features=[("two", "two")])
    weight = np.linspace(0, 2, len(X)).astype("float32")
    q, p = trained_outputs(student), large(X, training=False).numpy()
    kept = student.get_weights()
    _, terms = loss_of(model, sample_weight=tf.constant(weight))
    assert terms["hard_loss"] == pytest.approx((crossentropy(q) * weight).mean(), rel=1e-5)
    assert terms["soft_loss"] == pytest.approx((kl(p, q, 3.0) * weight).mean(), rel=1e-4)
    student.set_weights(kept)
    halves = [loss_of(model, sample_weight=tf.constant(weight * part)) for part in (weight < 1, weight >= 1)]
    assert halves[0][1]["two_fitnet"] + halves[1][1]["two_fitnet"] == pytest.approx(terms["two_fitnet"], rel=1e-5)


@pytest.mark.slow
def test_data_without_labels_learns_from_the_teacher():
    model = distilled(loss=None)
    history = model.fit(X, verbose=0, epochs=2).history
    assert set(history) == {"loss", "soft_loss"}
    assert history["loss"][0] == pytest.approx(0.7 * history["soft_loss"][0], rel=1e-5)
    with pytest.raises(ConfigError, match="There are no labels"):
        distilled().fit(X, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("one_hot", [False, True])
def test_some_examples_without_labels(one_hot):
    student = network()
    present = np.arange(len(X)) % 3 != 0
    if one_hot:
        y = np.where(present[:, None], np.eye(CLASSES)[Y], np.nan).astype("float32")
        loss = "categorical_crossentropy"
    else:
        y, loss = np.where(present, Y, -1), LOSS
    model = distilled(student, loss=loss, unlabeled=-1, losses="decoupled")
    q = trained_outputs(student)
    _, terms = loss_of(model, y)
    assert terms["hard_loss"] == pytest.approx((crossentropy(q) * present).mean(), rel=1e-5)
    guessed = np.where(present, Y, model.teachers[0].model(X).numpy().argmax(-1))
    _, with_guesses = loss_of(model, guessed if not one_hot else np.eye(CLASSES)[guessed].astype("float32"))
    assert terms["soft_loss"] == pytest.approx(with_guesses["soft_loss"], rel=2e-2)
    assert np.isfinite(model.fit(X, y, verbose=0).history["loss"]).all()


def test_metrics_of_labels_alone():
    y = np.where(np.arange(len(X)) < 12, Y, -1)
    model = distilled(unlabeled=-1, compiled={"weighted_metrics": ["accuracy"]})
    expected = (model.predict(X[:12], verbose=0).argmax(-1) == Y[:12]).mean()
    assert model.evaluate(X, y, verbose=0, return_dict=True)["accuracy"] == pytest.approx(expected)


def test_settings_that_follow_the_updates():
    rate = keras.optimizers.schedules.PolynomialDecay(1.0, 2, end_learning_rate=0.0)
    model = distilled(alpha=rate, temperature=lambda step: 1.0 + tf.cast(step, tf.float32))
    seen = []
    for _ in range(3):
        loss, terms = loss_of(model)
        seen.append((loss - terms["hard_loss"]) / (terms["soft_loss"] - terms["hard_loss"]))
        model.train_on_batch(X, Y)
    np.testing.assert_allclose(seen, [1.0, 0.5, 0.0], atol=1e-4)
    q, p = trained_outputs(model.student), model.teachers[0].model(X).numpy()
    assert loss_of(model)[1]["soft_loss"] == pytest.approx(kl(p, q, 4.0).mean(), rel=1e-4)


def test_several_teachers():
    student, ones = network(), [teacher(), teacher(5)]
    p = [one(X).numpy() for one in ones]
    q = trained_outputs(student)
    values = np.array([kl(one, q, 3.0) for one in p])
    entropies = np.array([-(one * np.log(one)).sum(-1) for one in p])
    shares = np.exp(-entropies) / np.exp(-entropies).sum(0)
    for weights, expected in (("mean", values.mean(0)), ([1, 3], values.T @ [0.25, 0.75]),
                              ("confidence", (values * shares).sum(0))):  # fmt: skip
        _, terms = loss_of(distilled(student, ones, teacher_weights=weights))
        assert terms["soft_loss"] == pytest.approx(expected.mean(), rel=1e-4)
        student.set_weights(network().get_weights())


def test_features_of_several_teachers():
    """Teachers as wide as the student: the loss is the mean square of the difference, without a projector."""
    student, ones = network(), [teacher(3), teacher(3)]
    ones[1].get_layer("two").kernel.assign(2.0 * ones[1].get_layer("two").kernel)
    pairs = [Feature("two"), Feature("two", teacher_index=1), Feature("pooled", "pooled", teacher_index=1)]
    model = distilled(student, ones, features=pairs)
    assert model.projectors == []
    inner = keras.Model(student.input, student.get_layer("two").output)(X, training=True).numpy()
    student.set_weights(network().get_weights())
    _, terms = loss_of(model)
    for one, name in zip(ones, ("two_fitnet", "two_fitnet_from_1"), strict=True):
        theirs = keras.Model(one.input, one.get_layer("two").output)(X).numpy()
        assert terms[name] == pytest.approx(np.square(theirs - inner).mean(), rel=1e-4)
    assert terms["pooled_fitnet_from_1"] > 0
    assert "feature two (None, 4, 4, 6) <- two of " in str(model.report)
    again = kopt.DistillationModel.from_config(model.get_config())
    assert [term.feature.teacher_index for term in again._features.items] == [0, 1, 1]
    with pytest.raises(ConfigError, match=r"There are 2 teacher\(s\), counted from 0. Received: teacher_index=2"):
        distilled(student, ones, features=[Feature("two", teacher_index=2)])


def two_headed(width, name):
    keras.utils.set_random_seed(width)
    inputs = keras.Input((8, 8, 1))
    x = L.Flatten()(L.Conv2D(width, 3)(inputs))
    outputs = {"kind": L.Dense(CLASSES, name="kind")(x), "tags": L.Dense(3, activation="sigmoid", name="tags")(x)}
    return keras.Model(inputs, {**outputs, "size": L.Dense(1, name="size")(x)}, name=name)


@pytest.mark.slow
def test_every_output_has_its_own_loss():
    student, large = two_headed(2, "small"), two_headed(4, "large")
    model = kopt.DistillationModel(student, large, output_weights={"kind": 1.0, "size": 0.5}, alpha=0.5)
    forms = {one.name: (one.loss, one.student_form) for one in model.report.outputs}
    assert forms == {"kind": ("kl", "logits"), "tags": ("binary_kl", "sigmoids"), "size": ("mse", "values")}
    model.compile("sgd", {"size": "mse"}, metrics={"size": ["mae"]})
    y = np.ones((len(X), 1), "float32")
    history = model.fit(X, {"kind": Y, "tags": np.zeros((len(X), 3)), "size": y}, verbose=0, batch_size=24).history
    parts = {name: history[f"soft_loss_{name}"][0] for name in forms}
    assert history["soft_loss"][0] == pytest.approx(parts["kind"] + 0.5 * parts["size"], rel=1e-5)
    assert history["loss"][0] == pytest.approx(0.5 * history["hard_loss"][0] + 0.5 * history["soft_loss"][0], rel=1e-5)
    model = kopt.DistillationModel(student, large, losses={"kind": OutputLoss("dist")})
    assert [one.loss for one in model.report.outputs] == ["dist", "", ""]


def test_masks_leave_out_padding():
    def tagger(units, name):
        keras.utils.set_random_seed(units)
        inputs = keras.Input((6,), dtype="int32")
        x = L.Embedding(9, units, mask_zero=True, name="embed")(inputs)
        return keras.Model(inputs, L.Dense(3, activation="softmax", name="tag")(x), name=name)

    student, large = tagger(2, "small"), tagger(5, "large")
    tokens = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    model = kopt.DistillationModel(student, large, features=["embed"])
    model.compile("sgd", LOSS)
    labels = np.ones((2, 6), int)
    q, p, kept = student(tokens).numpy(), large(tokens).numpy(), tokens > 0
    outputs = model(tokens, training=True)
    model.compute_loss(tokens, tf.constant(labels), outputs, None, training=True)
    terms = outputs._kopt_terms
    # Keras divides by the number of positions that are left.
    assert float(terms["soft_loss"]) == pytest.approx((kl(p, q, 3.0) * kept).sum() / kept.sum(), rel=1e-3)
    assert float(terms["hard_loss"]) == pytest.approx((-np.log(q[..., 1]) * kept).sum() / kept.sum(), rel=1e-5)
    projected = student.get_layer("embed")(tokens) @ model.projectors[0].kernel
    squares = ((projected.numpy() - large.get_layer("embed")(tokens).numpy()) ** 2).mean(-1)
    rows = (squares * kept).sum(-1) / kept.sum(-1)
    assert float(terms["embed_fitnet"]) == pytest.approx(rows.mean(), rel=1e-5)


class Subclassed(keras.Model):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(width, 3, activation="relu", name="conv")
        self.block = keras.Sequential([L.Conv2D(width, 3, name="inner"), L.GlobalAveragePooling2D()], name="block")
        self.head = L.Dense(CLASSES, activation="softmax", name="head")

    def call(self, inputs, training=None):
        return self.head(self.block(self.conv(inputs), training=training))


@pytest.mark.slow
def test_subclassed_models_and_nested_layers():
    keras.utils.set_random_seed(0)
    student, large = Subclassed(2, name="small"), Subclassed(4, name="large")
    student(X), large(X)
    model = distilled(student, large, features=["conv", Feature("block/inner", "block/inner", "similarity")])
    assert model.report.outputs[0].student_form == "probabilities"
    assert "on noise its outputs add up to 1" in model.report.outputs[0].found
    assert model.report.features[0].student_shape == (None, 6, 6, 2)
    history = model.fit(X, Y, verbose=0).history
    assert {"conv_fitnet", "block_inner_similarity"} <= set(history)


@pytest.mark.slow
def test_evaluate_predict_and_save_are_the_students(tmp_path, capsys):
    student = network()
    model = distilled(student, features="auto", compiled={"metrics": ["accuracy"]})
    before = bits(student)
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert bits(student) == before
    student.compile("sgd", LOSS, metrics=["accuracy"])
    assert found == student.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(model.test_on_batch(X, Y, return_dict=True)) == {"loss", "accuracy"}
    np.testing.assert_array_equal(model.predict(X, verbose=0), student.predict(X, verbose=0))
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert type(loaded) is type(student)
    assert bits(loaded) == before
    model.summary()
    assert "student" in capsys.readouterr().out


@pytest.mark.slow
def test_validation_in_fit_shows_the_students_loss_and_metrics():
    model = distilled(compiled={"metrics": ["accuracy"]})
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert set(history) == {"loss", "accuracy", "hard_loss", "soft_loss", "val_loss", "val_accuracy"}


@pytest.mark.slow
def test_config_and_weights_go_on_where_training_was(tmp_path):
    of = tmp_path / "teacher.keras"
    teacher().save(of)

    def make():
        model = kopt.DistillationModel(network(), str(of), features=[("two", "two")], temperature=2.0, alpha=0.5)
        model.compile(keras.optimizers.Adam(0.01), LOSS)
        return model

    straight, stopped = make(), make()
    projector = straight.projectors[0].get_weights()
    stopped.projectors[0].set_weights(projector)
    for model in (straight, stopped):
        model.fit(X, Y, verbose=0, shuffle=False)
    stopped.save_weights(tmp_path / "training.weights.h5")
    again = kopt.DistillationModel.from_config(stopped.get_config())
    again.compile(keras.optimizers.Adam(0.01), LOSS)
    again.fit(X, Y, verbose=0, shuffle=False)
    again.load_weights(tmp_path / "training.weights.h5")
    assert again.report == stopped.report
    for model in (straight, again):
        model.fit(X, Y, verbose=0, shuffle=False)
    assert bits(straight.student) == bits(again.student)
    assert [bits(one) for one in straight.projectors] == [bits(one) for one in again.projectors]


def test_the_match_is_reported():
    report = kopt.DistillationModel(network(), teacher(), features="auto").report
    assert [(one.student, one.teacher, one.automatic) for one in report.features] == [
        ("relu", "relu", True),
        ("two", "two", True),
    ]
    assert "projector from 6 to 16 channels, matched automatically" in str(report)
    assert type(report).from_json(report.to_json()) == report


@pytest.mark.slow
def test_one_call_exports(tmp_path):
    model = kopt.DistillationModel(network(), teacher())
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        model.export_tensorrt(tmp_path / "engine")
    artifact = model.export_saved_model(tmp_path / "saved")
    runner = kopt.measure.load(artifact.path)
    np.testing.assert_allclose(runner.predict(X), model.predict(X, verbose=0), atol=1e-5)


def wide_input(model_name="large"):
    inputs = keras.Input((16, 16, 1), name="big")
    return keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(inputs)), name=model_name)


def classes(count):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, L.Dense(count, activation="softmax", name="probs")(L.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: distilled(temperature=0.0), ConfigError, r"`temperature` must be a finite number in \(0, inf\]"),
        (lambda: distilled(alpha=1.5), ConfigError, r"`alpha` must be a finite number in \[0, 1\]"),
        (lambda: distilled(alpha=lambda step: 2.0), ConfigError, r"`alpha\(0\)` must be"),
        (lambda: distilled(features=["oen"]), ConfigError, "student 'student' has no layer 'oen'.*Did you mean 'one'"),
        (lambda: distilled(features=[("one", "tow")]), ConfigError, "teacher 'teacher' has no layer.*'two'"),
        (lambda: distilled(features="one"), ConfigError, "'auto' or a list"),
        (lambda: distilled(of=wide_input()), InputError, r"'big' \(None, 16, 16, 1\).*adapt=keras.layers.Resizing"),
        (lambda: distilled(of=classes(7)), InputError, r"'head'.*\(None, 4\).*'probs'.*\(None, 7\)"),
        (lambda: distilled(losses="binary_kl"), ConfigError, "'binary_kl' needs logits or sigmoids"),
        (lambda: distilled(losses="klx"), ConfigError, "Did you mean 'kl'"),
        (lambda: distilled(losses={"hed": "kl"}), ConfigError, "Did you mean 'head'"),
        (lambda: distilled(of=two_headed(2, "two")), InputError, "The outputs do not match"),
        (lambda: distilled(teacher_form="logit"), ConfigError, "Did you mean 'logits'"),
        (lambda: kopt.DistillationModel(network(), []), InputError, "There is no teacher"),
        (lambda: kopt.DistillationModel(network(), 3), InputError, "A teacher is a built Keras model"),
        (lambda: distilled(of=[teacher()], teacher_weights=[1, 2]), ConfigError, "1 numbers, one a teacher"),
        (lambda: distilled(Subclassed(2)), InputError, "was never called"),
    ],
)
def test_what_cannot_be_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_teacher_with_nan_is_refused():
    large = teacher()
    large.get_layer("head").bias.assign([0, np.nan, 0, 0])
    with pytest.raises(NonFiniteError, match="head/bias"):
        kopt.DistillationModel(network(), large)


def test_automatic_features_need_a_graph():
    student = Subclassed(2)
    student(X)
    with pytest.raises(UnsupportedModelError, match="Python code"):
        kopt.DistillationModel(student, teacher(), features="auto")


def test_a_teacher_that_takes_other_inputs():
    model = distilled(of=wide_input(), adapt=L.Resizing(16, 16))
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()


def attending(heads, name):
    keras.utils.set_random_seed(heads)
    inputs = keras.Input((5, 4))
    x, _ = L.MultiHeadAttention(heads, 2, name="attention")(inputs, inputs, return_attention_scores=True)
    x = L.LayerNormalization(name="hidden")(x)
    return keras.Model(inputs, L.Dense(CLASSES, activation="softmax")(L.GlobalAveragePooling1D()(x)), name=name)


def test_attention_maps_and_hidden_states_of_transformers():
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    student, large = attending(1, "small"), attending(3, "large")
    model = distilled(
        student, large, features=[Feature("attention:1", loss="attention_maps"), Feature("hidden", loss="cosine")]
    )
    assert model.report.features[0].student_shape == (None, 1, 5, 5)
    outputs = model(x, training=True)
    model.compute_loss(tf.constant(x), tf.constant(Y[:6]), outputs, None, training=True)
    p, q = (one.get_layer("attention")(x, x, return_attention_scores=True)[1].numpy() for one in (large, student))
    p, q = p.mean(1), q.mean(1)
    assert float(outputs._kopt_terms["attention_1_attention_maps"]) == pytest.approx(
        (p * np.log(p / q)).sum(-1).mean(), rel=1e-3
    )
    assert 0 < float(outputs._kopt_terms["hidden_cosine"]) < 2


def test_schedules_that_leave_their_range_are_refused_before_training():
    schedules = keras.optimizers.schedules
    for settings, message in (
        ({"temperature": schedules.CosineDecay(4.0, 4)}, "`temperature` comes to .* at update .* takes 8; .* at least"),
        ({"alpha": schedules.PolynomialDecay(0.5, 4, 3.0)}, r"`alpha` comes to .*; it must be in \[0, 1\]"),
    ):
        model = distilled(**settings)
        before = model.student.get_weights()
        with pytest.raises(ConfigError, match=message):
            model.fit(X, Y, batch_size=-(-len(X) // 4), epochs=2, verbose=0)
        for one, other in zip(before, model.student.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    # A slow one that is fine for this training, and ends at 0 one day.
    distilled(temperature=schedules.CosineDecay(4.0, 10_000)).fit(X, Y, verbose=0)


def test_a_loop_of_ones_own_stays_in_the_range_of_a_schedule():
    model = distilled(temperature=lambda step: 0.0 * tf.cast(step, tf.float32) + tf.where(step > 0, 0.0, 1.0))
    model.optimizer.iterations.assign(5)
    assert np.isfinite(loss_of(model)[0])


def test_without_labels_a_student_is_evaluated_too():
    model = distilled(loss=None, compiled={"metrics": ["accuracy"]})
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert found["loss"] == history["val_loss"][-1] == 0.0
    plain = np.mean(model.predict(X, verbose=0).argmax(-1) == Y)
    assert found["accuracy"] == pytest.approx(plain, abs=1e-6)


def two_outputs(seed=0):
    """Outputs whose names are not in the order of the alphabet."""
    keras.utils.set_random_seed(seed)
    i = keras.Input(X.shape[1:])
    x = L.Flatten()(i)
    return keras.Model(i, [L.Dense(CLASSES, "softmax", name="z")(x), L.Dense(CLASSES, "softmax", name="a")(x)])


@pytest.mark.parametrize(
    "settings", [{}, {"losses": "decoupled"}, {"unlabeled": -1}], ids=["kl", "decoupled", "marked"]
)
def test_targets_by_name_are_those_by_place(settings):
    other = (Y + 1) % CLASSES
    if "unlabeled" in settings:
        other = np.where(np.arange(len(Y)) % 3, other, -1)
    weights = np.linspace(0, 2, len(Y)).astype("float32"), np.linspace(1, 0, len(Y)).astype("float32")
    losses = {}
    for form in ("list", "dict"):
        y, weight = [Y, other], list(weights)
        if form == "dict":
            y, weight = ({"a": part[1], "z": part[0]} for part in (y, weight))
        model = kopt.DistillationModel(two_outputs(0), two_outputs(1), **settings)
        model.compile(keras.optimizers.SGD(0.0), {"z": LOSS, "a": LOSS})
        losses[form] = model.fit(X, y, sample_weight=weight, batch_size=len(X), verbose=0).history
    assert losses["list"] == pytest.approx(losses["dict"], rel=1e-5)


def test_labels_of_one_output_alone_are_refused():
    model = kopt.DistillationModel(two_outputs(0), two_outputs(1), unlabeled=-1)
    model.compile(keras.optimizers.SGD(0.0), {"z": LOSS, "a": LOSS})
    with pytest.raises(ConfigError, match=r"Received labels of z; the outputs are z, a\. Pass arrays full of -1"):
        model.fit(X, {"z": Y}, verbose=0)


def test_weights_in_a_column_are_weights():
    y, weight = np.where(np.arange(len(Y)) % 3, Y, -1), np.linspace(0, 2, len(Y)).astype("float32")
    flat, column = (
        distilled(unlabeled=-1).fit(X, y, sample_weight=one, batch_size=len(X), verbose=0).history
        for one in (weight, weight[:, None])
    )
    assert flat == pytest.approx(column, rel=1e-5)


@pytest.mark.parametrize("compiled", [{"jit_compile": False}, {"jit_compile": True}])
def test_a_teacher_that_gives_no_numbers_is_named_and_the_student_stays_finite(compiled):
    keras.utils.set_random_seed(0)
    i = keras.Input(X.shape[1:])
    bad = keras.Model(i, L.Dense(CLASSES, "softmax")(L.Flatten()(keras.ops.log(i - keras.ops.min(i)))), name="bad")
    model = distilled(of=bad, compiled=compiled)
    with pytest.raises(
        NonFiniteError, match=r"The teacher bad gave NaN or infinite numbers in 1 batch\(es\) of epoch 1"
    ):
        model.fit(X, Y, batch_size=len(X), verbose=0)
    assert all(np.isfinite(one).all() for one in model.student.get_weights())


def test_inputs_go_to_the_teacher_by_name():
    def sum_of(names):
        inputs = {name: keras.Input((4,), name=name) for name in names}
        scaled = L.Concatenate()([inputs["a"], 3.0 * inputs["b"]])
        model = keras.Model(list(inputs.values()), L.Dense(3, "softmax", name="says")(scaled))
        model.layers[-1].set_weights([np.linspace(-1, 1, 24).reshape(8, 3), np.zeros(3)])
        return model

    model = kopt.DistillationModel(sum_of("ab"), sum_of("ba"))
    model.compile(keras.optimizers.SGD(0.0), loss=None)
    x = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    for given in (list(x), {"a": x[0], "b": x[1]}):
        assert model.train_on_batch(given, return_dict=True)["soft_loss"] == pytest.approx(0.0, abs=1e-6)


def test_weights_load_into_an_optimizer_that_has_made_no_update(tmp_path):
    model = distilled()
    model.compile("adam", LOSS)
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "teaching.weights.h5")
    again = distilled()
    again.compile("adam", LOSS)
    again.load_weights(tmp_path / "teaching.weights.h5")
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) > 0
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_teacher_without_its_weights_does_not_teach():
    model = distilled()
    again = kopt.DistillationModel.from_config(model.get_config())
    again.compile("adam", LOSS)
    with pytest.raises(ConfigError, match=r"came from a config, without the weights .* `teachers\[0\].model`"):
        again.fit(X, Y, verbose=0)
    again.teachers[0].model.set_weights(model.teachers[0].model.get_weights())
    again.compile("adam", LOSS)
    again.fit(X, Y, verbose=0)
