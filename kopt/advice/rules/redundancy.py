"""What of a model could go: layers that cost most, channels and weights that say nothing."""

from collections.abc import Iterator, Sequence

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.records.profiles.circumstances import ChannelActivity
from kopt.core.records.profiles.cost import ModelProfile
from kopt.core.records.profiles.parameters import ParameterProfile, VariableParameters
from kopt.core.records.profiles.sensitivity import SensitivityProfile

_DOMINATES, _LEAST_PARAMETERS = 0.5, 50_000
_RANK = 0.5
_ZEROS = 0.3
_TINY, _CONSTANT, _COPIES = 0.05, 0.25, 0.1
# Of fewer examples many channels have one value by chance, and of one all.
_LEAST_EXAMPLES = 32
_WIDE_KERNEL_SHARE, _LEAST_MACS = 0.5, 1_000_000
_TOLERANT = "pruned_50"


def wide_convolutions(cost: ModelProfile, parameters: ParameterProfile) -> Iterator[Found]:
    """Full convolutions with wide kernels make most of the work."""
    shapes = {
        one.layer: one.shape for one in parameters.variables if one.layer_type == "Conv2D" and len(one.shape) == 4
    }
    wide = [
        layer
        for layer in cost.layers
        if layer.macs and layer.groups == 1 and _separable_share(shapes.get(layer.path)) < 0.5
    ]
    work = sum(layer.macs or 0 for layer in wide)
    if cost.macs >= _LEAST_MACS and work > _WIDE_KERNEL_SHARE * cost.macs:
        left = sum(_separable_share(shapes.get(layer.path)) * (layer.macs or 0) for layer in wide)
        yield Found(
            places([layer.name for layer in sorted(wide, key=lambda layer: -(layer.macs or 0))]),
            f"{len(wide)} full convolutions make {work / cost.macs:.0%} of {cost.macs:,} multiply-accumulates "
            f"(threshold {_WIDE_KERNEL_SHARE:.0%}).",
            share=(work - left) / cost.macs,
            how="multiply-accumulates that go: 1 - (1 / filters + 1 / kernel positions) of each layer",
        )


def large_dense(cost: ModelProfile, parameters: ParameterProfile) -> Iterator[Found]:
    """Dense kernels hold most parameters and use few of their directions."""
    dense = [one for one in parameters.variables if one.layer_type == "Dense" and len(one.shape) == 2]
    held = sum(one.parameters for one in dense)
    if held < max(_LEAST_PARAMETERS, _DOMINATES * cost.parameters):
        return
    low = [(one, _low_rank_share(one)) for one in dense]
    won = sum(one.parameters * (1 - share) for one, share in low if share < 1)
    if won:
        names = [one.path for one, share in low if share < 1]
        yield Found(
            places(names),
            f"Dense kernels hold {held / cost.parameters:.0%} of {cost.parameters:,} parameters (threshold "
            f"{_DOMINATES:.0%}), and {len(names)} of them use less than half of their directions: "
            f"{_ranks([one for one, share in low if share < 1])}.",
            share=won / cost.parameters,
            how="parameters that go with the effective rank r: 1 - r (m + n) / (m n)",
        )


def large_embedding(cost: ModelProfile) -> Iterator[Found]:
    """Embeddings hold most parameters."""
    held = [layer for layer in cost.layers if layer.type == "Embedding" and layer.parameters]
    entries = sum(layer.parameters for layer in held)
    if entries >= max(_LEAST_PARAMETERS, _DOMINATES * cost.parameters):
        yield Found(
            places([layer.name for layer in held]),
            f"Embeddings hold {entries:,} of {cost.parameters:,} parameters ({entries / cost.parameters:.0%}, "
            f"threshold {_DOMINATES:.0%}).",
            share=0.75 * entries / cost.parameters,
            how="3/4 of their share: rows of 8 bits in the place of 32",
        )


def useless_zeros(parameters: ParameterProfile) -> Iterator[Found]:
    """Many weights are zero, and every kernel multiplies by them."""
    kernels = _kernels(parameters)
    total = sum(one.parameters for one in kernels)
    zeros = sum(one.parameters * one.statistics.zero_fraction for one in kernels if one.statistics)
    dead = sum(one.channels.dead for one in kernels if one.channels)
    if total and zeros / total > _ZEROS:
        yield Found(
            places([one.path for one in kernels if one.statistics and one.statistics.zero_fraction > _ZEROS]),
            f"{zeros / total:.0%} of {total:,} kernel weights are zero (threshold {_ZEROS:.0%}), {dead} whole channels "
            f"among them. LiteRT, ONNX Runtime and TensorFlow multiply by them as by others: the file is smaller when "
            f"compressed, not faster.",
            share=zeros / total,
            how="share of kernel weights that would go if whole channels were zero",
        )


