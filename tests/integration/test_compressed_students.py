"""Students under masks, in codebooks and with the rounding of integers learn from a teacher, and ship."""

import keras
import numpy as np
import pytest

import kopt

pytestmark = pytest.mark.slow

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 256)


def network(filters, seed):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")(image)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.Conv2D(2 * filters, 3, strides=2, activation="relu", name="conv2")(x)
    return keras.Model(image, L.Dense(4, name="logits")(L.GlobalAveragePooling2D(name="pool")(x)), name="net")


def taught(student, **settings):
    """Return the student after an epoch of learning from a teacher; both its loss terms fell."""
    model = kopt.DistillationModel(student, network(16, 1), **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    history = model.fit(X, Y, batch_size=32, epochs=3, verbose=0).history
    assert history["soft_loss"][-1] < history["soft_loss"][0]
    return model.student


def test_zeros_and_shared_values_stay():
    masked, _ = kopt.prune.magnitude(network(8, 0), 0.5)
    clustered, _ = kopt.cluster.weights(masked, clusters=8)
    before = clustered.get_layer("conv2").kernel.numpy()
    plain, report = kopt.cluster.finalize(taught(clustered))
    kernel = plain.get_layer("conv2").kernel.numpy()
    assert not np.array_equal(kernel, before)
    assert np.unique(kernel).size == 8
    assert [one.distinct for one in report.variables] == [8, 8, 8]
    assert all(one.sparsity >= 0.5 for one in report.variables)


def test_channels_that_fade_go():
    fading, _ = kopt.prune.channels_gradually(network(16, 0), 0.5)
    smaller, report = kopt.prune.finalize(taught(fading, features=[("relu", "relu")]))
    assert smaller.get_layer("conv").filters == 8
    assert report.macs_after < 0.5 * report.macs_before


def test_a_student_with_the_rounding_of_its_file_agrees_with_it(tmp_path):
    pruned, _ = kopt.prune.magnitude(network(8, 0), 0.5)
    sparse, _ = kopt.prune.finalize(pruned)
    shared, _ = kopt.cluster.finalize(kopt.cluster.weights(sparse, clusters=16)[0])
    aware, _ = kopt.quantize.aware(shared, calibration=X)
    student = taught(aware)
    file = kopt.export.tflite(student, tmp_path / "student.tflite", scheme="int8")
    classes = np.argmax(kopt.measure.load(file.path).predict(X), axis=-1)
    assert np.mean(classes == np.argmax(student.predict(X, verbose=0), axis=-1)) >= 0.99
    kernels = [one.numpy() for one in student.trainable_variables if one.name == "kernel"]
    assert len(kernels) == 3
    for kernel in kernels:
        assert np.mean(kernel == 0) >= 0.5
        assert np.unique(kernel).size <= 16
