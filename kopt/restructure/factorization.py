"""Dense and convolution layers of low rank."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from kopt.core.errors import ConfigError
from kopt.core.randomness import preserved_random_state
from kopt.core.records.actions import LayerAction
from kopt.core.settings import choice, number, whole
from kopt.graph import GraphView, require_finite
from kopt.restructure.accounting import Change, Costs, Restructuring, make_report
from kopt.restructure.factorized_layers import CONVOLUTIONS, KINDS, Factorization, Ranks, factorization
from kopt.restructure.kinds import altered
from kopt.restructure.selection import Layers, chosen, find, require_applied, require_unconstrained
from kopt.restructure.sites import Site, sites_of
from kopt.restructure.substitution import Substitute, fresh_names, substituted
from kopt.restructure.trade_off import cheapest, least_cost, spend

L = keras.layers
# One for every layer, or by the layer's name; a pair is for the inputs and the outputs of Tucker-2.
Rank: TypeAlias = int | tuple[int, int] | Mapping[str, int | tuple[int, int]]


@preserved_random_state()
def low_rank(
    model: keras.Model,
    *,
    rank: Rank | None = None,
    energy: float | None = None,
    target_macs: float | None = None,
    layers: Layers = None,
    conv: str = "tucker",
    force: bool = False,
) -> tuple[keras.Model, Restructuring]:
    """Return a copy of `model` whose Dense and convolution layers are products of smaller ones.

    Use it on trained models with wide layers, and fine-tune afterwards. A dense kernel becomes two by a truncated
    singular value decomposition, a convolution two or three, see `conv`. Bias and activation stay with the last, which
    keeps the layer's name.

    Formula: the relative error of a layer is `sqrt(1 - kept)`, where `kept` is the share of the kernel's squared
    Frobenius norm in what the ranks keep.

    Args:
        model: built Functional or Sequential model, nested models included; not changed.
        rank: of every layer, or by the name of the layer. For Tucker-2 a pair `(inputs, outputs)`; a single number
            stands for both, and no more than the layer has.
        energy: share of the squared norm of each kernel to keep, in (0, 1]; of the ranks that do, the cheapest.
        target_macs: most multiply-accumulates an example that the whole model may take; below 1, a fraction of what it
            takes now. Ranks fall first where `-log(kept)` grows least for each multiply-accumulate saved.
        layers: names or paths, or a function of the layer; all Dense, Conv1D, Conv2D and Conv3D layers by default.
        conv: what a convolution becomes: `"tucker"` (1x1, kxk, 1x1), `"channel"` (kxk, 1x1) or `"spatial"` (kx1, 1xk;
            Conv1D and Conv3D get `"channel"`). One of 1x1 becomes two of 1x1.
        force: also replace layers whose factors are not smaller.

    Returns:
        The copy, a plain Functional model, not compiled, and a report with the error of every layer; `left` lists those
        that stay, e.g. because their factors would have no fewer parameters or multiply-accumulates.

    Raises:
        ConfigError: not exactly one of `rank`, `energy` and `target_macs`; one out of range; a target that cannot be
            reached; an unknown name; a rank given by name that is larger than the layer's.
        NonFiniteError: NaN or infinity in the weights.
        UnsupportedModelError: a subclassed model, or no layer could be factorized.

    Example:
        >>> smaller, report = kopt.restructure.low_rank(model, rank={"classes": 4})
        >>> [(layer.name, layer.parameters_before, layer.parameters_after) for layer in report.applied]
        [('classes', 1450, 626)]

    Source: Jaderberg et al., 2014 (spatial); Zhang et al., 2016 (channel); Kim et al., 2016 (Tucker-2).
    """
    request = _request(rank, energy, target_macs, layers, conv, force)
    view = GraphView.of(model)
    require_finite(model)
    require_unconstrained(model)
    sites, costs = sites_of(view), Costs.of(model)
    named = {site: ranks for name, ranks in request.by_name.items() for site in find(sites, [name], "rank")}
    wanted = list(request.by_name) if request.by_name else layers
    work = _Work({}, {})
    for site in chosen(sites, wanted, lambda layer: type(layer) in KINDS):
        reason = _unfit(site)
        if reason:
            work.leave(site, reason)
        else:
            work.ways[site] = factorization(site, conv, costs.macs([site.path]))
    ranks = _ranks(request, work, named, costs.total.macs)
    require_applied("low_rank", model.name, len(ranks), work.left.values(), "Dense, Conv1D, Conv2D or Conv3D")
    names = fresh_names(model)
    substitutes = {site: work.ways[site].substitute(chosen_ranks, names) for site, chosen_ranks in ranks.items()}
    smaller = substituted(model, {id(site.layer): new for site, new in substitutes.items()})
    changes = [_change(site, new, ranks[site], work.ways[site]) for site, new in substitutes.items()]
    return smaller, make_report("low_rank", costs, Costs.of(smaller), changes, work.left)


@dataclasses.dataclass(frozen=True)
class _Request:
    """What was asked for; one of the first four is set."""

    rank: tuple[int, ...] | None
    by_name: dict[str, tuple[int, ...]]
    energy: float | None
    target: float | None
    force: bool


@dataclasses.dataclass
class _Work:
    """The layers that can be factorized, and those that are left."""

    ways: dict[Site, Factorization]
    left: dict[str, LayerAction]

    def leave(self, site: Site, reason: str) -> None:
        self.left[site.path] = LayerAction(site.path, type(site.layer).__name__, reason)


def _request(rank: Any, energy: Any, target_macs: Any, layers: Layers, conv: str, force: bool) -> _Request:
    given = {"rank": rank, "energy": energy, "target_macs": target_macs}
    set_ = [name for name, value in given.items() if value is not None]
    if len(set_) != 1:
        received = ", ".join(set_) or "none"
        raise ConfigError(f"`low_rank` takes exactly one of `rank`, `energy` and `target_macs`. Received: {received}.")
    choice("conv", conv, tuple(CONVOLUTIONS))
    by_name = {}
    if isinstance(rank, Mapping):
        if layers is not None or not rank:
            raise ConfigError("`rank` by name says which layers are meant: name at least one, and leave out `layers`.")
        by_name = {name: _rank_tuple(f"rank[{name!r}]", value) for name, value in rank.items()}
    single = None if rank is None or by_name else _rank_tuple("rank", rank)
    if energy is not None:
        number("energy", energy, least=0.0, most=1.0, open_below=True)
    if target_macs is not None:
        number("target_macs", target_macs, least=0.0, open_below=True)
    return _Request(single, by_name, energy, target_macs, force)


def _rank_tuple(setting: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return (whole(setting, value),)
    if len(value) != 2:
        raise ConfigError(f"`{setting}` must be a number or a pair (inputs, outputs). Received: {value!r}.")
    return tuple(whole(setting, item) for item in value)


def _ranks(request: _Request, work: _Work, named: dict[Site, tuple[int, ...]], macs: int) -> dict[Site, Ranks]:
    """Return the ranks of the layers that are to be replaced; the others are left with their reasons."""
    if request.target is not None:
        return _for_target(request, work, macs)
    found: dict[Site, Ranks] = {}
    for site, way in work.ways.items():
        if request.energy is not None:
            ranks = _for_energy(way, request.energy)
        else:
            wanted = named.get(site, request.rank or ())
            ranks = _fitted(wanted, way.full)
            if not ranks and site in named:
                raise ConfigError(f"`rank` of {site.path!r} is larger than the layer. {_too_large(wanted, way.full)}.")
            if not ranks:
                work.leave(site, _too_large(wanted, way.full))
                continue
        if request.force or way.is_smaller(ranks):
            found[site] = ranks
        else:
            work.leave(site, _not_smaller(way, ranks))
    return found


def _for_energy(way: Factorization, energy: float) -> Ranks:
    options = way.options(any_size=True)
    # The largest rank keeps everything, so that there is always an option.
    return way.full if options is None else cheapest(options, 1.0 - energy)


def _for_target(request: _Request, work: _Work, macs: int) -> dict[Site, Ranks]:
    target = float(request.target or 0)
    limit = int(target * macs if target < 1 else target)
    options = {}
    for site, way in work.ways.items():
        if way.macs is None:
            work.leave(site, "a size of its input is open, so that its multiply-accumulates are not known")
        elif (smaller := way.options()) is None:
            work.leave(site, _not_smaller(way, (1,) * len(way.full)))
        else:
            options[site] = smaller
    if not options:
        return {}
    if limit >= macs:
        raise ConfigError(f"`target_macs` must be below the model's {macs:,}. Received: {target:,g}.")
    rest = macs - sum(option.unchanged for option in options.values())
    least = rest + least_cost(list(options.values()))
    if limit < least:
        raise ConfigError(
            f"`target_macs` of {limit:,} cannot be reached: with rank 1 in all of {len(options)} layer(s) the model "
            f"still takes {least:,} of its {macs:,} multiply-accumulates. Ask for at least that, or name more `layers`."
        )
    found = dict(zip(options, spend(list(options.values()), limit - rest), strict=True))
    for site, ranks in found.items():
        if ranks is None:
            work.leave(site, "the target is reached without it")
    return {site: ranks for site, ranks in found.items() if ranks is not None}


def _fitted(wanted: tuple[int, ...], full: Ranks) -> Ranks:
    """Return one rank for each that the layer has; empty if they are larger than the layer."""
    if len(wanted) == 1 and len(full) == 2:
        return tuple(min(wanted[0], most) for most in full) if wanted[0] <= max(full) else ()
    if len(wanted) != len(full):
        return ()
    return wanted if all(rank <= most for rank, most in zip(wanted, full, strict=True)) else ()


def _too_large(wanted: tuple[int, ...], full: Ranks) -> str:
    return f"it has rank {_text(full)}, {_text(wanted)} was asked for"


def _not_smaller(way: Factorization, ranks: Ranks) -> str:
    row = np.array([ranks])
    macs = way.work_of_calls(row)
    parameters = int(way.parameters(row)[0])
    text = f"rank {_text(ranks)} would take {parameters:,} kernel parameters of {way.kernel.size:,} now"
    return text if macs is None else f"{text} and {int(macs[0]):,} multiply-accumulates of {way.macs:,}"


def _unfit(site: Site) -> str:
    layer = site.layer
    if type(layer) not in KINDS:
        return "it is no Dense, Conv1D, Conv2D or Conv3D layer"
    if reason := altered(layer):
        return reason
    if getattr(layer, "groups", 1) != 1:
        return f"it works in {layer.groups} groups"
    return ""


def _change(site: Site, new: Substitute, ranks: Ranks, way: Factorization) -> Change:
    kinds = ", ".join(_size(layer) for layer in new.layers)
    return Change(
        site.path,
        type(site.layer).__name__,
        f"rank {_text(ranks)} of {_text(way.full)}: {kinds}",
        tuple(layer.name for layer in new.layers),
        way.parts.error(ranks),
    )


def _size(layer: keras.layers.Layer) -> str:
    return str(layer.units) if isinstance(layer, L.Dense) else "x".join(map(str, layer.kernel_size))


def _text(ranks: tuple[int, ...]) -> str:
    return " and ".join(map(str, ranks))
