"""The parameters of whole models: counts, selections, samples, bad input, and how they are shown."""

import json
import re

import keras
import numpy as np
import pytest
from processes import result_of

from kopt.core.errors import ConfigError, InputError, NonFiniteError
from kopt.core.memory import peak_resident_bytes, start_peak
from kopt.core.records.profiles.parameters import ParameterProfile
from kopt.profile.weights.check import check
from kopt.profile.weights.profile import parameters

L = keras.layers


def network():
    """A convolution of 3*3*2*4 = 72 and 4, a norm of 4 * 4, a dense layer of 4*3 = 12 and 3: 107 parameters."""
    x = i = keras.Input((8, 8, 2), name="image")
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(x))
    x = L.Dropout(0.5, name="drop")(L.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(i, L.Dense(3, name="head")(x), name="network")


def attention():
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = L.Embedding(40, 16, name="embedding")(tokens)
    x = L.Add(name="add")([x, L.MultiHeadAttention(2, 8, name="attention")(x, x)])
    return keras.Model(tokens, L.Dense(5, name="head")(x), name="encoder")


def large(size):
    return keras.Sequential([keras.Input((size,), name="x"), L.Dense(1, name="only")], name="large")


@pytest.mark.slow
def test_counts_are_without_seeds_and_metrics():
    model = network()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((4, 8, 8, 2)), np.zeros((4, 3)), verbose=0)
    profile = parameters(model)
    assert profile.parameters == model.count_params() == 107
    assert profile.trainable_parameters == 107 - 8  # Without moving mean and variance.
    assert profile.non_trainable_parameters == 8
    assert profile.size_bytes == 4 * 107
    assert [variable.path for variable in profile.variables][:3] == ["conv/kernel", "conv/bias", "norm/gamma"]


def test_a_variable_has_its_statistics_channels_and_rank():
    model = network()
    kernel = np.zeros((4, 3), "float32")
    kernel[0, 0], kernel[1, 2] = 3, 4
    model.get_layer("head").kernel.assign(kernel)
    head = parameters(model).variable("head/kernel")
    assert (head.layer, head.layer_type, head.shape, head.dtype) == ("head", "Dense", (4, 3), "float32")
    assert (head.trainable, head.size_bytes, head.reading) == (True, 48, "full")
    assert (head.statistics.l1, head.statistics.l2, head.statistics.zeros) == (7, 5, 10)
    assert head.statistics.mean == pytest.approx(7 / 12)
    assert (head.channels.count, head.channels.dead, head.channels.dead_indices) == (3, 1, (1,))
    # Singular values 4, 3, 0.
    assert head.effective_rank.value == pytest.approx(np.exp(-(4 / 7 * np.log(4 / 7) + 3 / 7 * np.log(3 / 7))))
    assert parameters(model, effective_rank=False).variable("head/kernel").effective_rank is None


def test_layers_take_their_variables_together():
    model = network()
    conv, norm, head = parameters(model).layers
    assert (conv.path, conv.type, conv.parameters, conv.channels) == ("conv", "Conv2D", 76, 4)
    assert (norm.parameters, norm.trainable_parameters, norm.size_bytes) == (16, 8, 64)
    # Four ones, four zeros, four zeros, four ones.
    assert (norm.statistics.mean, norm.statistics.std, norm.statistics.zero_fraction) == (0.5, 0.5, 0.5)
    values = np.concatenate([variable.numpy().ravel() for variable in model.get_layer("head").weights])
    assert head.statistics.std == pytest.approx(values.std())
    assert head.statistics.l2 == pytest.approx(np.linalg.norm(values))


def test_a_shared_layer_and_a_shared_variable_count_once():
    class Tied(L.Layer):
        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.table = embedding.embeddings

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.table))

    tokens = keras.Input((4,), dtype="int32")
    embedding, dense = L.Embedding(10, 6, name="embedding"), L.Dense(6, name="twice")
    x = dense(dense(embedding(tokens)))
    model = keras.Model(tokens, Tied(embedding, name="tied")(x))
    profile = parameters(model)
    assert profile.parameters == 60 + 36 + 6
    assert profile.variable("embedding/embeddings").also_in == ("tied",)
    assert profile.variable("twice/kernel").also_in == ()
    assert "Held by several layers and counted once: embedding/embeddings." in profile.table()


