import time

import keras
import numpy as np
import pytest

import kopt
from kopt.core.errors import DataError
from kopt.core.records.profiles.sensitivity import Perturbation
from kopt.profile.layer_sensitivity import sensitivity
from kopt.profile.layer_sensitivity.kernels import targets_of
from kopt.profile.layer_sensitivity.ranking import spearman

# One process trains the network once.
pytestmark = [pytest.mark.slow, pytest.mark.long]
L = keras.layers
TRAINED_ON, PROFILED_ON, JUDGED_ON = 6_000, 1_000, 1_500
ABLATIONS = ("pruned_50", "pruned_70", "removed")


def resnet8():
    """The residual network of MLPerf Tiny for 28x28 images; its statistics follow a short training."""

    def convolve(x, filters, stride=1, size=3, activate=True):
        x = L.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        x = L.BatchNormalization(momentum=0.9)(x)
        return L.ReLU()(x) if activate else x

    inputs = keras.Input((28, 28, 1))
    x = convolve(inputs, 16)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        inner = convolve(convolve(x, filters, stride), filters, activate=False)
        shortcut = x if stride == 1 else convolve(x, filters, stride, 1, activate=False)
        x = L.ReLU()(L.Add()([shortcut, inner]))
    return keras.Model(inputs, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)))


def copy_of(model, without):
    """A compiled copy with the same weights, in which the layer `without` gives its input on."""

    def clone(layer):
        return L.Identity(name=layer.name) if layer.name == without else type(layer).from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=clone)
    for layer in twin.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    twin.compile(loss=model.loss, metrics=["accuracy"], jit_compile=False)
    return twin


@pytest.fixture(scope="module")
def trained():
    try:
        splits = kopt.data.load("fashion_mnist")
    except DataError as error:
        pytest.skip(str(error))
    keras.utils.set_random_seed(0)
    model = resnet8()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(splits.train.x[:TRAINED_ON], splits.train.y[:TRAINED_ON], batch_size=64, epochs=2, verbose=0)
    test = splits.test
    profiled = test.x[:PROFILED_ON], test.y[:PROFILED_ON]
    judged = (part[PROFILED_ON : PROFILED_ON + JUDGED_ON] for part in (test.x, test.y))
    return model, profiled, tuple(judged)


@pytest.fixture(scope="module")
def profile(trained):
    """The profile; what passes cost is told in processor time, which other processes do not lengthen."""
    model, profiled, _ = trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", time.process_time)
        return sensitivity(model, profiled)


@pytest.fixture(scope="module")
def ablated(trained, profile):
    """Loss and accuracy of other images, with every layer ablated in every way, one after the other, by Keras alone."""
    model, _, (x, y) = trained
    found, whole = {}, copy_of(model, without=None)
    for target in targets_of(model)[0]:
        for name in ABLATIONS:
            passed_over = profile.layer(target.path).effect(name).passed_over
            if passed_over:
                twin = copy_of(model, without=target.path)
            else:  # one graph for all: tracing it anew each time would take longer than the images
                twin = whole
                twin.set_weights(model.get_weights())
                kernel = target.perturbed(Perturbation.of(name), 0)[0]
                twin.get_layer(target.path).kernel.assign(kernel)
            found[target.path, name] = twin.evaluate(x, y, batch_size=500, verbose=0)
    return found


def test_the_network_has_learned_something(profile):
    assert profile.metric_value > 0.75
    assert [layer.type for layer in profile.layers] == ["Conv2D"] * 9 + ["Dense"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_ranking_is_that_of_ablation_by_brute_force_on_other_images(profile, ablated, name):
    order = {one.layer: one.score for one in profile.ranking("loss", name)}
    reference = [ablated[layer, name][0] for layer in order]
    assert spearman(list(order.values()), reference) >= 0.9


def test_the_ranking_over_all_ablations_is_that_of_brute_force(profile, ablated):
    layers = [layer.layer for layer in profile.layers]
    mine, theirs = np.zeros(len(layers)), np.zeros(len(layers))
    for name in ABLATIONS:
        score = {one.layer: len(layers) - one.rank for one in profile.ranking("loss", name)}
        mine += [score[layer] for layer in layers]
        theirs += np.argsort(np.argsort([ablated[layer, name][0] for layer in layers]))
    assert spearman(list(mine), list(theirs)) >= 0.9


def test_estimates_from_derivatives_rank_small_changes_of_the_weights(profile):
    # Where the change of the weights is small, the Taylor series of two terms tells the order.
    found = {one.perturbation: one.spearman for one in profile.agreements if one.estimate == "taylor"}
    assert found["int8"] > 0.8


def test_it_costs_less_than_brute_force(profile):
    assert profile.perturbed_runs == 70
    assert profile.forward_passes < 50


def test_a_plan_keeps_its_budget_with_all_layers_together(trained, profile):
    model, profiled, _ = trained
    plan = profile.plan(0.02, model=model, data=profiled)
    assert plan.is_verified
    assert all(one.drop <= 0.02 for one in plan.joint if one.what != "bits and sparsity")
    # 8 bits cost a trained network next to nothing; not all of it can be pruned.
    assert plan.mean_bits < 10
    assert 0 < plan.mean_sparsity < 0.7
