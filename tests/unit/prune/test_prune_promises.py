"""What pruning promises of layers, schedules and settings that few models have."""

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import ConfigError, InputError, OutputError
from kopt.prune import schedules

L = keras.layers


@pytest.fixture
def dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), L.Dense(16, name="a"), L.Dense(4, name="b")])


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 8)).astype("float32"), rng.normal(size=(64, 4)).astype("float32")


@pytest.mark.parametrize("goal", [{"target_macs": 0.5}, {"keep": 0.5, "scope": "global"}])
def test_both_directions_keep_one_width(goal):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 5))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(16, "relu")(L.Bidirectional(L.LSTM(16), name="both")(inputs))))
    smaller, _ = kopt.prune.channels(model, **goal)
    both = smaller.get_layer("both")
    assert both.forward_layer.units == both.backward_layer.units < 16
    assert smaller(np.ones((2, 12, 5))).shape == (2, 3)


def test_heads_of_protected_attention_stay():
    inputs = keras.Input((6, 16))
    x = L.MultiHeadAttention(4, 4, name="kept")(inputs, inputs)
    x = L.MultiHeadAttention(4, 4, name="other")(x, x)
    model = keras.Model(inputs, L.Dense(2)(x))
    for smaller, _ in (
        kopt.prune.heads(model, keep=0.5, protect="kept"),
        kopt.prune.channels(model, keep=0.5, protect=["kept"]),
    ):
        assert [smaller.get_layer(name).num_heads for name in ("kept", "other")] == [4, 2]


def test_layers_that_no_rule_follows_are_listed():
    inputs = keras.Input((6, 5))
    x = L.RNN(L.LSTMCell(8), name="cell")(inputs)
    model = keras.Model(inputs, L.Dense(3)(L.Dense(16)(x)))
    _, report = kopt.prune.channels(model, keep=0.5)
    assert any("'cell' (RNN) is not known to kopt" in note for note in report.notes)
    alone = keras.Model(inputs, x)
    with pytest.raises(InputError, match=r"'cell' \(RNN\) is not known to kopt"):
        kopt.prune.channels(alone, keep=0.5)


def test_a_report_says_that_nothing_was_removed(dense):
    smaller, report = kopt.prune.channels(dense, keep=0.8)
    assert smaller.count_params() == dense.count_params()
    assert report.notes[0].startswith("Nothing was removed")
    with pytest.raises(ConfigError, match=r"removes nothing of groups of 16 channels in steps of 8"):
        kopt.prune.channels_gradually(dense, schedules.Cubic(0.2, begin=1, end=4, frequency=1))


def test_single_layers_are_pruned_where_the_others_stay_dense(dense, batches):
    pruned, report = kopt.prune.magnitude(dense, 0.0, sparsity_by_layer={"b": 0.5})
    assert [(one.path, one.target, one.sparsity) for one in report.variables] == [("b/kernel", 0.5, 0.5)]
    pruned.compile("sgd", "mse")
    pruned.fit(*batches, verbose=0)
    assert np.mean(pruned.get_layer("b").kernel.numpy() == 0) == 0.5
    with pytest.raises(ConfigError, match="leads to a sparsity of 0"):
        kopt.prune.magnitude(dense, schedules.Polynomial(0.0, end=4), sparsity_by_layer={"b": 0.5})


