import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_program

from kopt.core.errors import ConfigError, InputError, OutOfMemoryError, UnsupportedModelError
from kopt.train import accelerate
from kopt.train.memory.estimate import estimate_memory, explain_out_of_memory
from kopt.train.memory.step_graph import Step, StepGraph, by_layer, step_graph

FLOAT = 4


def mlp():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((100,)),
            keras.layers.Dense(200, "relu", name="first"),
            keras.layers.Dense(300, "relu", name="second"),
            keras.layers.Dense(10, name="head"),
        ],
        name="mlp",
    )


# The arithmetic, on operations written by hand.


def graph(steps, sizes, *, backward, given=(), results=()):
    return StepGraph(tuple(steps), backward, sizes, frozenset(given), frozenset(results))


def test_peak_counts_what_lives_at_one_moment():
    # Tensor 0 is the batch (10). a: 0 -> 1 (100), b: 1 -> 2 (50), c: 1, 2 -> 3 (7).
    # While c runs: 10 + 100 + 50 + 7. Before it 160, after it 17.
    steps = [
        Step("x", (), (0,)),
        Step("a", (0,), (1,)),
        Step("b", (1,), (2,)),
        Step("c", (1, 2), (3,)),
    ]
    sizes = {0: 10, 1: 100, 2: 50, 3: 7}
    assert graph(steps, sizes, backward=4, given=[0]).peak_bytes() == 167


def test_what_is_not_read_is_freed_and_results_stay():
    # a gives 1 (100), which nothing reads; b gives 2 (30), c gives 3 (80).
    steps = [Step("a", (), (1,)), Step("b", (), (2,)), Step("c", (), (3,))]
    sizes = {1: 100, 2: 30, 3: 80}
    assert graph(steps, sizes, backward=3).peak_bytes() == 100
    assert graph(steps, sizes, backward=3, results=[2]).peak_bytes() == 110
    assert graph(steps, sizes, backward=3, results=[1]).peak_bytes() == 180


def test_kept_is_what_the_backward_pass_reads_of_the_forward_pass():
    steps = [
        Step("x", (), (0,)),
        Step("a", (0,), (1,)),
        Step("b", (1,), (2,)),
        Step("g", (0, 1), (3,)),
    ]
    assert graph(steps, {0: 10, 1: 100, 2: 50, 3: 7}, backward=3, given=[0]).kept() == {"a": 100}


def test_layers_by_the_path_of_an_operation():
    kept = {
        "net_1/dense_1/Relu": 5,
        "net_1/dense_1_1/Relu": 7,
        "net_1/dense_1_1/Cast": 1,
        "net_1/block_1/bn_1/x": 9,
        "Mean": 2,
    }
    expected = {"block/bn": 9, "dense_1": 8, "dense": 5, "(loss and others)": 2}
    assert by_layer(kept, ["dense", "dense_1", "block", "bn"]) == expected


# Real graphs.


def test_operations_that_only_pass_on_take_no_memory():
    @tf.function(input_signature=[tf.TensorSpec((100,))])
    def function(x):
        a, b = x + 1.0, x + 2.0
        a, b = tf.raw_ops.IdentityN(input=[tf.identity(a), tf.reshape(b, (10, 10))])
        return tf.reduce_sum(a) + tf.reduce_sum(b)

    # The batch, a and b, 400 bytes each, and what a sum gives.
    traced = step_graph(function.get_concrete_function().graph, 0)
    assert traced.given_bytes == 400
    assert 1200 <= traced.peak_bytes() <= 1200 + 32


