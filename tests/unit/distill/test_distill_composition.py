"""Distillation under what else a training may have."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from distillation_cases import L, bits, examples, network, teacher
from training_cases import largest_difference

import kopt
from kopt.core.errors import ConfigError, DivergedError

X, Y = examples(32)
LOSS = "sparse_categorical_crossentropy"


def distilled(student=None, of=None, **compiled):
    model = kopt.DistillationModel(student or network(norm=False), of or teacher(), features=[("two", "two")])
    model.projectors[0].kernel.assign(np.linspace(-1, 1, 96).reshape(6, 16))
    model.compile(keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"], **compiled)
    return model


def fitted(model, **settings):
    return model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, **settings).history


@pytest.fixture(scope="module")
def plain():
    model = distilled()
    return model, fitted(model)


def close(one, other, tolerance=1e-5):
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "compiled", [{"steps_per_execution": 4}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)]
)
def test_compiled_and_packed_steps_are_the_plain_ones(plain, compiled):
    model = distilled(**compiled)
    close(fitted(model), plain[1], 1e-4)
    assert largest_difference(model, plain[0]) < 1e-5


@pytest.mark.slow
def test_accelerated_steps_are_the_plain_ones(plain):
    model = distilled()
    fast = kopt.train.accelerate(model, jit_compile=False)
    close(fitted(fast), plain[1])
    assert largest_difference(model, plain[0]) < 1e-6


@pytest.mark.slow
def test_accumulated_batches_are_the_large_one():
    large = distilled()
    large.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    small = distilled()
    fast = kopt.train.accelerate(small, accumulate_steps=4, jit_compile=False)
    fitted(fast)
    assert largest_difference(large, small) < 1e-6


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_left_out_of_all_terms():
    x = X.copy()
    model = distilled()
    # Overflows in the student alone, whose first kernel is the larger.
    model.student.get_layer("one").kernel.assign(np.full((3, 3, 1, 3), 1e30))
    x[:24] *= 1e-30
    x[24:] = 1e30
    fast = kopt.train.accelerate(model, jit_compile=False, max_nonfinite_steps=5)
    history = fast.fit(x, Y, batch_size=8, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1]
    assert all(np.isfinite(values).all() for values in history.values())


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("remat", [2, 5, ["one..two"], ["two"]])
def test_rematerialized_steps_are_the_plain_ones_with_features(plain, remat, jit_compile):
    model = distilled()
    fast = kopt.train.accelerate(model, remat=remat, jit_compile=jit_compile)
    close(fitted(fast), plain[1])
    assert fast.report.remat.blocks
    assert largest_difference(model, plain[0]) < 1e-6


@pytest.mark.slow
def test_features_of_a_layer_inside_a_rematerialized_one():
    def make(remat):
        keras.utils.set_random_seed(0)
        inner = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(3, 3, name="deep"), L.ReLU()], name="inner")
        head = [L.Dropout(0.3, seed=1), L.GlobalAveragePooling2D(), L.Dense(4, activation="softmax")]
        student = keras.Sequential([keras.Input((8, 8, 1)), inner, *head])
        model = kopt.DistillationModel(student, teacher(), features=[("inner/deep", "one")])
        model.projectors[0].kernel.assign(np.linspace(-1, 1, 24).reshape(3, 8))
        model.compile(keras.optimizers.SGD(0.05), LOSS)
        fast = kopt.train.accelerate(model, remat=remat, jit_compile=False)
        return model, fitted(fast)

    (one, expected), (other, found) = make(None), make(["inner"])
    close(found, expected)
    assert largest_difference(one, other) < 1e-6


@pytest.mark.slow
def test_a_student_under_masks_stays_sparse(tmp_path):
    student, _ = kopt.prune.magnitude(network(), 0.75)
    zeros = [layer.kernel.numpy() == 0 for layer in (student.get_layer("one"), student.get_layer("two"))]
    model = distilled(student)
    own = [type(one).__name__ for one in model.own_callbacks()]
    assert own == ["LengthCheck", "_AfterTraining", "TeachingCheck"]
    fitted(model)
    for layer, mask in zip((student.get_layer("one"), student.get_layer("two")), zeros, strict=True):
        np.testing.assert_array_equal(layer.kernel.numpy()[mask], 0)
    finished, _ = kopt.prune.finalize(model.student)
    assert kopt.export.tflite(finished, tmp_path / "sparse.tflite").parity is not None


@pytest.mark.slow
def test_a_schedule_that_would_prune_nothing_is_said():
    student, _ = kopt.prune.magnitude(network(), kopt.prune.schedules.Polynomial(0.5, begin=500, end=900))
    with pytest.raises(ConfigError, match="prunes nothing in this training"):
        fitted(distilled(student))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "saved_model", "onnx"])
def test_a_file_teaches(tmp_path, kind):
    large = teacher()
    paths = {"tflite": "large.tflite", "saved_model": "large", "onnx": "large.onnx"}
    path = tmp_path / paths[kind]
    getattr(kopt.export, kind)(large, path)
    model = kopt.DistillationModel(network(norm=False), str(path))
    assert model.report.outputs[0].teacher_forms == ("probabilities",)
    if kind != "saved_model":  # which is called inside the step
        with pytest.raises(ConfigError, match="XLA cannot compile"):
            model.compile("sgd", LOSS, jit_compile=True)
    model.compile(keras.optimizers.SGD(0.05), LOSS, jit_compile=kind == "saved_model")
    direct = kopt.DistillationModel(network(norm=False), large)
    direct.compile(keras.optimizers.SGD(0.05), LOSS)
    close(fitted(direct), fitted(model), 1e-3)
    assert model.get_config()["teacher"] == [str(path)]
    with pytest.raises(ConfigError, match="has no layers to take features from"):
        kopt.DistillationModel(network(), str(path), features=[("two", "two")])


@pytest.mark.slow
@pytest.mark.parametrize("packed", [list, dict])
def test_inputs_of_a_saved_model_are_found(tmp_path, packed):
    def two(width):
        keras.utils.set_random_seed(width)
        z, a = keras.Input((3,), name="z"), keras.Input((3,), name="a")
        inputs = [z, a] if packed is list else {"z": z, "a": a}
        x = L.Dense(width)(L.Subtract()([z, a]))
        return keras.Model(inputs, L.Dense(4, activation="softmax")(x))

    large = two(8)
    x = [np.random.default_rng(seed).normal(size=(32, 3)).astype("float32") for seed in range(2)]
    x = x if packed is list else dict(zip("za", x, strict=True))
    kopt.export.saved_model(large, tmp_path / "large")
    histories = []
    for one in (large, tmp_path / "large"):
        model = kopt.DistillationModel(two(2), one)
        model.compile(keras.optimizers.SGD(0.05), LOSS)
        histories.append(model.fit(x, Y, batch_size=8, shuffle=False, verbose=0).history)
    close(*histories)


_ONE_THREAD = """
import sys, numpy as np, tensorflow as tf, keras, kopt
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
model = kopt.DistillationModel(student, sys.argv[1])
model.compile("sgd", "sparse_categorical_crossentropy")
model.fit(np.ones((64, 8), "float32"), np.zeros(64, "int64"), batch_size=8, verbose=0)
"""


@pytest.mark.slow
def test_a_saved_model_teaches_where_there_is_one_thread(tmp_path):
    large = keras.Sequential([keras.Input((8,)), L.Dense(16), L.Dense(4, activation="softmax")])
    kopt.export.saved_model(large, tmp_path / "large")
    command = [sys.executable, "-c", _ONE_THREAD, str(tmp_path / "large")]
    assert subprocess.run(command, timeout=180, check=False).returncode == 0


@pytest.mark.slow
def test_training_resumes_from_a_checkpoint(tmp_path):
    straight = distilled()
    fitted(kopt.train.accelerate(straight, jit_compile=False), epochs=3)

    class Kill(keras.callbacks.Callback):
        at = 2

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.at:
                Kill.at = None
                raise KeyboardInterrupt

    killed = distilled()
    with pytest.raises(KeyboardInterrupt):
        fitted(kopt.train.accelerate(killed, checkpoint=str(tmp_path), jit_compile=False), epochs=3, callbacks=[Kill()])
    resumed = distilled()
    fitted(kopt.train.accelerate(resumed, checkpoint=str(tmp_path), jit_compile=False), epochs=3, callbacks=[Kill()])
    assert bits(resumed.student) == bits(straight.student)


@pytest.mark.slow
def test_diverged_training_says_where():
    student = network(norm=False)
    student.get_layer("one").kernel.assign(np.full((3, 3, 1, 3), np.inf))
    with pytest.raises(DivergedError, match="one/kernel"):
        fitted(kopt.train.accelerate(distilled(student), jit_compile=False, max_nonfinite_steps=2))
