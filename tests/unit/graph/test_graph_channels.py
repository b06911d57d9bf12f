"""Which channels of a model depend on each other, by hand."""

import keras
import pytest

import kopt
from kopt.graph import channel_graph

L = keras.layers


def found(model, **options):
    """Return `{layers: (width, reason)}` of the groups."""
    return {group.layers: (group.width, group.reason) for group in channel_graph(model, **options).groups}


def units_of(graph, *layers):
    return next(group.units.tolist() for group in graph.groups if group.layers == layers)


def image(channels=3, size=8):
    return keras.Input((size, size, channels), name="image")


def head(x, name="out"):
    return L.Dense(2, name=name)(L.GlobalAveragePooling2D(name=f"pool_{name}")(x))


OUTPUT = (2, "it is an output of the model")


def test_a_chain_has_one_group_a_layer():
    i = image()
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, name="a")(i)))
    x = L.Conv2D(5, 3, name="b")(L.MaxPooling2D()(x))
    assert found(keras.Model(i, head(x))) == {("a",): (6, ""), ("b",): (5, ""), ("out",): OUTPUT}


def test_the_first_convolution_of_a_gray_image_is_no_depthwise_one():
    i = image(channels=1)
    x = L.Conv2D(4, 3, name="b")(L.Conv2D(6, 3, name="a")(i))
    assert found(keras.Model(i, head(x))) == {("a",): (6, ""), ("b",): (4, ""), ("out",): OUTPUT}


def test_an_addition_ties_its_inputs_one_to_one():
    i = image()
    a = L.Conv2D(6, 1, name="a")(i)
    x = L.Add()([a, L.Conv2D(6, 1, name="b")(L.Conv2D(4, 1, name="c")(a))])
    groups = found(keras.Model(i, head(x)))
    assert groups == {("a", "b"): (6, ""), ("c",): (4, ""), ("out",): OUTPUT}


def test_a_concatenation_is_two_groups_also_where_another_layer_is_as_wide():
    i = image()
    x = L.Concatenate()([L.Conv2D(4, 1, name="a")(i), L.Conv2D(6, 1, name="b")(i)])
    x = L.Add()([x, L.Conv2D(10, 1, name="c")(i)])
    # The first 4 channels of c go with those of a, the other 6 with those of b.
    model = keras.Model(i, head(x))
    assert found(model) == {("a", "c"): (4, ""), ("b", "c"): (6, ""), ("out",): OUTPUT}
    graph = channel_graph(model)
    bias = next(one for one in graph.weights if one.path == "c" and one.variable.name == "bias")
    assert bias.units.tolist() == units_of(graph, "a", "c") + units_of(graph, "b", "c")


def test_adding_an_input_or_giving_an_output_makes_channels_stay():
    i = image()
    a = L.Conv2D(3, 1, name="a")(i)
    b = L.Conv2D(6, 1, name="b")(L.Add()([a, i]))
    groups = found(keras.Model(i, [b, head(b)]))
    assert groups[("a",)] == (3, "it is an input of the model")
    assert groups[("b",)] == (6, "it is an output of the model")


def test_a_depthwise_convolution_goes_with_its_input_and_a_grouped_one_in_steps():
    i = image()
    x = L.Conv2D(6, 1, name="a")(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="d")(x)
    x = L.Conv2D(8, 1, groups=2, name="g")(L.Conv2D(4, 1, name="b")(x))
    graph = channel_graph(keras.Model(i, head(x)))
    assert {group.layers: (group.width, group.channels_per_unit) for group in graph.groups} == {
        ("a",): (6, 1),
        ("b",): (4, 2),
        ("g",): (8, 2),
        ("out",): (2, 1),
    }
    axes = {(one.path, one.variable.name, one.axis): len(one.units) for one in graph.weights}
    assert axes[("d", "kernel", 2)] == 6
    assert axes[("d", "bias", 0)] == 12
    assert axes[("g", "kernel", 2)] == 2


def test_flatten_repeats_and_reshape_sets_its_shape():
    i = image(size=3)
    x = L.Flatten(name="flat")(L.Conv2D(4, 2, name="a")(i))
    x = L.Reshape((2, 2, 6), name="map")(L.Dense(24, name="b")(x))
    graph = channel_graph(keras.Model(i, head(x)))
    kernel = next(one for one in graph.weights if one.path == "b" and one.axis == 0)
    assert kernel.units.tolist() == units_of(graph, "a") * 4
    assert {group.layers: (group.units.size, group.width) for group in graph.free} == {("a",): (4, 4), ("b",): (6, 24)}
    assert [(one.key, one.index) for one in graph.settings if one.path == "map"] == [("target_shape", 2)]


def test_what_kopt_does_not_know_makes_channels_stay():
    i = image()
    x = L.Lambda(lambda x: x[..., ::-1], output_shape=(6, 6, 5), name="reverse")(L.Conv2D(5, 3, name="a")(i))
    groups = found(keras.Model(i, head(L.Conv2D(4, 1, name="b")(x))))
    assert groups[("a",)] == (5, "'reverse' (Lambda) is not known to kopt")
    assert groups[("b",)] == (4, "")


