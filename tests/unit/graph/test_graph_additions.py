"""Models that kopt adds something to: copies hold it, and clones of Keras, which do not, say so when they are used."""

import copy

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import InputError, UnsupportedModelError

L = keras.layers
X = np.random.default_rng(0).random((32, 8), np.float32)
Y = X[:, :3]


def plain():
    inputs = keras.Input((8,))
    return keras.Model(inputs, L.Dense(3)(L.Dense(16, activation="relu")(inputs)))


MAKERS = {
    "masks": lambda: kopt.prune.magnitude(plain(), 0.5)[0],
    "codebooks": lambda: kopt.cluster.weights(plain(), clusters=4)[0],
    "rounding": lambda: kopt.quantize.aware(plain(), calibration=X)[0],
    "penalties": lambda: kopt.prune.group_lasso(plain(), 1e-3)[0],
}


@pytest.mark.parametrize("made", MAKERS)
def test_a_deep_copy_trains_on_as_its_model(made):
    model = MAKERS[made]()
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.compile("sgd", "mse")
        one.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("made", MAKERS)
def test_a_clone_of_keras_says_what_it_lacks(made, tmp_path):
    clone = keras.models.clone_model(MAKERS[made]())
    with pytest.raises(
        UnsupportedModelError, match=r"was made by `keras.models.clone_model`, which leaves out .*deepcopy"
    ):
        clone.save(tmp_path / "clone.keras")
    if made != "penalties":
        clone.compile("sgd", "mse")
        with pytest.raises(UnsupportedModelError, match="was made by"):
            clone.fit(X, Y, verbose=0)


@pytest.mark.parametrize("made", MAKERS)
def test_such_a_model_is_not_born_again(made):
    with pytest.raises(UnsupportedModelError, match="fresh copies would not have its "):
        kopt.distill.born_again(MAKERS[made](), 1, lambda model: None)


def stacked():
    return keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(3)])


@pytest.mark.parametrize("base", [plain, stacked])
def test_masks_come_back_with_the_weights_that_early_stopping_restores(base):
    schedule = kopt.prune.schedules.Polynomial(0.9, begin=1, end=16, frequency=1)
    model, _ = kopt.prune.magnitude(base(), schedule)
    model.compile(keras.optimizers.SGD(0.0), "mse")  # so that the first epoch, with the fewest zeros, is the best
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    model.fit(X, Y, batch_size=8, epochs=4, validation_data=(X, Y), callbacks=[stopping], verbose=0)
    zeros = np.mean(np.asarray(model.trainable_variables[0]) == 0)
    assert 0 < zeros < 0.88
    made, _ = kopt.prune.finalize(model)
    assert np.mean(np.asarray(made.trainable_variables[0]) == 0) == zeros
    np.testing.assert_array_equal(made(X), model(X))


@pytest.mark.parametrize("base", [plain, stacked])
@pytest.mark.parametrize(
    "make", [lambda one: kopt.prune.magnitude(one, 0.5), lambda one: kopt.cluster.weights(one, clusters=4)]
)
def test_weights_without_state_are_taken_in_their_form(base, make):
    source = base()
    model, _ = make(source)
    state = model.get_weights()[len(source.get_weights()) :]
    assert state
    form = [np.unique(one).size for one in model.get_weights()[:4:2]]
    model.set_weights([one[::-1] for one in source.get_weights()])
    assert [np.unique(one).size for one in model.get_weights()[:4:2]] <= form
    with pytest.raises(ValueError, match="weight list of length 1"):
        model.set_weights(source.get_weights()[:1])


@pytest.mark.parametrize("base", [plain, stacked])
def test_masks_are_no_parameters(base):
    source = base()
    pruned, _ = kopt.prune.magnitude(source, 0.5)
    assert kopt.profile.model(pruned).parameters == source.count_params() == 195


NEEDS_A_PLAIN_PART = {
    "magnitude": lambda model: kopt.prune.magnitude(model, 0.5),
    "channels": lambda model: kopt.prune.channels(model, keep=0.8, round_to=1),
    "group_lasso": lambda model: kopt.prune.group_lasso(model, 1e-3),
    "weights": lambda model: kopt.cluster.weights(model, clusters=4),
    "low_rank": lambda model: kopt.restructure.low_rank(model, rank=2),
    "finalize": kopt.prune.finalize,
}


@pytest.mark.parametrize("change", NEEDS_A_PLAIN_PART)
def test_a_masked_part_of_a_model_is_not_made_dense(change):
    part = MAKERS["masks"]()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(2)(part(inputs)))
    with pytest.raises((InputError, UnsupportedModelError), match=f"'{part.name}'.* `?finalize`"):
        NEEDS_A_PLAIN_PART[change](model)


def test_a_clustered_model_has_no_masks():
    with pytest.raises(InputError, match=r"has no masks\. Received a ConstrainedFunctional"):
        kopt.prune.finalize(MAKERS["codebooks"]())
