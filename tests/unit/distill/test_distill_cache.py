"""A teacher computed once: what is kept, how it is found, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distillation_cases import CLASSES, L, examples, network, teacher

import kopt
from kopt.core.errors import ConfigError, DataError, InputError, LoadError, NonFiniteError
from kopt.core.records.changes.distillation import CacheManifest
from kopt.distill import TeacherCache, cache_predictions, cache_teacher
from kopt.distill.cache_files import keys_of

X, Y = examples(40)
LOSS = "sparse_categorical_crossentropy"


def pipeline(x=X, y=Y, batch_size=8, **settings):
    return kopt.data.from_arrays(x, y, batch_size=batch_size, **settings)


def stored(cache, dataset):
    """Return what is joined to every example of a data set, by the bytes of the example."""
    found = {}
    for inputs, *_ in cache.join(dataset):
        parts = inputs["kopt_stored"]
        for row, image in enumerate(inputs["kopt_inputs"].numpy()):
            found[image.tobytes()] = {name: values[row].numpy() for name, values in parts.items()}
    return found


def in_order(found, name):
    return np.stack([found[image.tobytes()][name] for image in X])


def fitted(model, data):
    model.compile(keras.optimizers.SGD(0.05), LOSS)
    return model.fit(data, epochs=2, verbose=0, shuffle=False).history


def test_a_whole_number_of_epochs_is_cached(tmp_path):
    with pytest.raises(ConfigError, match="`epochs` must be a whole number"):
        cache_teacher(teacher(), X, tmp_path, epochs=0)


@pytest.mark.slow
def test_every_example_finds_its_own_in_any_order_and_batch(tmp_path):
    large = teacher()
    cache = cache_teacher(large, pipeline(), tmp_path, features=["two"], dtype="float32", shard_examples=16)
    assert len(list(tmp_path.glob("shard-*.npz"))) == 3
    assert cache.examples == 40
    found = stored(cache, pipeline(batch_size=7, shuffle=True, seed=3).repeat(2))
    expected = np.log(large.predict(X, verbose=0))
    np.testing.assert_allclose(in_order(found, "output_0"), expected, atol=1e-5)
    inner = keras.Model(large.inputs, large.get_layer("two").output).predict(X, verbose=0)
    np.testing.assert_allclose(in_order(found, "feature_0"), inner, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_training_on_a_cache_is_training_on_the_teacher(tmp_path, dtype, tolerance):
    large = teacher()
    cache = cache_teacher(large, pipeline(), tmp_path, features=["two"], dtype=dtype)
    direct, cached = (
        kopt.DistillationModel(network(norm=False), one, features=[("two", "two")]) for one in (large, cache)
    )
    cached.projectors[0].set_weights(direct.projectors[0].get_weights())
    expected, history = fitted(direct, pipeline()), fitted(cached, cache.join(pipeline()))
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=tolerance, err_msg=name)
    plain = cached.evaluate(pipeline(), verbose=0)
    assert plain == cached.evaluate(cache.join(pipeline()), verbose=0)
    again = kopt.DistillationModel.from_config(cached.get_config())
    assert again.report == cached.report
    with pytest.raises(ConfigError, match=r"Train on `cache.join\(dataset\)`"):
        fitted(again, pipeline())


def augmented(seed=5):
    tf.random.set_seed(0)  # a part of what a data set is drawn from
    return pipeline(shuffle=True, augment=kopt.data.Augmentation(flip="horizontal", crop=1), seed=seed)


@pytest.mark.slow
def test_augmented_examples_of_several_epochs_are_found_where_the_seed_is_the_same(tmp_path):
    large = teacher()
    cache = cache_teacher(large, augmented(), tmp_path, dtype="float32", epochs=3)
    assert 80 < cache.examples <= 120, "the epochs do not differ"

    def trained(of, data, epochs=3):
        model = kopt.DistillationModel(network(norm=False), of)
        model.compile(keras.optimizers.SGD(0.05), LOSS)
        return model.fit(data.repeat(), steps_per_epoch=5, epochs=epochs, shuffle=False, verbose=0).history

    expected, history = trained(large, augmented()), trained(cache, cache.join(augmented()))
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    for data, epochs in ((augmented(seed=6), 3), (augmented(), 4)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="made again from that seed"):
            trained(cache, cache.join(data), epochs)


@pytest.mark.slow
def test_top_k_spreads_what_is_left(tmp_path):
    large = teacher()
    cache = cache_teacher(large, X, tmp_path, top_k=2, dtype="float32")
    p = large.predict(X, verbose=0)
    kept = np.argsort(-p, axis=-1)[:, :2]
    expected = np.empty_like(p)
    expected[:] = (1 - np.take_along_axis(p, kept, -1).sum(-1, keepdims=True)) / 2
    np.put_along_axis(expected, kept, np.take_along_axis(p, kept, -1), -1)
    np.testing.assert_allclose(np.exp(in_order(stored(cache, pipeline()), "output_0")), expected, atol=1e-5)


def test_a_run_that_was_killed_goes_on(tmp_path):
    calls = []

    class Counting(L.Layer):
        def call(self, inputs):
            outputs = tf.py_function(lambda one: calls.append(len(one)) or one, [inputs], tf.float32)
            return tf.ensure_shape(outputs, (None, 8, 8, 1))

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((8, 8, 1))
    x = Counting(dtype="float32")(inputs)
    large = keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(x)))

    def killed():
        for number, batch in enumerate(pipeline()):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    dying = tf.data.Dataset.from_generator(killed, output_signature=pipeline().element_spec)
    with pytest.raises((KeyboardInterrupt, tf.errors.OpError)):
        cache_teacher(large, dying, tmp_path, shard_examples=8)
    calls.clear()
    cache = cache_teacher(large, pipeline(), tmp_path, shard_examples=8)
    assert sum(calls) == 16  # Three batches of five were there.
    assert cache.examples == 40
    calls.clear()
    cache_teacher(large, pipeline(), tmp_path)
    assert not calls


def test_equal_examples_are_kept_once(tmp_path):
    twice = np.concatenate([X[:5], X[:5]])
    assert cache_teacher(teacher(), twice, tmp_path).examples == 5


def test_keys_are_of_all_inputs():
    keys = keys_of({"a": tf.constant(X), "b": tf.constant(Y)})
    assert len(set(keys.numpy())) == 40
    other = keys_of({"a": tf.constant(X), "b": tf.constant(Y + 1)})
    assert not set(keys.numpy()) & set(other.numpy())


def test_a_cache_of_something_else_is_refused(tmp_path):
    large = teacher()
    cache_teacher(large, pipeline(), tmp_path)
    with pytest.raises(ConfigError, match=r"teacher_hash: .* there"):
        cache_teacher(teacher(5), pipeline(), tmp_path)
    with pytest.raises(ConfigError, match="dtype: 'float16' there, 'float32' here"):
        cache_teacher(large, pipeline(), tmp_path, dtype="float32")
    with pytest.raises(ConfigError, match="made of another teacher than 'teacher'"):
        TeacherCache(tmp_path, teacher(5))
    cache = TeacherCache(tmp_path, large)
    with pytest.raises(ConfigError, match=r"cache_teacher\(..., features=\['two'\]\)"):
        kopt.DistillationModel(network(), cache, features=[("two", "two")])
    with pytest.raises(DataError, match=r"float32 \(None, 8, 8, 1\), and these are float64"):
        cache.join(pipeline(X.astype("float64")))
    augmented = cache.join(pipeline(X + 0.01))
    with pytest.raises(tf.errors.InvalidArgumentError, match="another data set, before or after augmentation"):
        next(iter(augmented))
    with pytest.raises(InputError, match="is a cache already"):
        cache_teacher(cache, pipeline(), tmp_path)


def test_damaged_and_missing_files_are_said(tmp_path):
    with pytest.raises(LoadError, match="holds no cache of a teacher"):
        TeacherCache(tmp_path)
    model = teacher()
    cache_teacher(model, pipeline(), tmp_path)
    shard = next(tmp_path.glob("shard-*.npz"))
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(LoadError, match=r"is damaged .*Remove it, and cache the teacher again"):
        TeacherCache(tmp_path).join(pipeline())
    shard.unlink()
    assert len(stored(cache_teacher(model, pipeline(), tmp_path), pipeline())) == len(X)


def test_a_teacher_of_nan_or_too_large_numbers_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    flat = L.Flatten()(inputs)
    bad = keras.Model(inputs, keras.ops.log(L.Dense(CLASSES, name="head")(flat)))
    with pytest.raises(NonFiniteError, match=r"gives \d+ NaN or infinite"):
        cache_teacher(bad, pipeline(), tmp_path / "bad")
    large = keras.Model(inputs, L.Rescaling(1e6)(L.Dense(CLASSES)(flat)))
    with pytest.raises(NonFiniteError, match="dtype='float32'"):
        cache_teacher(large, pipeline(), tmp_path / "large")


@pytest.mark.parametrize("top_k", [0, 4])
def test_impossible_settings_are_refused(tmp_path, top_k):
    with pytest.raises(ConfigError, match="top_k"):
        cache_teacher(teacher(), pipeline(), tmp_path / "cache", top_k=top_k)


def test_the_manifest_is_a_record(tmp_path):
    manifest = cache_teacher(teacher(), pipeline(), tmp_path, features=["two"]).manifest
    assert CacheManifest.from_json((tmp_path / "teacher.json").read_text()) == manifest
    assert manifest.features[0].shape == (4, 4, 16)
    assert (manifest.outputs[0].form, manifest.inputs[0].dtype) == ("probabilities", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_of_predictions_teaches(tmp_path, suffix):
    p = teacher().predict(X, verbose=0)
    path = tmp_path / f"said{suffix}"
    np.save(path, p) if suffix == ".npy" else np.savez(path, head=p)
    cache = cache_predictions(X, path, tmp_path / "cache", form="probabilities", dtype="float32")
    np.testing.assert_allclose(np.exp(in_order(stored(cache, pipeline(shuffle=True)), "output_0")), p, atol=1e-6)
    history = fitted(kopt.DistillationModel(network(), cache), cache.join(pipeline()))
    assert np.isfinite(history["soft_loss"]).all()


def test_predictions_of_other_examples_are_refused(tmp_path):
    p = teacher().predict(X, verbose=0)
    with pytest.raises(DataError):
        cache_predictions(X[:-1], p, tmp_path / "one", form="logits")
    with pytest.raises(NonFiniteError, match="predictions gives 1 NaN"):
        cache_predictions(X, np.where(p == p.max(), np.nan, p), tmp_path / "two", form="logits")
    with pytest.raises(LoadError, match="cannot be read as predictions"):
        cache_predictions(X, tmp_path / "none.npy", tmp_path / "three", form="logits")
    with pytest.raises(ConfigError, match="Did you mean 'logits'"):
        cache_predictions(X, p, tmp_path / "four", form="logit")


@pytest.mark.slow
def test_accelerated_training_on_a_cache_with_labels_for_some(tmp_path):
    cache = cache_teacher(teacher(), pipeline(), tmp_path)
    y = np.where(np.arange(len(X)) % 2, Y, -1)
    model = kopt.DistillationModel(network(), cache, unlabeled=-1)
    model.compile(keras.optimizers.SGD(0.05), LOSS)
    fast = kopt.train.accelerate(model, accumulate_steps=2, jit_compile=False)
    history = fast.fit(cache.join(pipeline(y=y)), verbose=0, shuffle=False).history
    assert set(history) == {"loss", "hard_loss", "soft_loss"}
    assert np.isfinite(history["loss"]).all()


def test_arrays_with_labels_are_those_of_fit(tmp_path):
    cache = cache_teacher(teacher(), (X, Y), tmp_path / "cache")
    without = cache_teacher(teacher(), X, tmp_path / "without")
    assert cache.manifest.inputs == without.manifest.inputs
    assert len(stored(cache, pipeline())) == len(X)
