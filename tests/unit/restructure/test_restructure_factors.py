import itertools

import numpy as np
import pytest

from kopt.restructure import factors
from kopt.restructure.trade_off import Options, cheapest, least_cost, spend


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def relative(kernel, product):
    return np.linalg.norm(kernel - product) / np.linalg.norm(kernel)


def product(way, whole, ranks):
    """The kernel that convolutions with the factors compute together."""
    if way == "channel":
        first, last = factors.cut_channel(factors.channel(whole), ranks[0], whole.shape)
        return np.einsum("hwir,ro->hwio", first, last[0, 0])
    if way == "spatial":
        columns, rows = factors.cut_spatial(factors.spatial(whole), ranks[0], whole.shape)
        return np.einsum("hir,wro->hwio", columns[:, 0], rows[0])
    first, core, last = factors.cut_tucker(factors.tucker(whole), ranks)
    return np.einsum("ia,hwab,bo->hwio", first[0, 0], core, last[0, 0])


def test_svd_by_hand():
    # The singular values are 3 and 1, so that rank 1 leaves 1 of the squared norm 10.
    found = factors.svd(np.array([[0.0, 1.0], [3.0, 0.0]]))
    np.testing.assert_allclose(found.lost, [0.1, 0.0], atol=1e-15)
    left, right = factors.cut_svd(found, 1)
    np.testing.assert_allclose(left @ right, [[0.0, 0.0], [3.0, 0.0]], atol=1e-15)
    assert found.error((1,)) == pytest.approx(np.sqrt(0.1))


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
@pytest.mark.parametrize("rank", [25, 4], ids=["full", "deficient"])
def test_large_matrices_take_another_way_to_the_same(monkeypatch, shape, rank):
    matrix = kernel(shape[0], rank) @ kernel(rank, shape[1], seed=1)
    expected = factors.svd(matrix)
    monkeypatch.setattr(factors, "_LARGE", 0)
    found = factors.svd(matrix)
    np.testing.assert_allclose(found.lost, expected.lost, atol=1e-14)
    for cut in (1, 4, 25):
        products = [np.matmul(*factors.cut_svd(decomposition, cut)) for decomposition in (found, expected)]
        np.testing.assert_allclose(*products, atol=1e-10)
    zero = factors.svd(np.zeros((5, 3)))
    assert not np.matmul(*factors.cut_svd(zero, 3)).any()


@pytest.mark.parametrize(
    ("way", "full"), [("channel", (6,)), ("spatial", (12,)), ("tucker", (4, 6))], ids=["channel", "spatial", "tucker"]
)
def test_full_rank_is_the_kernel_and_errors_are_true(way, full):
    whole = kernel(3, 5, 4, 6)
    found = getattr(factors, way)(whole)
    assert found.full == full
    np.testing.assert_allclose(product(way, whole, full), whole, atol=1e-12)
    assert found.error(full) == 0.0
    for ranks in [tuple(max(1, rank // 2) for rank in full), (1,) * len(full)]:
        assert found.error(ranks) == pytest.approx(relative(whole, product(way, whole, ranks)), rel=1e-10)


def test_a_zero_kernel_has_no_error():
    assert factors.tucker(np.zeros((3, 3, 2, 2))).error((1, 1)) == 0.0
    assert factors.separable(np.zeros((3, 3, 2, 2)), 1)[2] == 0.0


def test_separable_recovers_what_is_separable():
    depthwise, pointwise = kernel(3, 3, 4, 2), kernel(4, 2, 5, seed=1)
    whole = np.einsum("hwim,imo->hwio", depthwise, pointwise)
    found_depthwise, found_pointwise, error = factors.separable(whole, 2)
    again = np.einsum("hwim,imo->hwio", found_depthwise, found_pointwise.reshape(4, 2, 5))
    np.testing.assert_allclose(again, whole, atol=1e-12)
    assert error < 1e-12


def test_separable_by_hand():
    # One input channel, 1x2 kernel, 2 outputs: the slice is diag(3, 1); rank 1 leaves 1 of 10.
    whole = np.zeros((1, 2, 1, 2))
    whole[0, 0, 0, 0], whole[0, 1, 0, 1] = 3.0, 1.0
    depthwise, pointwise, error = factors.separable(whole, 1)
    again = np.einsum("hwm,mo->hwo", depthwise[:, :, 0], pointwise[0, 0])
    np.testing.assert_allclose(again, [[[3.0, 0.0], [0.0, 0.0]]], atol=1e-12)
    assert error == pytest.approx(np.sqrt(0.1))


def options(costs, lost, unchanged):
    return Options(np.arange(1, len(costs) + 1)[:, None], np.array(costs), np.array(lost), unchanged)


def test_cheapest_keeps_the_energy():
    layer = options([10, 20, 30], [0.5, 0.1, 0.0], 40)
    assert cheapest(layer, 0.5) == (1,)
    assert cheapest(layer, 0.4) == (2,)
    assert cheapest(layer, 0.0) == (3,)


def test_the_greedy_choice_by_hand():
    # -log(kept) an operation saved: first layer 0.105 / 10, second 0.693 / 10. The first goes first; what is left to
    # save then is met by the second with its dearest option.
    first, second = options([90], [0.1], 100), options([80, 90], [0.6, 0.5], 100)
    assert spend([first, second], 190) == [(1,), None]
    assert spend([first, second], 180) == [(1,), (2,)]
    assert spend([first, second], 170) == [(1,), (1,)]
    assert least_cost([first, second]) == 170


def test_the_greedy_choice_is_near_the_best():
    random = np.random.default_rng(0)
    for _ in range(20):
        layers = [
            options(np.sort(random.integers(5, 60, 6)), np.sort(random.uniform(0, 0.9, 6))[::-1], 64) for _ in range(3)
        ]
        target = int(random.integers(least_cost(layers), 192))

        def total(picked, layers=layers):
            pairs = [(layer, 0 if ranks is None else ranks[0]) for layer, ranks in zip(layers, picked, strict=True)]
            cost = sum(layer.unchanged if rank == 0 else layer.costs[rank - 1] for layer, rank in pairs)
            return cost, sum(0.0 if rank == 0 else layer.errors[rank - 1] for layer, rank in pairs)

        choices = itertools.product([None, *((rank,) for rank in range(1, 7))], repeat=3)
        best = min(error for cost, error in map(total, choices) if cost <= target)
        cost, error = total(spend(layers, target))
        assert cost <= target
        # Within the error of one step, which is all that the greedy choice can be wrong by.
        steps = max(layer.errors.max() for layer in layers)
        assert best <= error <= best + steps