def test_softmax_over_channels_makes_them_stay_and_over_positions_not():
    i = keras.Input((6, 3))
    x = L.Softmax(axis=1)(L.Dense(5, name="a")(i))
    x = L.Dense(4, activation="softmax", name="b")(x)
    groups = found(keras.Model(i, L.Dense(2, name="out")(x)))
    assert groups[("a",)] == (5, "")
    assert "softmax" in groups[("b",)][1]


def test_statistics_over_channels_are_remarked():
    i = image()
    x = L.LayerNormalization(name="ln")(L.Conv2D(8, 1, name="a")(i))
    x = L.GroupNormalization(2, name="gn")(L.Conv2D(8, 1, name="b")(x))
    groups = {group.layers: group for group in channel_graph(keras.Model(i, head(x))).groups}
    assert "'ln'" in groups[("a",)].remark
    assert "'gn'" in groups[("b",)].remark
    assert groups[("b",)].channels_per_unit == 2
    assert groups[("out",)].remark == ""


def test_shared_layers_and_nested_models():
    inner_input = keras.Input((8, 8, 6), name="inner_image")
    inner = keras.Model(inner_input, L.Conv2D(4, 1, name="c")(inner_input), name="inner")
    i = image()
    shared = L.Conv2D(6, 1, name="shared")
    x = L.Add()([inner(shared(i)), inner(shared(L.Rescaling(2.0)(i)))])
    model = keras.Model(i, head(x))
    assert found(model) == {("shared",): (6, ""), ("inner/c",): (4, ""), ("out",): OUTPUT}
    assert [one.path for one in channel_graph(model).settings if one.key == "batch_shape"] == ["inner/inner_image"]


def test_a_layer_shared_with_something_that_stays_stays():
    i = keras.Input((4,))
    shared = L.Dense(4, name="shared")
    model = keras.Model(i, L.Dense(2, name="out")(shared(shared(i))))
    assert found(model)[("shared",)] == (4, "it is an input of the model")


def test_a_layer_stays_if_one_of_its_calls_cannot_shrink():
    i = keras.Input((6, 6))
    shared = L.Dense(5, name="shared")
    along, across = shared(L.Dense(6, name="a")(i)), shared(L.Permute((2, 1))(L.Dense(6, name="b")(i)))
    groups = found(keras.Model(i, [L.Dense(2, name="out")(along), L.Dense(2, name="o2")(across)]))
    assert "takes another axis" in groups[("shared",)][1]
    assert "takes another axis" in groups[("b",)][1]
    reshape = L.Reshape((3, 2, 6), name="reshape")
    y = reshape(L.Dense(6, name="d")(i))
    model = keras.Model(i, [L.Dense(2, name="out")(y), L.Dense(2, name="o2")(reshape(i))])
    assert found(model)[("d",)] == (6, "'reshape' takes other tensors, too")


def test_heads_of_attention_and_units_of_recurrent_layers():
    i = keras.Input((5,), dtype="int32")
    x = L.Embedding(7, 8, name="e")(i)
    x = L.Add()([x, L.MultiHeadAttention(4, 3, name="mha")(x, x)])
    x = L.LSTM(6, name="lstm")(L.GRU(5, return_sequences=True, name="gru")(x))
    groups = {group.layers: (group.width, group.kind) for group in channel_graph(keras.Model(i, L.Dense(2)(x))).free}
    assert groups == {("e",): (8, "channels"), ("mha",): (4, "heads"), ("gru",): (5, "units"), ("lstm",): (6, "units")}


def test_operations_of_keras_ops_are_followed():
    i = image()
    x = L.Conv2D(6, 1, name="a")(i)
    x = keras.ops.relu(x * 2.0 + 1.0)[:, 1:]
    x = keras.ops.transpose(keras.ops.reshape(x, (-1, 56, 6)), (0, 2, 1))
    x = keras.ops.expand_dims(keras.ops.mean(x, axis=2), 1)
    model = keras.Model(i, L.Dense(2, name="out")(keras.ops.squeeze(x, 1)))
    assert found(model)[("a",)] == (6, "")


def test_slices_of_channels_and_matrix_products_make_them_stay():
    i = keras.Input((4, 3))
    a, b = L.Dense(5, name="a")(i), L.Dense(5, name="b")(i)
    x = keras.ops.matmul(a, keras.ops.transpose(b, (0, 2, 1)))
    groups = found(keras.Model(i, [L.Dense(2, name="out")(x), L.Dense(2, name="o2")(L.Dense(6, name="c")(i)[..., :3])]))
    assert "Matmul" in groups[("a",)][1]
    assert "Matmul" in groups[("b",)][1]
    assert "some of the channels" in groups[("c",)][1]


def test_protected_layers_stay_and_unknown_names_are_refused():
    i = image()
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(6, 1, name="c"), L.Conv2D(5, 1, name="d")], name="inner")
    model = keras.Model(i, head(L.Conv2D(4, 1, name="a")(inner(i))))
    assert found(model, protect=["inner/c", "a"])[("inner/c",)] == (6, "it is protected")
    assert found(model, protect=["inner"])[("inner/d",)] == (5, "it is protected")
    assert found(model, protect=["inner"])[("a",)] == (4, "")
    with pytest.raises(kopt.KoptError, match="Did you mean 'inner/c'"):
        channel_graph(model, protect=["inner/cc"])
