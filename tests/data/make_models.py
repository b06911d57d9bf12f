"""Make the tiny models beside this file with the real converters: `python tests/data/make_models.py`.

The weights are round numbers written down here, so that tests derive every expected output by hand:
`dense` is softmax(x @ KERNEL + BIAS) with 4 inputs and 3 classes, `pair` maps `left` (2) and `right` (3) to
`sum` = left[0] + left[1] and `scaled` = 10 * right.

Run it with the oldest Keras that kopt supports (Python 3.10 has it): what an old one writes, a new one reads.
"""

import shutil
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

HERE = Path(__file__).parent
KERNEL = np.array([[1, 0, -1], [0, 2, 0], [-1, 0, 1], [0.5, -0.5, 0]], np.float32)
BIAS = np.array([0, 0.25, -0.25], np.float32)
SAMPLES = np.random.default_rng(0).random((64, 1, 4), dtype=np.float32)


def dense():
    inputs = keras.Input((4,), name="x")
    outputs = keras.layers.Dense(3, activation="softmax", name="classes")(inputs)
    model = keras.Model(inputs, outputs, name="dense")
    model.set_weights([KERNEL, BIAS])
    return model


def pair():
    left, right = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    total = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(left)
    scaled = keras.layers.Rescaling(10.0)(right)
    return keras.Model({"right": right, "left": left}, {"sum": total, "scaled": scaled}, name="pair")


def lstm():
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(3)], name="lstm")
    values = np.random.default_rng(1)
    model.set_weights([values.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return model


class Doubler(tf.Module):
    """A plain module with two signatures, neither of them Keras'."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="value")])
    def double(self, value):
        return {"doubled": 2 * value}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def length(self, text):
        return {"length": tf.strings.length(text)}


def save(model, name, batch_size=None):
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    # `Model.export` leaves the batch open whatever the model says; the signature fixes it.
    fixed = (
        [keras.InputSpec(shape=(batch_size, *model.input_shape[1:]), dtype="float32", name="x")] if batch_size else None
    )
    model.export(target, format="tf_saved_model", verbose=False, input_signature=fixed)
    # Not needed to run it, and different at every export.
    (target / "fingerprint.pb").unlink()
    return target


def tflite(saved_model, name, **settings):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    for key, value in settings.items():
        setattr(converter, key, value)
    (HERE / name).write_bytes(converter.convert())


def main():
    temporary = HERE / "temporary"
    dense().save(HERE / "dense.keras")
    saved = save(dense(), "dense_saved_model")
    tflite(saved, "dense.tflite")
    tflite(save(dense(), "temporary", batch_size=4), "dense_batch4.tflite")
    for io_dtype in (tf.int8, tf.uint8):
        tflite(
            saved,
            f"dense_{io_dtype.name}_io.tflite",
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([sample] for sample in SAMPLES),
            inference_input_type=io_dtype,
            inference_output_type=io_dtype,
        )
    tflite(save(pair(), "temporary"), "pair.tflite")
    model = dense()
    call = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([None, 4], tf.float32, name="x"))
    (HERE / "dense_unsigned.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([call]).convert())
    tflite(
        save(lstm(), "temporary"), "lstm_single.tflite", _experimental_default_to_single_batch_in_tensor_list_ops=True
    )
    lstm().save(HERE / "lstm.keras")
    shutil.rmtree(temporary)
    proto, _ = tf2onnx.convert.from_function(
        tf.function(lambda x: model(x)), [tf.TensorSpec([None, 4], tf.float32, name="x")], opset=15
    )
    onnx.save(proto, HERE / "dense.onnx")
    doubler = Doubler()
    tf.saved_model.save(
        doubler, HERE / "doubler_saved_model", signatures={"double": doubler.double, "length": doubler.length}
    )
    (HERE / "doubler_saved_model" / "fingerprint.pb").unlink()


if __name__ == "__main__":
    main()