@pytest.mark.slow
def test_bytes_go_by_dtype_also_of_quantized_and_bfloat16_layers():
    model = keras.Sequential([keras.Input((64,)), L.Dense(8, name="a"), L.Dense(4, dtype="bfloat16", name="b")])
    model.get_layer("a").quantize("int8")
    profile = parameters(model)
    # a: 512 bytes of kernel, 8 scales and 8 biases of 4 bytes; b: 32 + 4 entries of 2 bytes.
    assert profile.bytes_by_dtype == {"float32": 64, "int8": 512, "bfloat16": 72}
    assert profile.variable("a/kernel").statistics.maximum == 127
    kernel = model.get_layer("b").kernel.numpy().astype("float64")
    assert profile.variable("b/kernel").statistics.std == pytest.approx(kernel.std(), rel=1e-12)


def test_a_subclassed_and_a_nested_model_are_profiled():
    class Outer(keras.Model):
        def __init__(self):
            super().__init__(name="outer")
            self.inner = keras.Sequential([L.Dense(2, name="first")], name="inner")
            self.scale = self.add_weight(shape=(2,), name="scale")

        def call(self, x):
            return self.inner(x) * self.scale

    model = Outer()
    model(np.zeros((1, 3), "float32"))
    assert {variable.path: variable.parameters for variable in parameters(model).variables} == {
        "inner/first/kernel": 6,
        "inner/first/bias": 2,
        "scale": 2,
    }


SELECTIONS = {
    "type name": ("MultiHeadAttention", {"attention"}),
    "type": (L.MultiHeadAttention, {"attention"}),
    "base type": (L.Dense, {"head"}),
    "layer name": ("embedding", {"embedding"}),
    "layer path": ("attention/query", {"attention/query"}),
    "pattern of layers": ("*query*", {"attention/query"}),
    "pattern of types": ("*Attention*", {"attention"}),
    "variable path": ("head/bias", {"head/bias"}),
    "function": (lambda owned: owned.variable.name == "bias", {"attention", "head/bias"}),
    "several": (["head", L.Embedding], {"head", "embedding"}),
}


@pytest.mark.parametrize(("select", "begins"), SELECTIONS.values(), ids=SELECTIONS)
def test_what_is_selected_is_read_in_full_and_the_rest_counted(select, begins):
    profile = parameters(attention(), select=select)
    full = [variable.path for variable in profile.variables if variable.reading == "full"]
    assert full
    assert all(any(path.startswith(begin) for begin in begins) for path in full)
    assert all(any(path.startswith(begin) for path in full) for begin in begins)
    assert {variable.reading for variable in profile.variables} == {"full", "counts"}
    assert profile.parameters == attention().count_params()
    assert "nothing but the counts" in profile.table()


def test_sizes_select_too():
    profile = parameters(attention(), min_size=100, max_size=300)
    assert {v.parameters for v in profile.variables if v.reading == "full"} == {256}


def test_the_rest_is_sampled_with_a_seed():
    model = keras.Sequential([keras.Input((100,)), L.Dense(50, name="a"), L.Dense(60, name="b")])
    profile = parameters(model, select="a", sample=200)
    assert [variable.reading for variable in profile.variables] == ["full", "full", "sample", "full"]
    sampled = profile.variable("b/kernel")
    assert sampled.statistics.read == 200
    assert sampled.channels is None
    kernel = model.get_layer("b").kernel.numpy()
    assert sampled.statistics.mean == pytest.approx(kernel.mean(), abs=4 * sampled.statistics.errors.mean)
    assert parameters(model, select="a", sample=200).to_json() == profile.to_json()
    assert parameters(model, sample=200).variable("b/kernel") == sampled  # Whatever else is sampled.
    assert parameters(model, sample=200, seed=1).variable("b/kernel") != sampled
    assert parameters(model, sample=200).variable("a/kernel").reading == "sample"
    assert "~ estimated from 200 entries a variable" in profile.table()


