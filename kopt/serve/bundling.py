"""`kopt.serve.bundle`: the next version of a model where TF Serving looks for it, with all that a server needs."""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from kopt.core.environment import machine
from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.files import atomic_write
from kopt.core.randomness import preserved_random_state
from kopt.core.records.shipping.serving import VARIANTS, BatchingPlan, RawImage, ServingBundle, ServingState
from kopt.core.schemes import get_scheme
from kopt.core.settings import choice, whole
from kopt.data import calibration
from kopt.export.assembly import Converted, assemble
from kopt.export.inspection import inspect_saved_model
from kopt.export.manifest import require_intact
from kopt.export.source import Source, prepare, trace
from kopt.export.to_saved_model import copy_saved_model
from kopt.measure import latency, load, random_inputs
from kopt.serve import deployment
from kopt.serve.batch_planning import batching_parameters_text, plan_batching
from kopt.serve.endpoints import CLASSIFY_METHOD, Endpoint, default_signature, endpoints
from kopt.serve.loaded import artefact_in, has_manifest
from kopt.serve.optimizing import optimized
from kopt.serve.versions import change_state, claimed, labelled, path_of, present, read_state, rolled_back
from kopt.serve.warming import require_protos, write_warmup

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_EXAMPLES = 64
_SECONDS_A_SIZE = 0.4


@preserved_random_state()
def bundle(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    version: int | None = None,
    labels: Sequence[str] = (),
    data: Any = None,
    image: RawImage | None = None,
    examples: bool = False,
    class_names: Sequence[str] | None = None,
    top_k: int = 5,
    warmup: bool = True,
    batching: bool | BatchingPlan = True,
    latency_ms: float | None = None,
    batch_size: int | None = None,
    variant: str = "plain",
    server_image: str | None = None,
    seed: int = 0,
) -> ServingBundle:
    """Write the next version of a model into `directory`, as TF Serving loads it, with all that a server needs.

    `directory`'s name is the model's name. A version appears under its number at once and whole, after it was compared
    with the model and every signature ran; its manifest lies beside it. Two processes that write at the same time get
    two versions. The newest version is served unless it was withdrawn (`rollback`).

    | file | what for |
    |---|---|
    | `<version>/` | the SavedModel, warm-up requests inside |
    | `models.config` | which versions are served, their labels |
    | `batching_parameters.txt` | from the measured latency by batch size |
    | `monitoring.config` | Prometheus metrics |
    | `docker-compose.yml`, `kubernetes.yaml` | starting TF Serving with the above |

    | signature | inputs | outputs |
    |---|---|---|
    | `serving_default` | the model's own | the model's own |
    | `serving_images` (`image`) | `image_bytes`, files | the model's own |
    | `serving_examples` (`examples`) | `examples`, serialized `tf.train.Example` | the model's own |
    | `classify` (`class_names`) | `inputs`, examples of TF Serving's Classify API | `classes`, `scores` |
    | `top_k` (`class_names`) | the model's own | `classes`, `scores` |

    A feature of an example is called like the input; with `image`, it is `image_bytes` and holds the file.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `kopt.export.traced` yields.
        directory: of the model's versions, e.g. `"models/digits"`.
        version: number of the version; the next one if `None`.
        labels: words that stand for this version from now on, e.g. `("stable",)`.
        data: real inputs to compare on, to warm up with and to time; seeded random ones if not given.
        image: how image files become inputs inside the graph; no such signature if `None`.
        examples: whether to write `serving_examples`.
        class_names: one a class, in the order of the output's columns; the scores are the model's outputs as they are.
        top_k: classes that `classify` and `top_k` answer with, best first.
        warmup: whether to write warm-up requests, one a signature and batch size.
        batching: measure and plan (`True`), a plan of your own, or no batching (`False`).
        latency_ms: milliseconds that a request may take, waiting for its batch included; for the plan.
        batch_size: fixed number of examples a call; free if `None`.
        variant: `"plain"`; `"optimized"`: weights are constants, and TensorFlow's graph optimizer has worked out what
            depends on them alone; or `"xla"`: the model is compiled by XLA, anew for each batch size.
        server_image: of the container; `tensorflow/serving` of the installed TensorFlow if `None`.
        seed: of the random inputs.

    Returns:
        What was written and what is served now.

    Raises:
        InputError: the model or a setting cannot be used; nothing was written.
        ExportError: the version does not compute what the model computes, or a signature does not run.
        OutputExistsError: `version` is taken.
        MissingDependencyError: warm-up requests need the extra `serve`.

    Example:
        >>> made = kopt.serve.bundle(model, "models/digits", class_names=list("0123456789"), labels=["stable"])
        >>> made.version, made.labels, [signature.name for signature in made.signatures]
        (1, {'stable': 1}, ['serving_default', 'classify', 'top_k'])
    """
    directory = Path(directory).absolute()
    _check_settings(directory.name, variant, batching, batch_size, labels)
    if warmup:
        require_protos()
    model, inputs = prepare(model)
    compared = (
        random_inputs(inputs, _EXAMPLES, seed=seed)
        if data is None
        else calibration(data, samples=_EXAMPLES, seed=seed, inputs=inputs, name="data")
    )
    source = _variant(trace(model, batch_size=batch_size), variant)
    extra = _extra_endpoints(source, image=image, examples=examples, class_names=class_names, top_k=top_k)
    signatures = (default_signature(source), *(endpoint.info for endpoint in extra))
    written: dict[str, Any] = {"plan": batching if isinstance(batching, BatchingPlan) else None, "records": 0}

    def convert(staged: Path) -> Converted:
        _write(source, staged, extra)
        if batching is True:
            written["plan"] = _measured_plan(staged, compared, batch_size, latency_ms)
        if warmup:
            sizes = _warm_sizes(written["plan"], batch_size)
            written["records"] = write_warmup(staged, directory.name, signatures, source.inputs, compared, sizes)
        return Converted(inspect_saved_model(staged))

    with claimed(directory, version) as number:
        artifact = assemble(
            source,
            directory / str(number),
            format="saved_model",
            scheme=get_scheme("float32"),
            convert=convert,
            examples=compared,
            options={"signatures": ", ".join(signature.name for signature in signatures), "variant": variant},
            overwrite=False,
        )
        plan = written["plan"]
        state = change_state(
            directory,
            lambda state, versions: labelled(state, versions, dict.fromkeys(labels, number)),
            functools.partial(_write_config, directory),
        )
    _write_deployment(directory, plan, server_image)
    return ServingBundle(
        name=directory.name,
        version=number,
        directory=str(directory),
        artifact=artifact,
        signatures=signatures,
        warmup_records=written["records"],
        batching=plan,
        served=state.wanted(present(directory)),
        labels=state.labels,
    )


