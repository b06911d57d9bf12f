import keras
import numpy as np
import pytest
from restructure_cases import bits, distance, fits_one_step, outputs, randomize, saves_and_loads

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.restructure import share_layers
from kopt.restructure.repetition import Run, find_runs

L = keras.layers


def encoder(blocks=3, width=8):
    """Attention and feed-forward blocks between an embedding and a head."""
    tokens = keras.Input((5,), dtype="int32")
    x = L.Embedding(20, width, name="embedding")(tokens)
    for n in range(blocks):
        y = L.MultiHeadAttention(2, 4, dropout=0.1, name=f"block{n}_attention")(x, x)
        x = L.LayerNormalization(name=f"block{n}_norm1")(L.Add(name=f"block{n}_add1")([x, L.Dropout(0.1)(y)]))
        y = L.Dense(width, name=f"block{n}_back")(L.Dense(16, "gelu", name=f"block{n}_hidden")(x))
        x = L.LayerNormalization(name=f"block{n}_norm2")(L.Add(name=f"block{n}_add2")([x, y]))
    model = keras.Model(tokens, L.Dense(3, name="classes")(L.GlobalAveragePooling1D(name="pool")(x)), name="encoder")
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.3)
    return model


TOKENS = [np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], "int32")]


def test_runs_by_hand():
    assert find_runs("xababab", [1] * 7) == [Run(1, 2, 3)]
    # Three a's of weight 5 spare 10; ab ab of weight 6 spares 6 at most.
    assert find_runs("aaabab", [5, 5, 5, 1, 5, 1]) == [Run(0, 1, 3)]
    assert find_runs("aabcbcdd", [1] * 8) == [Run(0, 1, 2), Run(2, 2, 2), Run(6, 1, 2)]
    assert find_runs("abcd", [1] * 4) == []
    assert [list(block) for block in Run(1, 2, 3).blocks()] == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.slow
def test_blocks_are_found_and_share_the_mean(tmp_path):
    model = encoder()
    before = bits(model)
    small, report = share_layers(model)
    # A block: attention 4 * 8 * 8 + 3 * 8 + 8 = 288, two norms of 16, 8 * 16 + 16 = 144 and 16 * 8 + 8 = 136.
    block = 288 + 16 + 144 + 136 + 16
    assert report.parameters_before - report.parameters_after == 2 * block
    assert report.macs_before == report.macs_after
    assert len(report.applied) == 15
    assert {action.layer for action in report.left} == {"embedding", "classes"}
    kernels = [np.asarray(model.get_layer(f"block{n}_hidden").kernel, np.float64) for n in range(3)]
    mean = sum(kernels) / 3
    np.testing.assert_allclose(np.asarray(small.get_layer("block0_hidden").kernel), mean, rtol=1e-6)
    rows = {row.name: row for row in report.applied}
    biases = [np.asarray(model.get_layer(f"block{n}_hidden").bias, np.float64) for n in range(3)]
    off = np.sum((kernels[1] - mean) ** 2) + np.sum((biases[1] - sum(biases) / 3) ** 2)
    error = np.sqrt(off / (np.sum(kernels[1] ** 2) + np.sum(biases[1] ** 2)))
    assert rows["block1_hidden"].error == pytest.approx(error, rel=1e-6)
    assert rows["block1_hidden"].detail == "calls 'block0_hidden'"
    assert (rows["block0_hidden"].parameters_after, rows["block1_hidden"].parameters_after) == (144, 0)
    assert bits(model) == before
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    assert again.count_params() == report.parameters_after
    assert distance(small, again, TOKENS) == 0.0
    small.compile("sgd", "mse")
    small.fit(TOKENS[0], np.zeros((2, 3)), verbose=0)


def test_equal_blocks_compute_the_same():
    model = encoder()
    for n in (1, 2):
        for kind in ("attention", "norm1", "hidden", "back", "norm2"):
            model.get_layer(f"block{n}_{kind}").set_weights(model.get_layer(f"block0_{kind}").get_weights())
    small, report = share_layers(model)
    assert distance(model, small, TOKENS) < 1e-6
    assert max(row.error for row in report.applied) < 1e-7


