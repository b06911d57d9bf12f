"""Why a model is slow, large or worse once it ships: its layers, its weights, its files."""

from collections.abc import Iterator, Sequence

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.circumstance_records import ChannelActivity, DeployedFile, Deployment
from kopt.core.cost_records import ModelProfile, RooflineProfile
from kopt.core.diagnosis_records import QuantizationDiagnosis
from kopt.core.parameter_records import ParameterProfile, VariableParameters
from kopt.core.sensitivity_records import SensitivityProfile

_SLOWER, _NO_GAIN, _FASTER, _MORE_THREADS = 1.1, 0.95, 3.0, 0.25
_LEAST_CALL_MS = 0.05  # below, a call is what the runtime takes for any model
_MEMORY_SHARE, _LEAST_MS = 0.6, 0.5
_DOMINATES, _LEAST_PARAMETERS = 0.5, 50_000
_RANK = 0.5
_ZEROS = 0.3
_TINY, _CONSTANT, _COPIES = 0.05, 0.25, 0.1
_HOSTILE_DB, _AGREEMENT = 20.0, 0.98
_WIDE_KERNEL_SHARE, _LEAST_MACS = 0.5, 1_000_000
_TOLERANT = "pruned_50"


def slow_integers(deployment: Deployment) -> Iterator[Found]:
    """The int8 file is slower than the float file."""
    pair = _timed(deployment, "tflite-int8", "tflite-float32")
    if pair and pair[0] > _SLOWER * pair[1]:
        yield Found(
            "tflite-int8",
            f"int8 takes {pair[0]:.3g} ms a call here, float32 {pair[1]:.3g} ms (threshold {_SLOWER:g} times): "
            f"operators without an integer kernel, or many small ones that convert between the types.",
            share=1 - pair[1] / pair[0],
            how="1 - float32 / int8, timed here in turn",
            source="measured",
        )


def useless_float16(deployment: Deployment) -> Iterator[Found]:
    """The float16 file is no faster."""
    pair = _timed(deployment, "tflite-float16", "tflite-float32")
    if pair and pair[0] > _NO_GAIN * pair[1]:
        integers = _timed(deployment, "tflite-int8", "tflite-float32")
        better = 1 - integers[0] / integers[1] if integers and integers[0] < integers[1] else None
        yield Found(
            "tflite-float16",
            f"float16 takes {pair[0]:.3g} ms a call here, float32 {pair[1]:.3g} ms: the file is half as large, and its "
            f"weights become float32 when it is opened.",
            share=better,
            how="1 - int8 / float32, timed here in turn" if better else "",
            source="measured",
        )


def keras_inference(deployment: Deployment) -> Iterator[Found]:
    """The model itself is far slower than a file of it."""
    if deployment.max_drop is not None:
        return  # These are the candidates of a run, whose outcome that is.
    keras = deployment.file("keras")
    files = [one for one in deployment.files if one.name != "keras" and one.latency_ms]
    if keras is None or not keras.latency_ms or not files:
        return
    best = min(files, key=lambda one: one.latency_ms or 0.0)
    ratio = keras.latency_ms / (best.latency_ms or keras.latency_ms)
    if ratio > _FASTER:
        yield Found(
            best.name,
            f"A call takes {keras.latency_ms:.3g} ms in Keras and {best.latency_ms:.3g} ms as {best.name}: {ratio:.3g} "
            f"times (threshold {_FASTER:g}).",
            share=1 - 1 / ratio,
            how="1 - file / Keras, timed here in turn",
            source="measured",
            code=f'kopt.export.tflite(model, "model.tflite", scheme="{best.scheme}", calibration=data)'
            if best.name.startswith("tflite")
            else "",
        )


def runtime_threads(deployment: Deployment) -> Iterator[Found]:
    """More threads are faster than one."""
    threaded = [one for one in deployment.files if one.threads and one.latency_ms and one.latency_ms >= _LEAST_CALL_MS]
    singles = {one.name: one for one in threaded if one.threads == 1}
    for one in threaded:
        single = singles.get(one.name.partition(",")[0])  # "tflite-float32, 8 threads"
        if single is None or one is single or not one.latency_ms or not single.latency_ms:
            continue
        saved = 1 - one.latency_ms / single.latency_ms
        if saved > _MORE_THREADS:
            yield Found(
                f"{one.scheme}, {one.threads} threads",
                f"The {one.scheme} file takes {single.latency_ms:.3g} ms a call with one thread and "
                f"{one.latency_ms:.3g} ms with {one.threads} (threshold {_MORE_THREADS:.0%}).",
                share=saved,
                how="1 - all threads / one thread, timed here in turn",
                source="measured",
                code=f'runner = kopt.measure.load("model.tflite", threads={one.threads})',
            )


