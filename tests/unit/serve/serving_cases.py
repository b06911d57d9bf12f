"""TF Serving's toy model as a SavedModel."""

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

REGRESS = "tensorflow/serving/regress"


class HalfPlus(tf.Module):
    """TF Serving's toy model: y = x / 2 + b, with its signatures for Predict and Regress."""

    def __init__(self, b):
        super().__init__()
        self.b = tf.Variable(float(b))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(self, x):
        return {"y": x / 2 + self.b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        return {"outputs": parsed["x"] / 2 + self.b}


def save_half_plus(directory, b):
    """Write y = x / 2 + b to `directory` in one step, as a careful writer does."""
    staged = directory.parent / f".{directory.name}.staged"
    model = HalfPlus(b)
    tf.saved_model.save(model, staged, signatures={"serving_default": model.predict, REGRESS: model.regress})
    path = staged / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    proto.meta_graphs[0].signature_def[REGRESS].method_name = REGRESS
    path.write_bytes(proto.SerializeToString())
    staged.rename(directory)
    return directory
