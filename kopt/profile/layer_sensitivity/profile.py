"""The public function: which layers matter."""

import time
from collections.abc import Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.progress import Progress, Silent
from kopt.core.records.profiles.sensitivity import PERTURBATIONS, Perturbation
from kopt.core.settings import whole
from kopt.graph import fingerprint
from kopt.profile.layer_sensitivity.effects import Effects
from kopt.profile.layer_sensitivity.estimates import LayerDerivatives, differentiate
from kopt.profile.layer_sensitivity.measured import measure
from kopt.profile.layer_sensitivity.notes import notes_of
from kopt.profile.layer_sensitivity.preparation import Prepared, prepare
from kopt.profile.layer_sensitivity.ranking import agreements_of
from kopt.profile.layer_sensitivity.result import Sensitivity
from kopt.profile.layer_sensitivity.suffixes import Suffix, grouped, suffixes_of

_GRADIENT_BATCH = 16


def sensitivity(
    model: keras.Model,
    data: Any,
    *,
    perturbations: Sequence[str] = PERTURBATIONS,
    layers: Sequence[str] | None = None,
    loss: Any = None,
    metric: Any = None,
    batch_size: int = 256,
    seed: int = 0,
    estimate_examples: int = 256,
    probes: int = 4,
    cache_bytes: int = 1 << 30,
    progress: Progress | None = None,
) -> Sensitivity:
    """Perturb the kernels of one layer at a time and measure how much worse the model gets, without training.

    Use it before pruning or quantizing, to see which layers have to be spared and which ones can take a lot. What a
    kernel is: a floating-point variable of two or more axes that is no bias, scale or statistic; a layer with several
    (a separable convolution, a recurrent cell) has all of them perturbed at once.

    Perturbations:

    - `"int8"`, `"int4"`, any `"int<bits>"`: rounded to symmetric integers and back, with a scale for every output
      channel (an embedding one, an LSTM one for every gate), as TFLite stores weights; activations are left alone;
    - `"pruned_50"`, any percentage: that share of the smallest magnitudes of every kernel set to zero;
    - `"noise_10"`, any percentage: normal noise of that share of the kernel's root mean square;
    - `"removed"`: a layer that is called once and gives the shape and type that it takes is passed over; of any other
      the kernels are set to zero, so that it no longer sees its input.

    Cheap by construction: the model is traced once. A perturbed kernel is fed into the part of the graph that depends
    on it; all that does not is taken from the unperturbed pass over the same batch. The model is never written to.

    Beside every measured change of the loss stand estimates from derivatives (see `PerturbationEffect`).

    Args:
        model: built; Functional, Sequential or subclassed. Used in inference mode.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a batched `tf.data.Dataset` of such, which has to give
            the same examples whenever it is read. About 1,000 examples tell the layers apart.
        perturbations: names.
        layers: paths of those to perturb; all by default.
        loss: as for `compile`, or a function `(y, outputs)` that gives one number an example; the compiled loss by
            default. Regularization losses are left out: they judge weights, not answers.
        metric: `None` for accuracy with a cross-entropy and for the loss with others; or `"accuracy"`, `"loss"`, a
            metric of Keras or its name, or a function `(y, outputs)` that gives one number an example, more is better.
        batch_size: examples a pass, of arrays.
        seed: of noise and random vectors.
        estimate_examples: how many examples at most the estimates are made on; 0 for no estimates.
        probes: random vectors for the trace of the Hessian; 0 for none.
        cache_bytes: how much to keep in memory at a time, about. If it is too little for all layers at once, they are
            measured in several groups, which costs one pass over the data for each.
        progress: told of every batch.

    Returns:
        Record with `.ranking()`, `.plan()`, `.table()` and `.plot(path)`.

    Raises:
        InputError: the model is not built.
        NonFiniteError: weights, data or the loss of the unperturbed model are NaN or infinite.
        DataError: no labels, or data that does not fit the model or the loss.
        ConfigError: an unknown perturbation, layer, loss or metric, or a number out of range.
        UnsupportedModelError: no layer has a kernel that the loss depends on.

    Example:
        >>> profile = kopt.profile.sensitivity(model, (x_val, y_val), perturbations=["int8", "int4", "pruned_50"])
        >>> profile.metric, [layer.layer for layer in profile.layers]
        ('accuracy', ['conv1', 'conv2', 'classes'])
        >>> plan = profile.plan(0.01, model=model, data=(x_val, y_val))
        >>> path = profile.plot("sensitivity.svg")

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626, section 4.1 (sensitivity to pruning); Molchanov et al.
        2017, https://arxiv.org/abs/1611.06440; Dong et al. 2020, https://arxiv.org/abs/1911.03852.
    """
    start = time.perf_counter()
    chosen = _perturbations(perturbations)
    whole("estimate_examples", estimate_examples, least=0)
    whole("probes", probes, least=0)
    whole("cache_bytes", cache_bytes)
    whole("seed", seed, least=0)
    prepared = prepare(model, data, loss, metric, batch_size)
    trace, examples, objective = prepared.trace, prepared.examples, prepared.objective
    suffixes, skipped = _suffixes(prepared, layers, chosen)
    groups = grouped(trace, suffixes, examples.batch, chosen, cache_bytes)
    progress = progress or Silent()
    passes = len(groups) * (1 if isinstance(progress, Silent) else examples.count_batches())
    progress.start(passes + (1 + probes if estimate_examples else 0))
    try:
        derivatives, estimated, notes = _derivatives(prepared, estimate_examples, probes, seed, progress)
        effects = Effects(derivatives)
        plain, changes, costs = measure(
            trace, groups, chosen, examples, objective, seed=seed, seen=effects.see, progress=progress
        )
    finally:
        progress.finish()
    rows = tuple(effects.layer(target, chosen, changes) for suffix in suffixes for target in suffix.targets)
    return Sensitivity(
        model=model.name,
        fingerprint=fingerprint(model),
        metric=objective.name,
        metric_value=plain.metric,
        loss=plain.loss,
        examples=plain.examples,
        perturbations=tuple(one.name for one in chosen),
        layers=rows,
        skipped=skipped,
        agreements=agreements_of(rows, [one.name for one in chosen]),
        estimate_examples=estimated,
        perturbed_runs=len(changes),
        forward_passes=costs.forward_passes,
        cached_bytes=max(group.size_bytes for group in groups),
        seconds=time.perf_counter() - start,
        notes=(*notes_of(rows, plain.examples, len(groups)), *notes),
    )