def nothing_in_budget(deployment: Deployment) -> Iterator[Found]:
    """No integer file keeps the accuracy that must be kept."""
    integers = [one for one in deployment.files if "int8" in one.scheme and one.drop is not None]
    if deployment.max_drop is None or not integers or any(_allowed(one, deployment) for one in integers):
        return
    best = min(integers, key=lambda one: one.drop or 0.0)
    yield Found(
        best.name,
        f"{best.name} loses {best.drop:.4f} of the metric; {deployment.max_drop:g} may be lost.",
        share=_won(best, deployment.file("keras")),
        how="1 - its size or time over that of the float file, if training with the rounding brings it inside",
    )


def failed_export(deployment: Deployment) -> Iterator[Found]:
    """A file could not be made."""
    for one in deployment.files:
        if one.reason:
            yield Found(one.name, f"{one.name} could not be made: {one.reason}")


def memory_bound(roofline: RooflineProfile) -> Iterator[Found]:
    """Most of the least time goes into moving numbers."""
    share = roofline.share("memory")
    if share > _MEMORY_SHARE and roofline.least_ms > _LEAST_MS:
        bound = sorted((one for one in roofline.layers if one.bound == "memory"), key=lambda one: -one.least_ms)
        yield Found(
            places([one.name for one in bound]),
            f"{share:.0%} of the least time of {roofline.least_ms:.3g} ms for {roofline.batch_size} examples is in "
            f"{len(bound)} layers that compute fewer operations a byte than the machine's {roofline.peaks.ridge:.3g} "
            f"(threshold {_MEMORY_SHARE:.0%}).",
            share=0.75 * share,
            how="3/4 of their share of the roofline's time: int8 moves a quarter of the bytes",
        )


def wide_convolutions(cost: ModelProfile, parameters: ParameterProfile) -> Iterator[Found]:
    """Full convolutions with wide kernels make most of the work."""
    shapes = {
        one.layer: one.shape for one in parameters.variables if one.layer_type == "Conv2D" and len(one.shape) == 4
    }
    wide = [layer for layer in cost.layers if layer.macs and _separable_share(shapes.get(_path(layer.name))) < 0.5]
    work = sum(layer.macs or 0 for layer in wide)
    if cost.macs >= _LEAST_MACS and work > _WIDE_KERNEL_SHARE * cost.macs:
        left = sum(_separable_share(shapes.get(_path(layer.name))) * (layer.macs or 0) for layer in wide)
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
    total = sum(one.channels for one in activity.layers)
    constant = sum(one.constant for one in activity.layers)
    if total and constant / total > _CONSTANT:
        worst = sorted((one for one in activity.layers if one.constant), key=lambda one: -one.constant / one.channels)
        yield Found(
            places([f"{one.layer} ({one.constant} of {one.channels})" for one in worst]),
            f"{constant} of {total} channels gave one number for all of {activity.examples} examples (threshold "
            f"{_CONSTANT:.0%}).",
            share=constant / total,
            how="their share of the channels, about that of the work",
        )


def redundant_channels(activity: ChannelActivity) -> Iterator[Found]:
    """Channels that repeat others."""
    total = sum(one.channels for one in activity.layers)
    copies = sum(one.copies for one in activity.layers)
    if total and copies / total > _COPIES:
        worst = sorted((one for one in activity.layers if one.copies), key=lambda one: -one.copies / one.channels)
        yield Found(
            places([f"{one.layer} ({one.copies} of {one.channels})" for one in worst]),
            f"{copies} of {total} channels follow another of their layer with a correlation above 0.99 on "
            f"{activity.examples} examples (threshold {_COPIES:.0%}).",
            share=copies / total,
            how="their share of the channels, about that of the work",
        )


def hostile_layers(quantization: QuantizationDiagnosis) -> Iterator[Found]:
    """Layers that lose their accuracy in integers, where the answers show it."""
    agreement = quantization.agreement
    if quantization.output_db >= _HOSTILE_DB and (agreement is None or agreement >= _AGREEMENT):
        return
    gravest = [one for one in quantization.findings if one.kind != "most of the error"] or quantization.findings
    answers = "" if agreement is None else f" and {quantization.flips} of {quantization.examples} answers are others"
    yield Found(
        places(list(dict.fromkeys(one.layer for one in gravest))),
        f"Rounded as {quantization.scheme}, the outputs have {quantization.output_db:.1f} dB (threshold "
        f"{_HOSTILE_DB:.0f}){answers}. {gravest[0].words if gravest else ''}".strip(),
        share=None if agreement is None else 1 - agreement,
        how=""
        if agreement is None
        else "the share of answers that rounding changes, measured here: what can be won back",
        source="measured",
    )


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


def _timed(deployment: Deployment, one: str, other: str) -> tuple[float, float] | None:
    first, second = deployment.file(one), deployment.file(other)
    if first is None or second is None or not first.latency_ms or not second.latency_ms:
        return None
    if min(first.latency_ms, second.latency_ms) < _LEAST_CALL_MS:
        return None
    return first.latency_ms, second.latency_ms


def _allowed(file: DeployedFile, deployment: Deployment) -> bool:
    return deployment.max_drop is None or file.drop is None or file.drop <= deployment.max_drop