def set_labels(directory: str | os.PathLike[str], **labels: int | None) -> ServingState:
    """Let labels stand for versions, `None` takes a label away: `set_labels("models/digits", stable=3, canary=4)`.

    Raises:
        ConfigError: no such version, or one that was withdrawn.

    Example:
        >>> made = kopt.serve.bundle(model, "models/digits", labels=["stable"], warmup=False, batching=False)
        >>> kopt.serve.set_labels("models/digits", canary=1).labels
        {'stable': 1, 'canary': 1}
        >>> kopt.serve.set_labels("models/digits", canary=None).labels
        {'stable': 1}
    """
    path = _existing(directory)
    return change_state(
        path, lambda state, found: labelled(state, found, labels), functools.partial(_write_config, path)
    )


def rollback(directory: str | os.PathLike[str], *, version: int | None = None) -> ServingState:
    """Serve an earlier version again: newer ones are withdrawn, and their labels go to the earlier one.

    Nothing is removed. The next `bundle` is served, because it is newer than what was withdrawn.

    Args:
        directory: of the model's versions.
        version: to go back to; the one before the newest that stands if `None`.

    Raises:
        ConfigError: there is no such version.
        LoadError: the earlier version is not the one that its manifest describes.

    Example:
        >>> made = [kopt.serve.bundle(model, "models/digits", warmup=False, batching=False) for _ in range(2)]
        >>> kopt.serve.rollback("models/digits").withdrawn
        (2,)
    """
    path = _existing(directory)

    def change(state: ServingState, found: tuple[int, ...]) -> ServingState:
        changed = rolled_back(state, found, version)
        back = path_of(path, max(set(found) - set(changed.withdrawn)))
        if has_manifest(back):  # of a version that was made elsewhere nothing tells whether it is whole
            require_intact(artefact_in(back))
        return changed

    return change_state(path, change, functools.partial(_write_config, path))


def serving_state(directory: str | os.PathLike[str]) -> ServingState:
    """Return what is withdrawn and labelled.

    Example:
        >>> made = kopt.serve.bundle(model, "models/digits", labels=["stable"], warmup=False, batching=False)
        >>> kopt.serve.serving_state("models/digits")
        ServingState(withdrawn=(), labels={'stable': 1})
    """
    return read_state(_existing(directory))