def tiny_channels(parameters: ParameterProfile) -> Iterator[Found]:
    """Output channels whose weights are nothing beside the others'."""
    counted = [one for one in _kernels(parameters) if one.channels and one.layer_type != "Embedding"]
    channels = sum(one.channels.count for one in counted if one.channels)
    dead = [one for one in counted if one.channels and one.channels.dead]
    tiny = sum(one.channels.dead for one in dead if one.channels)
    if channels and tiny / channels > _TINY:
        below = parameters.settings.dead_below
        yield Found(
            places([one.path for one in dead]),
            f"{tiny} of {channels} output channels have less than {below:g} of the median norm of their layer "
            f"(threshold {_TINY:.0%} of them).",
            share=tiny / channels,
            how="their share: a layer costs by input times output channels, of which about one side goes",
        )


def constant_channels(activity: ChannelActivity) -> Iterator[Found]:
    """Channels that give one number whatever goes in."""
    if activity.examples < _LEAST_EXAMPLES:
        return
    seen = f"gave one number for all of {activity.examples} examples"
    yield from _of_channels(activity, [one.constant for one in activity.layers], _CONSTANT, seen)


def redundant_channels(activity: ChannelActivity) -> Iterator[Found]:
    """Channels that repeat others."""
    seen = f"follow another of their layer with a correlation above 0.99 on {activity.examples} examples"
    yield from _of_channels(activity, [one.copies for one in activity.layers], _COPIES, seen)


def tolerant_layers(sensitivity: SensitivityProfile) -> Iterator[Found]:
    """Layers half of whose weights do not matter."""
    if _TOLERANT not in sensitivity.perturbations:
        return
    total = sum(one.parameters for one in sensitivity.layers)
    spared = []
    for layer in sensitivity.layers:
        effect = layer.effect(_TOLERANT)
        if effect.loss_change < max(2 * effect.loss_error, 0.01 * abs(sensitivity.loss)):
            spared.append(layer)
    held = sum(one.parameters for one in spared)
    if total >= _LEAST_PARAMETERS and held > _DOMINATES * total:
        ratios = ", ".join(f'"{one.layer}": 0.5' for one in spared[:5])
        yield Found(
            places([one.layer for one in spared]),
            f"In {len(spared)} layers with {held / total:.0%} of {total:,} weights (threshold {_DOMINATES:.0%}) half "
            f"of the weights can be zero without a change of the loss above its error or 1 %.",
            share=0.5 * held / total,
            how="half of their weights, of the size of the compressed file; measured one layer at a time",
            code=f"model, report = kopt.prune.magnitude(model, 0.5, sparsity_by_layer={{{ratios}}})",
        )


def _of_channels(activity: ChannelActivity, counts: Sequence[int], threshold: float, seen: str) -> Iterator[Found]:
    """Yield what is found where more than a share of all channels is of a kind; `counts` of them, one a layer."""
    total, found = sum(one.channels for one in activity.layers), sum(counts)
    if total and found / total > threshold:
        pairs = [(one, count) for one, count in zip(activity.layers, counts, strict=True) if count]
        worst = sorted(pairs, key=lambda pair: -pair[1] / pair[0].channels)
        yield Found(
            places([f"{one.layer} ({count} of {one.channels})" for one, count in worst]),
            f"{found} of {total} channels {seen} (threshold {threshold:.0%}).",
            share=found / total,
            how="their share of the channels, about that of the work",
        )


def _separable_share(shape: tuple[int, ...] | None) -> float:
    """Return what a depthwise separable layer costs of a full one, `1 / filters + 1 / kernel positions`.

    A kernel that reads one channel has no cheaper form.
    """
    return 1.0 if shape is None or shape[2] == 1 else 1 / shape[-1] + 1 / (shape[0] * shape[1])


def _low_rank_share(one: VariableParameters) -> float:
    """Return the parameters of two factors of the effective rank over those of the kernel; 1 if that is no gain."""
    rank = one.effective_rank
    if rank is None or not rank.full or rank.value > _RANK * rank.full:
        return 1.0
    return min(1.0, rank.value * (rank.rows + rank.columns) / (rank.rows * rank.columns))


def _ranks(variables: Sequence[VariableParameters]) -> str:
    found = [(one.path, one.effective_rank) for one in variables[:3]]
    return ", ".join(f"{path} {rank.value:.3g} of {rank.full}" for path, rank in found if rank is not None)