def bytes_of_profiling():
    """Return what profiling and checking 32 MiB of weights takes beside them, in a process that did nothing else."""
    model = large(1 << 23)
    parameters(model)  # Whatever is set up once.
    before = start_peak()
    parameters(model)
    check(model)
    return peak_resident_bytes() - before


@pytest.mark.slow
def test_no_copy_of_the_weights_is_made():
    # Tables of counts take 18 MiB, whatever the size of the variable.
    assert result_of(bytes_of_profiling) < 26 << 20


def test_the_model_is_not_changed():
    model = network()
    before = [np.array(value) for value in model.get_weights()]
    parameters(model)
    check(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_check_names_variables_layers_counts_and_first_indices():
    model = network()
    check(model)
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[0, 1, 0, 2], kernel[2, 2, 1, :] = np.inf, np.nan
    model.get_layer("conv").kernel.assign(kernel)
    model.get_layer("norm").moving_mean.assign([0, np.nan, 0, 0])
    with pytest.raises(NonFiniteError) as caught:
        check(model)
    message = str(caught.value)
    assert "conv/kernel (4 NaN, 1 infinite of 72) in Conv2D 'conv' at (0, 1, 0, 2), (2, 2, 1, 0), " in message
    assert "(2, 2, 1, 1), ...;" in message
    assert "norm/moving_mean (1 NaN, 0 infinite of 4) in BatchNormalization 'norm' at (1,)." in message
    profile = parameters(model)
    assert profile.nonfinite == 6
    assert "6 entries are NaN or infinite" in profile.table()
    assert profile.variable("conv/kernel").skipped == "effective rank: NaN or infinite entries"


def test_check_lists_a_few_of_many_variables():
    model = keras.Sequential([keras.Input((2,)), *(L.Dense(2, name=f"dense{i}") for i in range(15))], name="deep")
    model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
    with pytest.raises(NonFiniteError, match=r"in 30 variable\(s\): .*; and 10 more\. Restore"):
        check(model)


def test_check_finds_the_index_in_a_large_variable():
    model = large(100_000)
    kernel = np.zeros((100_000, 1), "float32")
    kernel[70_001, 0] = -np.inf
    model.get_layer("only").kernel.assign(kernel)
    with pytest.raises(NonFiniteError, match=r"\(0 NaN, 1 infinite of 100000\) in Dense 'only' at \(70001, 0\)\. "):
        check(model)


def test_check_sees_bfloat16_and_lets_integers_pass():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, dtype="bfloat16", name="dense")])
    model.get_layer("dense").bias.assign(keras.ops.cast([np.nan, 0], "bfloat16"))
    with pytest.raises(NonFiniteError, match=r"dense/bias \(1 NaN, 0 infinite of 2\) in Dense 'dense' at \(0,\)"):
        check(model)


BAD = {
    "a type nobody has": ({"select": "Cnv2D"}, "'Cnv2D' matches no variable. Did you mean 'Conv2D'?"),
    "a path nobody has": ({"select": "head/kernl"}, "Did you mean 'head/kernel'?"),
    "a class nobody has": (
        {"select": L.LSTM},
        "'LSTM' matches no variable. Types and layers that hold variables: Conv2D",
    ),
    "a function that takes none": ({"select": lambda owned: False}, "matches no variable"),
    "one of several": ({"select": ["head", "tail"]}, "'tail' matches no variable"),
    "nothing": ({"select": []}, "`select` is empty"),
    "a number": ({"select": 3}, "Received: 3 (int)"),
    "no such size": ({"min_size": 1000}, "between `min_size=1000` and `max_size=None`"),
    "sizes turned round": ({"min_size": 5, "max_size": 4}, "`max_size` must be a whole number of at least 5"),
    "a tiny sample": ({"sample": 10}, "`sample` must be a whole number of at least 100"),
    "a percentile": ({"percentiles": [50, 101]}, "`percentiles` must be"),
    "a threshold": ({"dead_below": 2}, "`dead_below` must be"),
}


