import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, InputError, LoadError, OutputError, UnsupportedModelError
from kopt.core.records.profiles.training import TrainingTrends
from kopt.profile import TrainingProfile, Trends
from kopt.train import accelerate

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = np.arange(64) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model(optimizer=None, *layers, **settings):
    keras.utils.set_random_seed(1)
    layers = layers or (L.Dense(5, "tanh", name="hidden"), L.Dense(3, name="logits"))
    model = keras.Sequential([keras.Input((6,)), *layers], name="net")
    model.compile(optimizer or keras.optimizers.SGD(0.1), LOSS, **settings)
    return model


def train(model, *callbacks, epochs=2, wrap=False, **settings):
    target = accelerate(model, jit_compile=settings.pop("jit_compile", False)) if wrap else model
    given = {"batch_size": 16, "shuffle": False, "verbose": 0, **settings}
    return target.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **given)


@pytest.mark.parametrize(
    ("wrap", "settings"),
    [
        (False, {}),
        pytest.param(False, {"steps_per_execution": 4}, marks=pytest.mark.slow),
        pytest.param(True, {}, marks=pytest.mark.slow),
        pytest.param(False, {"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_bit_for_bit(wrap, settings):
    plain, watched = (make_model(keras.optimizers.Adam(0.01), **settings) for _ in range(2))
    train(plain, wrap=wrap)
    watch = TrainingProfile(every=3)
    train(watched, watch, wrap=wrap)
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [sample.step for sample in watch.trends.samples] == [0, 3, 6]
    assert [epoch.sampled_steps for epoch in watch.trends.epochs] == [2, 1]
    assert not [name for name in vars(watched.optimizer) if "update_step" in name]


@pytest.mark.slow
def test_numbers_are_those_of_numpy():
    model, twin = make_model(), make_model()
    watch = TrainingProfile(every=1)
    train(model, watch, epochs=1)
    gradients, weights = [], []
    for start in range(0, 64, 16):
        with tf.GradientTape() as tape:
            loss = LOSS(Y[start : start + 16], twin(X[start : start + 16]))
        found = [np.asarray(one) for one in tape.gradient(loss, [v.value for v in twin.trainable_variables])]
        gradients.append(found)
        weights.append(twin.get_weights())
        twin.set_weights([w - np.float32(0.1) * g for w, g in zip(weights[-1], found, strict=True)])
    trends = watch.trends
    assert trends.run.variables == ("hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias")
    for step, sample in enumerate(trends.samples):
        assert sample.learning_rate == pytest.approx(0.1)
        norms = [np.linalg.norm(g) for g in gradients[step]]
        sizes = [np.linalg.norm(w) for w in weights[step]]
        np.testing.assert_allclose(sample.norms, norms, rtol=1e-5)
        np.testing.assert_allclose(sample.weight_norms, sizes, rtol=1e-5)
        ratios = [0.1 * norm / size if size else 0.0 for norm, size in zip(norms, sizes, strict=True)]
        np.testing.assert_allclose(sample.update_ratios, ratios, rtol=1e-4)
    [epoch] = trends.epochs
    for place, one in enumerate(epoch.gradients):
        stacked = np.stack([found[place] for found in gradients]).reshape(4, -1)
        assert one.norm == pytest.approx(np.linalg.norm(stacked, axis=1).mean(), rel=1e-5)
        assert one.variance == pytest.approx(stacked.var(axis=0, ddof=1).mean(), rel=1e-4)
        assert one.mean == pytest.approx(stacked.mean(), abs=1e-6)
    kernel = model.get_weights()[0]
    assert epoch.weights[0].std == pytest.approx(kernel.std(), rel=1e-5)
    assert epoch.logs["loss"] == pytest.approx(model.history.history["loss"][0])


@pytest.mark.slow
def test_clipped_and_accumulated_gradients_are_seen_as_they_are_applied():
    watch = TrainingProfile(every=1)
    train(make_model(keras.optimizers.SGD(0.1, global_clipnorm=0.01)), watch, epochs=1)
    for sample in watch.trends.samples:
        assert np.linalg.norm(sample.norms) == pytest.approx(0.01, rel=1e-4)
    both = TrainingProfile(every=1)
    model = make_model()
    accelerate(model, accumulate_steps=2, jit_compile=False).fit(
        X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=[both]
    )
    assert len(both.trends.samples) == 2  # four batches make two updates


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 3])
def test_updates_of_keras_own_accumulation_are_counted_as_keras_counts_them(together):
    watch = TrainingProfile(every=3)
    model = make_model(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), steps_per_execution=together)
    train(model, watch, epochs=5)  # 20 batches are 6 updates, and an update spans two epochs
    assert [sample.step for sample in watch.trends.samples] == [0, 3]


@pytest.mark.slow
def test_only_steps_that_look_have_the_statistics_in_their_graph():
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(self.model.train_function)

    train(make_model(), TrainingProfile(every=3), Steps(), epochs=2)  # four batches an epoch
    looks = seen[0]
    assert [function is looks for function in seen] == [True, False, False, True, False, False, True, False]
    assert len(set(seen)) == 2


@pytest.mark.slow
def test_a_step_that_is_made_anew_during_training_is_watched_too():
    class Freezes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.make_train_function(force=True)

    watch = TrainingProfile(every=3)
    train(make_model(), Freezes(), watch)
    assert [sample.step for sample in watch.trends.samples] == [0, 3, 6]


@pytest.mark.slow
def test_it_acts_after_a_training_without_it_and_leaves_nothing_behind(tmp_path):
    model = make_model()
    fast = accelerate(model, jit_compile=False)
    for target in (model, fast):
        target.fit(X, Y, verbose=0)
        watch = TrainingProfile(every=1)
        target.fit(X, Y, verbose=0, callbacks=[watch])
        assert len(watch.trends.samples) == 2
        target.fit(X, Y, verbose=0)
        assert len(watch.trends.samples) == 2
    model.save(tmp_path / "net.keras")
    assert keras.models.load_model(tmp_path / "net.keras").optimizer.iterations == 12


@pytest.mark.slow
def test_more_samples_than_there_is_room_for_are_read_in_time(monkeypatch):
    monkeypatch.setattr("kopt.profile.training.callback._CAPACITY", 4)
    watch = TrainingProfile(every=1)
    train(make_model(), watch, batch_size=4)
    assert [sample.step for sample in watch.trends.samples] == list(range(32))


@pytest.mark.slow
def test_a_training_on_disk(tmp_path):
    path = tmp_path / "run" / "training.jsonl"
    watch = TrainingProfile(every=2, log_path=path)
    train(make_model(), watch)
    read = Trends.from_jsonl(path)
    assert read == watch.trends
    assert TrainingTrends.from_json(watch.trends.to_json()).epochs == read.epochs
    path.write_text(path.read_text()[:-30])  # killed while it wrote
    assert Trends.from_jsonl(path).epochs == read.epochs[:-1]
    train(make_model(), TrainingProfile(every=2, log_path=path), epochs=2, initial_epoch=1)
    assert [one.epoch for one in Trends.from_jsonl(path).epochs] == [0, 1]
    again = TrainingProfile(every=2, log_path=path)
    train(make_model(), again, epochs=1)
    assert Trends.from_jsonl(path) == again.trends
    other = TrainingProfile(every=2, log_path=path)
    train(make_model(None, L.Dense(3, name="one")), other, epochs=1)
    assert Trends.from_jsonl(path) == other.trends
    with pytest.raises(LoadError, match="cannot be read"):
        Trends.from_jsonl(tmp_path / "missing.jsonl")
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(LoadError, match="holds no training"):
        Trends.from_jsonl(tmp_path / "other.jsonl")


@pytest.mark.slow
def test_events_for_tensorboard(tmp_path):
    watch = TrainingProfile(every=4, tensorboard=tmp_path)
    train(make_model(), watch)
    [file] = tmp_path.glob("events.out.tfevents.*")
    seen = {}
    for raw in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        for value in tf.compat.v1.Event.FromString(raw).summary.value:
            seen.setdefault((value.metadata.plugin_data.plugin_name, value.tag), []).append(
                tf.make_ndarray(value.tensor)
            )
    assert seen["scalars", "gradient_norm/hidden/kernel"] == [
        pytest.approx(sample.norms[0]) for sample in watch.trends.samples
    ]
    assert len(seen["scalars", "epoch/loss"]) == 2
    histogram = seen["histograms", "weights/hidden/kernel"][-1]
    assert histogram.shape == (30, 3)
    assert histogram[:, 2].sum() == 30  # the entries of a 6 x 5 kernel


@pytest.mark.slow
def test_an_active_run_of_weights_and_biases_gets_the_numbers(monkeypatch):
    logged = []
    stand_in = types.SimpleNamespace(run=object(), log=lambda values, step: logged.append((step, values)))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    train(make_model(), TrainingProfile(every=4), epochs=1)
    assert [step for step, _ in logged] == [0, 4]
    assert "update_ratio/hidden/kernel" in logged[0][1]
    assert "epoch/loss" in logged[1][1]


@pytest.mark.slow
def test_dead_units_and_drifting_statistics_are_seen():
    dead = L.Dense(8, "relu", name="dead", bias_initializer=keras.initializers.Constant(-100.0))
    watch = TrainingProfile(every=1)
    train(make_model(None, L.Dense(8, name="first"), dead, L.Dense(3)), watch, epochs=1)
    assert [one.where for one in watch.advice if one.kind == "zero gradient"][:2] == ["first/kernel", "first/bias"]
    assert watch.trends.epochs[0].dead_units["dead/kernel"] == 1.0
    moving = TrainingProfile(every=1)
    model = make_model(None, L.Rescaling(1.0, offset=5.0), L.BatchNormalization(name="norm"), L.Dense(3))
    train(model, moving, epochs=3)
    assert moving.trends.epochs[-1].batch_norm_shifts["norm"] > 0.1
    assert "batch normalization drifts" in [one.kind for one in moving.advice]


@pytest.mark.slow
def test_it_can_be_shown(tmp_path):
    watch = TrainingProfile(every=1)
    assert "No epoch has ended yet" in watch.trends.table()
    train(make_model(), watch, validation_split=0.25)
    table = watch.trends.table()
    assert max(map(len, table.splitlines())) <= 80
    assert "hidden/kernel" in table
    assert "2 epochs" in str(watch.trends)
    for ending in ("svg", "png"):
        assert watch.trends.plot(tmp_path / f"trends.{ending}").stat().st_size > 1000


def test_what_cannot_be_watched(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="`every` must be"):
        TrainingProfile(every=0)
    unbuilt = keras.Sequential([L.Dense(3)])
    unbuilt.compile("sgd", LOSS)
    with pytest.raises(InputError, match="build"):
        TrainingProfile().set_model(unbuilt)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        train(make_model(), TrainingProfile(log_path=tmp_path / "file" / "x.jsonl"))
    spread = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(keras.Model, "distribute_strategy", property(lambda self: spread))
    with pytest.raises(UnsupportedModelError, match="trains on 2 replicas"):
        TrainingProfile().set_model(make_model())


@pytest.mark.slow
def test_a_second_training_is_not_mixed_with_the_first():
    watch, model = TrainingProfile(every=2), make_model()
    train(model, watch)
    train(model, watch, epochs=3, initial_epoch=2)
    assert [one.epoch for one in watch.trends.epochs] == [0, 1, 2]
    train(model, watch, epochs=1)
    assert [one.epoch for one in watch.trends.epochs] == [0]
    assert len(watch.trends.samples) == 2
    train(make_model(None, L.Dense(3, name="one")), watch, epochs=1)
    assert list(watch.trends.epochs[-1].dead_units) == ["one/kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [False, True])
def test_gradients_of_an_embedding_are_rows(wrap):
    i = keras.Input((5,), dtype="int32")
    model = keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(L.Embedding(10, 4, name="table")(i))))
    model.compile("adam", LOSS)
    watch = TrainingProfile(every=1)
    (accelerate(model) if wrap else model).fit(np.tile(np.arange(5), (16, 1)), Y[:16], callbacks=[watch], verbose=0)
    (sample,) = watch.trends.samples
    assert sample.zero_fractions[0] == 0.5  # words 5 to 9 are in no example


@pytest.mark.slow
def test_dead_channels_are_those_of_the_layer_that_has_them():
    i = keras.Input((4, 4, 2))
    dying = L.Conv2D(8, 3, padding="same", activation="relu", name="dying")
    features = dying(i)
    transposed, depthwise = L.Conv2DTranspose(4, 3, name="transposed"), L.DepthwiseConv2D(3, name="depthwise")
    model = keras.Model(i, [transposed(features), depthwise(features)])
    model.compile("sgd", ["mse", "mse"])
    dying.bias.assign(np.repeat([-1e3, 10], 4))
    watch = TrainingProfile(every=1)
    x = np.random.default_rng(0).random((16, 4, 4, 2))
    model.fit(x, [np.ones((16, 6, 6, 4)), np.ones((16, 2, 2, 8))], callbacks=[watch], verbose=0)
    found = watch.trends.epochs[-1].dead_units
    assert found == {"dying/kernel": 0.5, "transposed/kernel": 0.0, "depthwise/kernel": 0.5}