def _kernels(parameters: ParameterProfile) -> list[VariableParameters]:
    return [one for one in parameters.variables if len(one.shape) > 1 and one.statistics is not None]


RULES = (
    Rule(
        id="wide-convolutions",
        area="slow inference",
        symptoms=("CNN too slow for mobile", "depthwise separable convolution"),
        needs=("cost", "parameters"),
        check=wide_convolutions,
        looks_for="Full convolutions that depthwise separable ones would halve make more than half of a million "
        "multiply-accumulates or more.",
        remedy="Put depthwise separable convolutions in their place and teach them by the model.",
        code="smaller, report = kopt.restructure.depthwise_separable(model)  # then kopt.DistillationModel(smaller, "
        "model)",
        target="inference time",
        gain='estimated: 1 - (1 / filters + 1 / kernel positions), Howard et al., "MobileNets", 2017',
        effort="advanced",
    ),
    Rule(
        id="tiny-channels",
        area="slow inference",
        symptoms=("channels with tiny weights", "filters that are almost zero"),
        needs=("parameters",),
        check=tiny_channels,
        looks_for="More than 5 % of the output channels have a thousandth of the median norm of their layer or less.",
        remedy="Take the weakest channels out, and train on.",
        code="smaller, report = kopt.prune.channels(model, keep=0.8)",
        target="inference time",
        gain="estimated: their share",
        effort="intermediate",
    ),
    Rule(
        id="constant-channels",
        area="slow inference",
        symptoms=("channels that never change", "dead filters in a trained model"),
        needs=("activity",),
        check=constant_channels,
        looks_for="More than a quarter of the channels give one number for all examples.",
        remedy="Put what they give into biases and take them out; the answers stay.",
        code="smaller, report = kopt.prune.constant_channels(model, x)",
        target="inference time",
        gain="estimated: their share",
        effort="basic",
    ),
    Rule(
        id="redundant-channels",
        area="slow inference",
        symptoms=("correlated filters", "model is too wide"),
        needs=("activity",),
        check=redundant_channels,
        looks_for="More than 10 % of the channels follow another of their layer with a correlation above 0.99.",
        remedy="Take out channels, and train on.",
        code='smaller, report = kopt.prune.channels(model, keep=0.8, criterion="geometric_median")',
        target="inference time",
        gain="estimated: their share",
        effort="intermediate",
    ),
    Rule(
        id="useless-zeros",
        area="model size",
        symptoms=("pruned model is not faster", "sparse model same size and speed"),
        needs=("parameters",),
        check=useless_zeros,
        looks_for="More than 30 % of the kernel weights are zero.",
        remedy="For speed take whole channels out; for size compress the file; `kopt.prune.measured` shows both.",
        code="smaller, report = kopt.prune.channels(model, keep=0.5)",
        target="inference time",
        gain="estimated: the share of zeros, as whole channels",
        effort="intermediate",
    ),
    Rule(
        id="large-dense",
        area="model size",
        symptoms=("Dense layer has most parameters", "low rank factorization"),
        needs=("cost", "parameters"),
        check=large_dense,
        looks_for="Dense kernels hold half of 50,000 parameters or more, and use less than half of their directions.",
        remedy="Factorize them, and train on.",
        code="smaller, report = kopt.restructure.low_rank(model, energy=0.95)",
        target="size",
        gain="estimated: 1 - r (m + n) / (m n) with the effective rank r (Roy and Vetterli, 2007)",
        effort="intermediate",
    ),
    Rule(
        id="large-embedding",
        area="model size",
        symptoms=("embedding table too large", "recommender model size"),
        needs=("cost",),
        check=large_embedding,
        looks_for="Embeddings hold half of 50,000 parameters or more.",
        remedy="Store rows in 8 bits, or let them share values (`kopt.cluster.weights`).",
        code='kopt.export.tflite(model, "model.tflite", scheme="dynamic")',
        target="size",
        gain="estimated: 3/4 of their share",
        effort="intermediate",
    ),
    Rule(
        id="tolerant-layers",
        area="model size",
        symptoms=("which layers can be pruned",),
        needs=("sensitivity",),
        check=tolerant_layers,
        looks_for="Layers with more than half of the weights lose nothing when half of their weights are zero.",
        remedy="Prune those, and spare the others.",
        code="plan = kopt.profile.sensitivity(model, data).plan(0.01, model=model, data=data)",
        target="size",
        gain="measured one layer at a time",
        effort="advanced",
    ),
)