def test_mlp_by_hand():
    model = mlp()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = (np.zeros((1, 100), "float32"), np.zeros(1, "int32"))
    estimate = estimate_memory(model, 64, data=data)
    weights = FLOAT * (100 * 200 + 200 + 200 * 300 + 300 + 300 * 10 + 10)
    assert estimate.weights_bytes == estimate.gradients_bytes == weights
    assert estimate.optimizer_bytes == 2 * weights + 8 + 4  # Two moments, the iteration and the learning rate.
    assert estimate.batch_bytes == 64 * (100 * FLOAT + 4)
    # ReLU's gradient and the next product read the outputs of the two hidden layers, and nothing else of them.
    layers = {layer.layer: layer.activation_bytes for layer in estimate.layers}
    assert (layers["second"], layers["first"]) == (64 * 300 * FLOAT, 64 * 200 * FLOAT)
    # The loss keeps its own gradient of the logits, a 10th of a percent of the rest.
    assert estimate.activations_bytes == pytest.approx(64 * 500 * FLOAT, rel=0.05)
    assert estimate.step_bytes >= estimate.activations_bytes + weights
    assert estimate.total_bytes == 3 * weights + 12 + estimate.step_bytes
    assert not model.optimizer.built
    assert type(estimate).from_json(estimate.to_json()) == estimate


def test_activations_grow_with_the_batch_and_weights_do_not():
    one, four = (estimate_memory(mlp(), size) for size in (32, 128))
    assert four.activations_bytes == pytest.approx(4 * one.activations_bytes, rel=0.01)
    assert four.weights_bytes == one.weights_bytes
    assert one.optimizer_bytes == 0
    assert "There is no optimizer: its variables count as 0 bytes." in one.notes


def test_convolution_with_batch_normalization():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="bn")(x))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    layers = {layer.layer: layer.activation_bytes for layer in estimate_memory(model, 4).layers}
    # Batch normalization reads the convolution's output again, ReLU its own; what lies between is not kept.
    assert layers["conv"] == layers["relu"] == 4 * 8 * 8 * 16 * FLOAT
    assert layers["bn"] < 10 * 16 * FLOAT


def test_half_the_bytes_in_16_bits():
    full = estimate_memory(mlp(), 64)
    model = keras.Sequential(
        [keras.Input((100,)), *[keras.layers.Dense(n, "relu", dtype="mixed_bfloat16") for n in (200, 300, 10)]]
    )
    half = estimate_memory(model, 64)
    hidden = {layer.layer: layer.activation_bytes for layer in half.layers}
    casts = 2 * (200 * 300 + 300 * 10)  # The weights in 16 bits, which the gradients of the inputs read.
    assert sum(hidden.values()) == pytest.approx(full.activations_bytes / 2 + casts + 64 * 100 * 2, rel=0.1)


def test_rematerialization_keeps_less():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), *[keras.layers.Dense(64, "relu") for _ in range(16)]])
    plain, cut = estimate_memory(model, 4096), estimate_memory(model, 4096, remat=4)
    # 16 outputs are kept; in 4 parts the 3 borders and the 4 outputs of the last part.
    assert plain.activations_bytes == 16 * 4096 * 64 * FLOAT
    assert cut.activations_bytes == pytest.approx(7 * 4096 * 64 * FLOAT, rel=0.1)
    assert cut.step_bytes < 0.8 * plain.step_bytes


def test_subclassed_model_with_data():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(50, "relu")

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 20), "float32"))
    with pytest.raises(UnsupportedModelError, match="Pass a batch or a data set"):
        estimate_memory(model, 8)
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros((4, 20), "float32"), np.zeros((4, 50), "float32"))).batch(2)
    assert estimate_memory(model, 8, data=dataset).layers[0].activation_bytes == 8 * 50 * FLOAT


@pytest.mark.slow
def test_accelerated_model_is_its_model():
    model = mlp()
    model.compile("adam", "mse")
    assert estimate_memory(accelerate(model), 8) == estimate_memory(model, 8)


def test_refusals():
    with pytest.raises(ConfigError, match="`batch_size`"):
        estimate_memory(mlp(), 0)
    with pytest.raises(InputError, match="depends on the open sizes"):
        estimate_memory(keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)]), 4)


# The explanation.

ERROR = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[256,300]\nmore words")