def _won(file: DeployedFile, other: DeployedFile | None) -> float | None:
    if other is None or not other.latency_ms or not file.latency_ms or file.latency_ms > other.latency_ms:
        return None
    return 1 - file.latency_ms / other.latency_ms


def _path(name: str) -> str:
    return name.partition(" (call ")[0]


def _separable_share(shape: tuple[int, ...] | None) -> float:
    """Return what a depthwise separable layer costs of a full one, `1 / filters + 1 / kernel positions`."""
    return 1.0 if shape is None else 1 / shape[-1] + 1 / (shape[0] * shape[1])


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
        id="slow-integers",
        area="slow inference",
        symptoms=("int8 is slower than float32", "quantized model is slower"),
        needs=("deployment",),
        check=slow_integers,
        looks_for="Times the int8 and the float32 file in turn: int8 takes 10 % longer or more.",
        remedy="See which operators stay in float or have no fast integer kernel, replace those, or ship float32 on "
        "this machine; on the device that counts it may be otherwise.",
        code='print(kopt.profile.tflite_ops("model.tflite").table())',
        target="inference time",
        gain="measured: 1 - float32 / int8",
        effort="basic",
    ),
    Rule(
        id="useless-float16",
        area="slow inference",
        symptoms=("float16 is not faster on CPU", "half precision TFLite"),
        needs=("deployment",),
        check=useless_float16,
        looks_for="Times the float16 and the float32 file in turn: less than 5 % faster.",
        remedy="Take float16 for its size, or for GPUs of phones; for speed on processors take int8.",
        code='kopt.export.tflite(model, "model.tflite", scheme="int8", calibration=data)',
        target="inference time",
        gain="measured: 1 - int8 / float32",
        effort="intermediate",
    ),
    Rule(
        id="keras-inference",
        area="slow inference",
        symptoms=("model.predict is slow", "inference with Keras is slow for one example"),
        needs=("deployment",),
        check=keras_inference,
        looks_for="Times the model and its files in turn: the best file inside the budget is three times as fast or "
        "more.",
        remedy="Ship the file, not the Keras model.",
        code="kopt.optimize(model, train, validation)",
        target="inference time",
        gain="measured: 1 - file / Keras",
        effort="intermediate",
    ),
    Rule(
        id="runtime-threads",
        area="slow inference",
        symptoms=("num_threads TFLite", "TFLite uses only one core"),
        needs=("deployment",),
        check=runtime_threads,
        looks_for="Times a file with one thread and with all cores: these are a quarter faster or more.",
        remedy="Give the runtime the number of threads that is fastest on the machine that counts.",
        code='runner = kopt.measure.load("model.tflite", threads=4)',
        target="inference time",
        gain="measured: 1 - all threads / one thread",
        effort="intermediate",
    ),
    Rule(
        id="memory-bound",
        area="slow inference",
        symptoms=("low arithmetic intensity", "fewer FLOPs but not faster"),
        needs=("roofline",),
        check=memory_bound,
        looks_for="More than 60 % of the least time of the roofline is in layers that move more than they compute.",
        remedy="Move fewer bytes: int8, folded normalization, several examples a call. Fewer operations alone do not "
        "help.",
        code="model, report = kopt.restructure.fold_batch_norm(model)",
        target="inference time",
        gain="estimated: 3/4 of their share",
        effort="intermediate",
    ),
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
        code="smaller, report = kopt.prune.constant_channels(model, data)",
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
    Rule(
        id="hostile-layers",
        area="accuracy of the file",
        symptoms=("int8 loses accuracy", "quantization breaks MobileNet"),
        needs=("quantization",),
        check=hostile_layers,
        looks_for="Rounded as int8 the outputs have less than 20 dB, or 2 % of the answers change.",
        remedy="Choose ranges and weights after training, keep the worst layers in float, or train with the rounding.",
        code="copy, report = kopt.quantize.post_training(model, data)  # or kopt.quantize.fallback(model, data)",
        target="quality",
        gain="measured: the share of answers that rounding changes",
        effort="basic",
    ),
    Rule(
        id="nothing-in-budget",
        area="accuracy of the file",
        symptoms=("no quantized candidate inside the budget",),
        needs=("deployment",),
        check=nothing_in_budget,
        looks_for="No integer file of the run keeps the accuracy that must be kept.",
        remedy="See which layers lose it, and train with the rounding.",
        code="copy = kopt.quantize.aware(model)  # see also kopt.quantize.diagnose(model, data)",
        target="inference time",
        gain="estimated: the time of that file over the model's",
        effort="intermediate",
    ),
    Rule(
        id="failed-export",
        area="accuracy of the file",
        symptoms=("ConverterError", "TFLite conversion failed", "ops not supported"),
        needs=("deployment",),
        check=failed_export,
        looks_for="A file could not be made or opened.",
        remedy="As the message says; operators without a kernel can stay TensorFlow's.",
        code='kopt.export.tflite(model, "model.tflite", select_ops=True)',
        target="inference time",
        gain="not known",
        effort="intermediate",
    ),
)
