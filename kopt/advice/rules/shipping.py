"""Why a model is slow, large or worse once it ships: its files, and the runtime that they meet."""

from collections.abc import Iterator

from kopt.advice.rules.row import Found, Rule, places
from kopt.core.records.changes.quantization_diagnosis import QuantizationDiagnosis
from kopt.core.records.profiles.circumstances import DeployedFile, Deployment
from kopt.core.records.profiles.cost import RooflineProfile
from kopt.report.parts.statistics import wilson_interval

_SLOWER, _NO_GAIN, _FASTER, _MORE_THREADS = 1.1, 0.95, 3.0, 0.25
_LEAST_CALL_MS = 0.05  # below, a call is what the runtime takes for any model
_MEMORY_SHARE, _LEAST_MS = 0.6, 0.5
_HOSTILE_DB, _AGREEMENT = 20.0, 0.98


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


def hostile_layers(quantization: QuantizationDiagnosis) -> Iterator[Found]:
    """Layers that lose their accuracy in integers, where the answers show it."""
    agreement = quantization.agreement
    is_same = agreement is None or wilson_interval(agreement, quantization.examples)[1] >= _AGREEMENT
    if quantization.output_db >= _HOSTILE_DB and is_same:
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
        id="hostile-layers",
        area="accuracy of the file",
        symptoms=("int8 loses accuracy", "quantization breaks MobileNet"),
        needs=("quantization",),
        check=hostile_layers,
        looks_for="Rounded as int8 the outputs have less than 20 dB, or surely more than 2 % of the answers change.",
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
