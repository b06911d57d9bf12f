"""A model run call by call gives what the model gives, and shows every call with its channels."""

import keras
import numpy as np
import pytest
from channel_cases import examples, outputs, randomized

from kopt.graph.channels import channel_graph, run

L = keras.layers


def nested():
    part = keras.Sequential([keras.Input((8, 8, 16)), L.Conv2D(16, 3, padding="same", name="c"), L.ReLU()], name="part")
    inner_input = keras.Input((8, 8, 16))
    inner = keras.Model(inner_input, L.Add()([part(inner_input), inner_input]), name="inner")
    i = keras.Input((8, 8, 3))
    x = L.Dropout(0.5)(L.BatchNormalization(name="norm")(L.Conv2D(16, 3, padding="same", name="stem")(i)))
    x = keras.ops.relu(inner(inner(x)) * 2.0)
    return keras.Model(i, L.Dense(3, name="out")(L.GlobalAveragePooling2D()(x)), name="nested")


def text():
    i = keras.Input((5,), dtype="int32")
    x = L.Embedding(7, 16, mask_zero=True, name="e")(i)
    return keras.Model(i, L.Dense(3, name="out")(L.LSTM(16, name="lstm")(x)), name="text")


@pytest.mark.parametrize("case", [nested, text])
def test_outputs_are_those_of_the_model_and_shapes_those_of_the_flows(case):
    model = randomized(case())
    graph, x, seen = channel_graph(model), examples(model), []

    def look(flow, inputs, given):
        seen.append(flow.path)
        for tensors, places in ((inputs, flow.inputs), (given, flow.outputs)):
            for tensor, place in zip(tensors, places, strict=True):
                assert place is None or tensor.shape[place[0]] == place[1].size

    found = run(model, graph, x if isinstance(x, list) else [x], look)
    assert seen == [flow.path for flow in graph.flows]
    for one, other in zip(found, outputs(model, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
