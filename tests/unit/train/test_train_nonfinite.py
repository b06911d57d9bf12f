import keras
import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.training.input_checks import NonFiniteReport
from kopt.train.steps.nonfinite import locate_nonfinite

L = keras.layers
X = np.array([[0.5, 1.0, 2.0], [0.0, 3.0, -1.0]], "float32")
Y = np.array([[1.0], [2.0]], "float32")


class Apply(L.Layer):
    """A parameterless layer with a given function."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def chain(*layers, loss="mse"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("sgd", loss)
    return model


def ones(units, **kwargs):
    return L.Dense(units, kernel_initializer="ones", **kwargs)


def state(model):
    return [variable.numpy() for variable in (*model.variables, *model.metrics_variables, *model.optimizer.variables)]


def test_finite_steps_have_no_place_and_change_nothing():
    model = chain(L.Dense(4), L.BatchNormalization(), L.Dropout(0.5), L.Dense(1, kernel_regularizer="l2"))
    model.fit(X, Y, verbose=0)
    before = state(model)
    assert locate_nonfinite(model, X, Y, np.ones(2, "float32")) is None
    for one, other in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any("call" in vars(layer) for layer in (model, *model.layers))


def test_a_bad_input_target_or_weight_is_named_first():
    model = chain(ones(1, name="out"))
    bad = X.copy()
    bad[1, 2], bad[0, 1] = np.nan, np.inf
    report = locate_nonfinite(model, bad, Y)
    assert (report.kind, report.name, report.nans, report.infinities, report.size) == ("input", "input", 1, 1, 6)
    assert report.index == (0, 1)
    assert "np.nan_to_num" in str(report)
    report = locate_nonfinite(model, X, np.array([[1.0], [np.nan]]))
    assert (report.kind, report.name, report.index) == ("input", "targets", (1, 0))
    report = locate_nonfinite(model, X, Y, np.array([np.inf, 1.0]))
    assert (report.name, report.index) == ("sample weights", (0,))
    model.layers[0].kernel.assign([[1.0], [np.nan], [np.inf]])
    report = locate_nonfinite(model, X, Y)
    assert (report.kind, report.nans, report.infinities, report.index) == ("weight", 1, 1, (1, 0))
    assert report.name.endswith("out/kernel")


def test_the_first_layer_whose_output_is_bad():
    model = chain(ones(4, name="first"), L.BatchNormalization(name="norm"), Apply(tf.math.log, name="log"), ones(1))
    before = state(model)
    report = locate_nonfinite(model, X, Y)
    # Batch normalization of two rows gives +a and -a, equal in all four units: the log of one row is NaN.
    assert (report.kind, report.what, report.nans, report.infinities, report.size) == ("activation", "Apply", 4, 0, 8)
    assert report.name.endswith("log")
    assert report.index == (1, 0)  # Rows sum to 3.5 and 2.
    assert "The output of layer" in str(report)
    assert "(Apply) has 4 NaN and 0 infinite of 8 float32 numbers, the first at index (1, 0)" in str(report)
    for one, other in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_operations_of_a_graph_and_nested_models():
    i = keras.Input((3,))
    inner_in = keras.Input((3,))
    inner = keras.Model(inner_in, keras.ops.log(L.ReLU()(inner_in)), name="inner")
    model = keras.Model(i, ones(1)(inner(i)))
    model.compile("sgd", "mse")
    report = locate_nonfinite(model, X, Y)
    assert (report.kind, report.what) == ("activation", "Log")
    assert (report.nans, report.infinities, report.index) == (0, 2, (1, 0))  # log(0) of entries 0.0 and relu(-1.0).


class Inside(keras.Model):
    def __init__(self, where):
        super().__init__()
        self.where = where
        self.block = keras.Sequential([ones(3), L.ReLU()], name="block")
        self.head = ones(1, name="head")

    def call(self, x, training=False):
        x = self.block(x)
        if self.where == "call":
            x = tf.math.log(x - 2.0)  # Row 1 sums to 2.
        return self.head(x)


def test_subclassed_models():
    model = Inside("call")
    model.compile("sgd", "mse")
    with pytest.raises(InputError, match="never called"):
        locate_nonfinite(model, X, Y)
    model(X)
    report = locate_nonfinite(model, X, Y)
    assert (report.kind, report.what, report.infinities, report.index) == ("activation", "Inside", 3, (1, 0))
    assert "What the `call` of" in report.detail
    assert report.detail.endswith("head'")
    model.where = ""
    assert locate_nonfinite(model, X, Y) is None


def test_overflow_of_float16_says_so():
    model = chain(L.Dense(1, kernel_initializer=keras.initializers.Constant(60000.0), dtype="float16", name="big"))
    report = locate_nonfinite(model, X, Y)
    assert (report.kind, report.dtype, report.infinities) == ("activation", "float16", 2)  # 3.5 and 2 times 60000.
    assert "float16 ends at 65504" in report.hint


def test_the_loss():
    model = chain(ones(1))
    report = locate_nonfinite(model, X, Y, compute_loss=lambda y, outputs, weight: tf.math.log(tf.reduce_sum(y) - 3.0))
    assert (report.kind, report.name, report.infinities, report.index) == ("loss", "loss", 1, ())
    with pytest.raises(ConfigError, match="compile"):
        locate_nonfinite(keras.Sequential([keras.Input((3,)), ones(1)]), X, Y)


def test_added_losses_and_regularizers_count():
    class Adds(L.Layer):
        def call(self, x):
            self.add_loss(tf.math.log(0.0 * tf.reduce_sum(x)))
            return x

    assert locate_nonfinite(chain(Adds(), ones(1)), X, Y).kind == "loss"
    assert locate_nonfinite(chain(Adds(), ones(1)), X, Y, compute_loss=lambda y, z, w: tf.reduce_sum(z)).kind == "loss"


def test_the_layer_that_spoils_finite_gradients():
    # The slope of a root at 0 is infinite. Its output and all gradients behind it are finite; before it all is bad.
    model = chain(
        ones(3, name="first"),
        Apply(lambda x: tf.sqrt(x - 2.0), name="root"),
        ones(2, name="behind"),
        ones(1, name="last"),
    )
    report = locate_nonfinite(model, X, Y)
    assert (report.kind, report.what, report.infinities, report.index) == ("gradient", "Apply", 3, (1, 0))
    assert report.name.endswith("root")
    assert "The gradient of layer" in str(report)
    assert "by its input has 0 NaN and 3 infinite of 6" in str(report)


def test_the_layer_is_the_one_that_spoils_and_not_another_that_takes_the_same_tensor():
    i = keras.Input((3,))
    x = ones(3, name="shared")(i)
    spoiler = Apply(lambda x: tf.sqrt(x - 2.0), name="spoiler")(x)
    innocent = L.Dense(3, name="innocent")(x)
    model = keras.Model(i, ones(1)(L.Add()([spoiler, innocent])))
    model.compile("sgd", "mse")
    assert locate_nonfinite(model, X, Y).name.endswith("spoiler")


def test_of_two_layers_the_one_that_the_backward_pass_meets_first():
    i = keras.Input((3,))
    root = lambda x: tf.sqrt(x - 2.0)  # noqa: E731
    x = ones(3)(i)
    early = Apply(root, name="early")(x)
    late = Apply(root, name="late")(L.Identity()(L.Identity()(x)))
    model = keras.Model(i, ones(1)(L.Add()([L.Identity()(L.Identity()(early)), late])))
    model.compile("sgd", "mse")
    assert locate_nonfinite(model, X, Y).name.endswith("late")


def test_a_slope_of_the_loss():
    model = chain(ones(1))
    report = locate_nonfinite(
        model, X, Y, compute_loss=lambda y, outputs, weight: tf.reduce_sum(tf.sqrt(outputs - 2.0))
    )
    assert (report.kind, report.name, report.infinities, report.index) == ("gradient", "loss", 1, (1, 0))


def test_a_weight_gradient_alone():
    class Power(L.Layer):
        def build(self, shape):
            self.power = self.add_weight(shape=(), initializer="zeros", name="power")

        def call(self, x):
            return x * tf.sqrt(self.power)

    report = locate_nonfinite(chain(ones(1), Power(name="power_layer")), X, Y)
    assert (report.kind, report.what) == ("gradient", "Power")
    assert "by its weight 'power'" in report.detail


def test_the_record_travels():
    model = chain(ones(1))
    report = locate_nonfinite(model, np.full((2, 3), np.nan), Y)
    assert NonFiniteReport.from_json(report.to_json()) == report