@pytest.mark.slow
def test_explanation_has_the_numbers_and_what_needs_less():
    model = mlp()
    model.compile("adam", "mse")
    before = [np.asarray(v).tobytes() for v in model.variables]
    explained = explain_out_of_memory(ERROR, model, 40960, accumulate_steps=2)
    assert isinstance(explained, OutOfMemoryError)
    text = str(explained)
    # 40960 x 500 floats of activations: 78 MiB, of which the second layer 47.
    assert "'mlp' with a batch of 40960" in text
    assert "shape[256,300])" in text
    assert "activations 78 MiB (most: second 47 MiB, first 31 MiB" in text
    assert "batch 20480 with `accumulate_steps=4`" in text
    assert "batch 10240 with `accumulate_steps=8`" in text
    assert "mixed precision" in text
    assert "kept in the model" in text
    assert [np.asarray(v).tobytes() for v in model.variables] == before


def test_explanation_from_the_batch_itself_and_without_an_estimate():
    batch = (tf.zeros((8, 100)), tf.zeros((8, 10)))
    model = mlp()
    model.compile("sgd", "mse")
    assert "batch of 8 " in str(explain_out_of_memory(MemoryError(), model, batch))
    open_size = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    assert "There is no estimate: The shape of" in str(explain_out_of_memory(ERROR, open_size, 4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_estimate_against_what_a_fresh_process_takes(kind):
    code = """
import json, sys
import keras, numpy as np, tensorflow as tf
from kopt.core import memory
from kopt.train import accelerate
from kopt.train.memory.estimate import estimate_memory
L, kind = keras.layers, sys.argv[1]
def make():
    if kind == "mlp":
        return keras.Sequential([keras.Input((1024,)), *[L.Dense(2048, "relu") for _ in range(3)], L.Dense(10)])
    convolutions = [L.Conv2D(32, 3, padding="same", activation="relu") for _ in range(6)]
    return keras.Sequential([keras.Input((64, 64, 3)), *convolutions, L.GlobalAveragePooling2D(), L.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
warm = keras.Sequential([keras.Input((4,)), L.Dense(2)])
warm.compile("adam", loss)
warm.train_on_batch(np.zeros((2, 4), "float32"), np.zeros(2, "int32"))
size = {"mlp": 1024, "cnn": 32}[kind]
tf.config.experimental.reset_memory_stats("CPU:0")
held = tf.config.experimental.get_memory_info("CPU:0")["current"]
before = memory.start_peak()
model = make()
model.compile("adam", loss)
x, y = tf.zeros((size, *model.input_shape[1:])), tf.zeros(size, "int32")
for _ in range(2):
    model.train_on_batch(x, y)
resident = memory.peak_resident_bytes() - before
allocated = tf.config.experimental.get_memory_info("CPU:0")["peak"] - held
print(json.dumps([resident, allocated, estimate_memory(model, size, data=(x, y)).total_bytes]))
"""
    done = run_program(code, kind)
    assert done.exit_code == 0, done.errors
    resident, allocated, estimated = json.loads(done.output.splitlines()[-1])
    # 0.86 to 1.14 times what TensorFlow allocates was seen; the runtime and what the allocator holds back come on top.
    assert 0.8 * allocated < estimated < 1.25 * allocated
    assert allocated < resident


@pytest.mark.slow
@pytest.mark.parametrize("layer", [keras.layers.LSTM(5), keras.layers.Bidirectional(keras.layers.GRU(4))])
def test_recurrent_layers(layer):
    model = keras.Sequential([keras.Input((7, 3)), layer, keras.layers.Dense(2)])
    estimate = estimate_memory(model, 4, optimizer="adam")
    assert estimate.weights_bytes >= FLOAT * model.count_params()  # the seeds of the cells come on top
    assert estimate.optimizer_bytes > 2 * estimate.gradients_bytes
    assert estimate.step_bytes > 4 * 7 * 3 * FLOAT


@pytest.mark.slow
def test_an_optimizer_by_name():
    named = estimate_memory(mlp(), 4, optimizer="adam")
    assert named.optimizer_bytes == estimate_memory(mlp(), 4, optimizer=keras.optimizers.Adam()).optimizer_bytes > 0