@pytest.mark.parametrize(
    "blocks",
    [
        ["block0", "block2"],
        [
            [f"block{n}_attention", f"block{n}_norm1", f"block{n}_hidden", f"block{n}_back", f"block{n}_norm2"]
            for n in (0, 2)
        ],
    ],
    ids=["prefixes", "names"],
)
def test_named_blocks(blocks):
    model = encoder()
    small, report = share_layers(model, blocks=blocks, weights="first")
    assert [row.name for row in report.applied if row.name.startswith("block1")] == []
    assert len(report.applied) == 10
    assert small.get_layer("block1_hidden") is not None
    assert [layer.name for layer in small.layers].count("block2_hidden") == 0
    ours, theirs = (m.get_layer("block0_norm2").get_weights() for m in (small, model))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert [row.error for row in report.applied[:5]] == [0.0] * 5


@pytest.mark.slow
def test_convolutions_with_batch_normalization(tmp_path):
    x = inputs = keras.Input((6, 6, 4))
    for n in range(3):
        x = L.ReLU()(L.BatchNormalization(name=f"norm{n}")(L.Conv2D(4, 3, padding="same", name=f"conv{n}")(x)))
    model = randomize(keras.Model(inputs, x))
    small, _ = share_layers(model)
    variances = [np.asarray(model.get_layer(f"norm{n}").moving_variance) for n in range(3)]
    np.testing.assert_allclose(small.get_layer("norm0").moving_variance, sum(variances) / 3, rtol=1e-6)
    assert outputs(small, [np.zeros((1, 6, 6, 4), "float32")])[0].shape == (1, 6, 6, 4)
    saves_and_loads(small, tmp_path / "small.keras")
    fits_one_step(small)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "median"}, "Unknown `weights` 'median'"),
        ({"blocks": ["block0"]}, "two or more blocks. Received: .'block0'."),
        ({"blocks": "block0"}, "two or more blocks. Received: 'block0'"),
        ({"blocks": ["block0", "blokc1"]}, "no layer is called 'blokc1'. Did you mean 'block1_"),
        ({"blocks": ["block0_hidden", "block1_back"]}, r"'block0_hidden' and 'block1_back' are not alike: Dense with"),
        ({"blocks": [["block0_hidden"], ["block0_hidden"]]}, "Received twice: block0_hidden"),
        ({"blocks": [["block0_hidden"], ["block1_hidden", "block1_back"]]}, "as many layers.*: 1, .*: 2"),
        ({"blocks": [["block0_add1"], ["block1_add1"]]}, "holds no layer with weights"),
    ],
)
def test_impossible_requests(settings, message):
    with pytest.raises(ConfigError, match=message):
        share_layers(encoder(2), **settings)


def test_nothing_to_share():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
    with pytest.raises(UnsupportedModelError, match="found no blocks in model"):
        share_layers(model)


def test_layers_of_different_nested_models_are_refused():
    towers = [keras.Sequential([keras.Input((4,)), L.Dense(4, name="dense")], name=f"tower{n}") for n in range(2)]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, towers[1](towers[0](inputs)))
    with pytest.raises(ConfigError, match="'tower0/dense' and 'tower1/dense' are in different nested models"):
        share_layers(model, blocks=["tower0", "tower1"])


def test_a_shared_layer_that_gives_the_output_keeps_its_name():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name=f"block{n}") for n in range(3)]
    model = keras.Sequential([keras.Input((8,)), *layers], name="net")
    shared, report = share_layers(model)
    assert [(one.name, one.detail) for one in report.applied[1:]] == [
        ("block1", "calls 'block0'"),
        ("block2", "calls 'block0'"),
    ]
    assert shared.count_params() == shared.get_layer("block0").count_params() == 72
    assert shared.output_names == ["block2"]