def _perturbations(names: Sequence[str]) -> list[Perturbation]:
    if isinstance(names, str) or not names:
        raise ConfigError(
            f"`perturbations` must be names, at least one, e.g. ('int8', 'pruned_50'). Received: {names!r}."
        )
    return list(dict.fromkeys(Perturbation.of(name) for name in names))


def _suffixes(
    prepared: Prepared, layers: Sequence[str] | None, chosen: Sequence[Perturbation]
) -> tuple[list[Suffix], dict[str, str]]:
    skipped = dict(prepared.skipped)
    wanted = {target.path for target in prepared.targets}
    if layers is not None:
        for path in layers:
            if path not in wanted:
                reason = f" It is skipped: {skipped[path]}." if path in skipped else nearest(path, wanted)
                raise ConfigError(f"No layer {path!r} to perturb.{reason} Layers: {', '.join(sorted(wanted))}.")
        wanted = set(layers)
    is_removing = any(one.kind == "removed" for one in chosen)
    found, dead = suffixes_of(prepared.trace, prepared.targets, wanted, with_switches=is_removing)
    for target in prepared.targets:
        if target.path in dead:
            skipped[target.path] = "the loss does not depend on its kernels"
        elif target.path not in wanted:
            skipped[target.path] = "not asked for"
    if not found:
        raise UnsupportedModelError("The loss depends on none of the layers that were to be perturbed.")
    return found, skipped


def _derivatives(
    prepared: Prepared, count: int, probes: int, seed: int, progress: Progress
) -> tuple[dict[str, LayerDerivatives], int, list[str]]:
    if not count:
        return {}, 0, []
    return differentiate(
        prepared.trace,
        prepared.targets,
        prepared.examples,
        count=count,
        batch_size=min(_GRADIENT_BATCH, max(count // 2, 1)),
        probes=probes,
        seed=seed,
        step=progress.step,
    )