def test_a_training_that_goes_on_is_as_long_as_what_is_left_of_it(dense, batches):
    pruned, _ = kopt.prune.magnitude(dense, schedules.Polynomial(0.5, begin=100, end=200))
    pruned.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="prunes nothing in this training, which takes 8 steps"):
        pruned.fit(*batches, epochs=20, initial_epoch=19, batch_size=8, verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # which tells Keras how long it was
def test_a_training_of_unknown_length_says_that_it_pruned_nothing(dense, batches):
    pruned, _ = kopt.prune.magnitude(dense, schedules.Polynomial(0.5, begin=100, end=200))
    pruned.compile("sgd", "mse")
    with pytest.warns(UserWarning, match=r"pruned nothing.* is at step \d"):
        pruned.fit(((batches[0][:8], batches[1][:8]) for _ in range(4)), shuffle=False, verbose=0)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_layer_frozen_after_all_computes_the_same_in_the_end(dense, batches, scope):
    pruned, _ = kopt.prune.magnitude(dense, schedules.Cubic(0.75, begin=1, end=4, frequency=1), scope=scope)
    pruned.get_layer("a").trainable = False
    pruned.compile("sgd", "mse")
    pruned.fit(*batches, batch_size=8, verbose=0)
    expected = pruned(batches[0]).numpy()  # before: it puts zeros where masks are, in the given model too
    plain, _ = kopt.prune.finalize(pruned)
    np.testing.assert_allclose(plain(batches[0]), expected, atol=1e-6)
    assert np.mean(plain.get_layer("b").kernel.numpy() == 0) > 0.5


def test_a_schedule_of_ones_own_need_not_name_its_end(dense, batches):
    class Late:
        def __call__(self, step):
            return step >= 2, 0.75

        def get_config(self):
            return {}

    pruned, _ = kopt.prune.magnitude(dense, Late())
    pruned.compile("sgd", "mse")
    pruned.fit(*batches, verbose=0)
    assert np.mean(kopt.prune.finalize(pruned)[0].get_layer("a").kernel.numpy() == 0) == 0.75


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: kopt.prune.magnitude(m, -0.1), r"in \[0, 1\)"),
        (lambda m: kopt.prune.magnitude(m, 0.5, granularity="block", block_size=4), r"`block_size` must be two whole"),
        (lambda m: kopt.prune.magnitude(m, 0.5, granularity="n:m", n_m=2), r"`n_m` must be two whole"),
        (lambda m: kopt.prune.magnitude(m, 0.5, skip=3), r"`skip` must be a name, or a list of names. Received: 3"),
        (lambda m: kopt.prune.magnitude(m, 0.5, layers=3), r"`layers` must be a name"),
        (lambda m: kopt.prune.channels(m, keep=0.5, protect=3), r"`protect` must be a name"),
        (lambda m: kopt.prune.channels(m, keep=0.5, kinds=3), r"`kinds` must be a name"),
        (lambda m: kopt.prune.channels(m, keep=0.5, kinds=()), r"Accepted: channels, units, heads"),
        (lambda m: kopt.restructure.low_rank(m, rank=2, layers=5), r"`layers` must be a name"),
        (lambda m: kopt.prune.finalize("m.keras"), r"Received: 'm.keras'"),
    ],
)
def test_settings_of_another_kind_are_named(dense, call, words):
    with pytest.raises((ConfigError, InputError), match=words):
        call(dense)


def test_one_kind_is_a_name(dense):
    assert kopt.prune.channels(dense, keep=0.5, kinds="channels")[0].get_layer("a").units == 8


@pytest.mark.parametrize("transform", ["low_rank", "reinitialize"])
def test_what_makes_new_layers_refuses_masks(dense, transform):
    pruned, _ = kopt.prune.magnitude(dense, 0.5)
    settings = {"rank": 2} if transform == "low_rank" else {}
    with pytest.raises(InputError, match="carries masks or codebooks"):
        getattr(kopt.restructure, transform)(pruned, **settings)


def test_an_unreachable_target_names_what_stays():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(32, 3, name="wide")(inputs)
    x = L.Lambda(lambda x: x[:, ::-1], name="own")(x)
    model = keras.Model(inputs, L.Dense(4)(L.Flatten()(L.Conv2D(16, 3)(x))))
    with pytest.raises(ConfigError, match=r"Whatever the target, these stay: .*wide \(.*own"):
        kopt.prune.channels(model, target_macs=0.05)


def rising():
    return schedules.Polynomial(0.75, begin=2, end=6, frequency=1)


def averaging(kind):
    own = keras.optimizers.Adam(0.01, use_ema=kind != "swa", ema_momentum=0.5)
    if kind == "swa":
        return kopt.train.StochasticWeightAveraging(own, start_step=1)
    return own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("form", ["masks", "codebooks", "rounded zeros", "rounded values"])
def test_averages_of_weights_end_in_their_form(dense, batches, kind, form):
    masked, _ = kopt.prune.magnitude(dense, 0.75 if "rounded" in form else rising())
    shared, _ = kopt.cluster.weights(dense, clusters=4)
    model = {
        "masks": lambda: masked,
        "codebooks": lambda: shared,
        "rounded zeros": lambda: kopt.quantize.aware(kopt.prune.finalize(masked)[0])[0],
        "rounded values": lambda: kopt.quantize.aware(kopt.cluster.finalize(shared)[0])[0],
    }[form]()
    before = [one.variable.numpy() for one in kopt.graph.owned_variables(model) if one.path.endswith("kernel")]
    model.compile(averaging(kind), "mse")
    model.fit(*batches, batch_size=16, epochs=3, verbose=0)
    kernels = [one.variable.numpy() for one in kopt.graph.owned_variables(model) if one.path.endswith("kernel")]
    assert len(kernels) == 2
    for old, kernel in zip(before, kernels, strict=True):
        assert np.any(kernel != old)
        if form in ("masks", "rounded zeros"):
            assert np.mean(kernel == 0) == 0.75
        else:
            assert np.unique(kernel).size <= 4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_files_that_nobody_could_open_are_refused(dense, tmp_path, suffix):
    for model in (kopt.prune.magnitude(dense, 0.5)[0], kopt.quantize.aware(dense)[0]):
        with pytest.raises(OutputError, match=r"to a `\.keras` file"):
            model.save(tmp_path / f"model{suffix}")
        assert not (tmp_path / f"model{suffix}").exists()
        model.save(tmp_path / "model.keras")
        keras.models.load_model(tmp_path / "model.keras")