@pytest.mark.parametrize(("options", "says"), BAD.values(), ids=BAD)
def test_bad_settings_are_refused_with_what_would_do(options, says):
    with pytest.raises(ConfigError) as caught:
        parameters(network(), **options)
    assert says in str(caught.value)


@pytest.mark.parametrize("function", [parameters, check])
def test_an_unbuilt_model_is_refused_with_how_to_build_it(function):
    with pytest.raises(InputError, match=r"not built.*Add `keras\.Input\(shape\)`"):
        function(keras.Sequential([L.Dense(2)]))
    with pytest.raises(InputError, match=r"Received: builtins\.list"):
        function([])


def test_a_model_without_parameters_has_an_empty_profile():
    profile = parameters(keras.Sequential([keras.Input((2,)), L.ReLU()], name="bare"))
    assert profile.parameters == 0
    assert "bare has 0 parameters" in profile.table()
    assert profile.figure()


def test_a_profile_comes_back_from_json():
    profile = parameters(attention(), sample=100)
    again = ParameterProfile.from_json(profile.to_json())
    # Text, because the kurtosis of biases that are all zero is NaN, which equals nothing.
    assert again.to_json() == profile.to_json()
    assert json.loads(profile.to_json())["schema"] == "ParameterProfile/1"


@pytest.mark.parametrize("by", ["variable", "layer"])
def test_the_table_fits_sorts_and_says_what_it_leaves_out(by):
    profile = parameters(network())
    table = profile.table(by=by, rows=2, sort="parameters")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert table.index("conv") < table.index("norm" if by == "layer" else "head")
    # 107 - 72 - 12, or 107 - 76 - 16.
    assert (f"{'1 more layers with 15' if by == 'layer' else '6 more variables with 23'} parameters") in table
    assert "107 parameters in 8 variables" in table
    with pytest.raises(ConfigError, match="Did you mean 'zeros'"):
        profile.table(by=by, sort="zero")
    with pytest.raises(ConfigError, match="Unknown `by` 'layers'"):
        profile.table(by="layers")


def test_the_plot_shows_the_largest_variables(tmp_path):
    profile = parameters(network())
    path = profile.plot(tmp_path / "histograms.svg")
    assert "conv/kernel holds 67% of 107 parameters" in path.read_text()
    panels = [axes for axes in profile.figure().axes if axes.get_title(loc="left")]
    assert len(panels) == 8
    counts = panels[0].patches[0].get_data().values
    assert list(counts) == list(profile.variable("conv/kernel").statistics.histogram.counts)


def test_the_plot_leaves_no_empty_panel():
    model = keras.Sequential([keras.Input((2,)), *(L.Dense(2) for _ in range(3))])
    figure = parameters(model).figure()
    assert sum(axes.axison for axes in figure.axes) == 6


def test_the_table_shortens_paths_at_the_beginning():
    layers = [keras.Input((2,)), L.Dense(2, name="the_last_projection")]
    inner = keras.Sequential(layers, name="a_backbone_with_a_name")
    model = keras.Sequential([keras.Input((2,)), inner])
    assert re.search(r"^…\w*/the_last_projection/kernel ", parameters(model).table(), re.MULTILINE)
    assert "a_backbone_with_a_name/the_last_projection/kernel" in parameters(model).table(width=200)


def test_progress_is_told_of_every_variable():
    class Seen:
        def __init__(self):
            self.steps = []

        def start(self, total):
            self.total = total

        def step(self, description):
            self.steps.append(description)

        def finish(self):
            self.finished = True

    seen = Seen()
    parameters(network(), progress=seen)
    assert (seen.total, len(seen.steps), seen.steps[0], seen.finished) == (8, 8, "conv/kernel", True)