def _check_settings(name: str, variant: str, batching: Any, batch_size: int | None, labels: Any) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"The directory's name is the model's name: letters, digits, '_', '-' and '.'. Received: {name!r}."
        )
    choice("variant", variant, VARIANTS)
    if not isinstance(batching, (bool, BatchingPlan)):
        raise ConfigError(f"`batching` is True, False or a BatchingPlan. Received: {batching!r}.")
    if batch_size is not None:
        whole("batch_size", batch_size)
    if isinstance(labels, str):
        raise ConfigError(f"`labels` is a list of words. Received: {labels!r}.")
    labelled(ServingState(), (0,), dict.fromkeys(labels, 0))


def _existing(directory: str | os.PathLike[str]) -> Path:
    path = Path(directory).absolute()
    if not present(path):
        raise ConfigError(f"{path} holds no version of a model. Make one with `kopt.serve.bundle`.")
    return path


def _variant(source: Source, variant: str) -> Source:
    if variant == "plain":
        return source
    if source.saved_model is not None:
        raise UnsupportedModelError(
            f"{source.name} is a SavedModel, which is copied as it is. Pass the Keras model for variant={variant!r}."
        )
    if variant == "xla":
        model = source.model
        function = tf.function(source.function.python_function, autograph=False, jit_compile=True)
    else:
        model = tf.Module()  # the weights are constants of the graph: no variable is written beside them
        function = optimized(source.name, source.concrete, source.inputs)
    specs = {info.name: tf.TensorSpec(info.shape, info.dtype, name=info.name) for info in source.inputs}
    concrete = function.get_concrete_function(**specs)
    return dataclasses.replace(source, model=model, function=function, concrete=concrete)


def _extra_endpoints(source: Source, **asked: Any) -> tuple[Endpoint, ...]:
    extra = endpoints(source, **asked)
    if extra and source.saved_model is not None:
        raise UnsupportedModelError(
            f"{source.name} is a SavedModel, which is copied as it is. Signatures for images, examples and classes are "
            f"written from the Keras model: pass that."
        )
    return extra


def _write(source: Source, staged: Path, extra: tuple[Endpoint, ...]) -> None:
    if source.saved_model is not None:
        copy_saved_model(source.saved_model, staged)
        return
    source.write(staged, {endpoint.info.name: endpoint.function for endpoint in extra})
    named = [endpoint.info.name for endpoint in extra if endpoint.info.method == "classify"]
    if named:
        _name_methods(staged / "saved_model.pb", dict.fromkeys(named, CLASSIFY_METHOD))


def _name_methods(path: Path, methods: dict[str, str]) -> None:
    """Give signatures the method that TF Serving's APIs look for; TensorFlow 2 writes all of them as `predict`."""
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in proto.meta_graphs:
        for name, method in methods.items():
            meta_graph.signature_def[name].method_name = method
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _measured_plan(staged: Path, arrays: Any, batch_size: int | None, latency_ms: float | None) -> BatchingPlan:
    sizes = _BATCH_SIZES if batch_size is None else (batch_size,)
    measured = latency(load(staged), arrays, batch_sizes=sizes, min_runs=10, max_seconds=_SECONDS_A_SIZE)
    return plan_batching(measured.latencies, latency_ms=latency_ms, cores=machine().cores)  # type: ignore[union-attr]


def _warm_sizes(plan: BatchingPlan | None, batch_size: int | None) -> tuple[int, ...]:
    if batch_size is not None:
        return (batch_size,)
    return plan.allowed_batch_sizes if plan else (1,)


def _write_config(directory: Path, state: ServingState) -> None:
    text = deployment.models_config_text(directory.name, state, present(directory))
    atomic_write(directory / deployment.MODELS_CONFIG, text, overwrite=True)


def _write_deployment(directory: Path, plan: BatchingPlan | None, image: str | None) -> None:
    image = image or f"tensorflow/serving:{tf.__version__}"
    files = {
        deployment.MONITORING: deployment.monitoring_text(),
        "docker-compose.yml": deployment.compose_text(directory.name, image, plan),
        "kubernetes.yaml": deployment.kubernetes_text(directory.name, image, plan),
    }
    if plan is not None:
        files[deployment.BATCHING] = batching_parameters_text(plan)
    else:
        (directory / deployment.BATCHING).unlink(missing_ok=True)
    for name, text in files.items():
        atomic_write(directory / name, text, overwrite=True)
