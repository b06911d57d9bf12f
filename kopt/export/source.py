"""What is exported: a model traced once into one flat, named signature.

Every exporter starts from that trace, and the trace computes the reference that the exported file is held against, so
that the model is traced once however many files are made of it.
"""

import contextlib
import dataclasses
import errno
import functools
import keyword
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.files import SCRATCH_REMEDY, scratch_directory, sha256, writing_to
from kopt.core.randomness import preserved_random_state
from kopt.core.records.artifacts import TensorInfo
from kopt.export import arrays_file
from kopt.export.twins import float32_twin
from kopt.graph import fingerprint, load_model, require_built, require_finite, signature
from kopt.graph.checks import input_structure, require_finite_values
from kopt.graph.internals import flatten_layers, losses_kept, plain_argmax
from kopt.measure import feeding
from kopt.measure.runner import batch_of
from kopt.measure.saved_model_runner import open_saved_model

SIGNATURE = "serving_default"
# What TensorFlow takes as the name of an argument as it is.
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LOOP_OPERATORS = frozenset(("While", "StatelessWhile", "TensorListReserve"))
# Constants convert several times faster than variables (MobileNetV2: 0.8 s against 2.8 s), but freezing copies them,
# and a graph of more than 2 GB cannot be written at all.
_FREEZE_BELOW_BYTES = 32 << 20
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A model ready for export.

    Attributes:
        name: of the model or its file.
        model: the Keras model in float32; `None` for a SavedModel made elsewhere.
        inputs: of the signature, in the model's order.
        outputs: likewise.
        sha256: of architecture and weights, or of the SavedModel's content.
        function: the traced `tf.function` that converters get; holds `concrete`.
        concrete: its only trace.
        reference: the trace that the exported file is compared with; `concrete` unless that was made convertible.
        freeze: whether converters may get the variables as constants; freezing inlines functions, and with them the
            mark by which a fused LSTM is known.
        saved_model: where a SavedModel made elsewhere lies.
        owner: what keeps the variables alive.
    """

    name: str
    model: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    sha256: str
    function: Any
    concrete: Any
    reference: Any
    freeze: bool = True
    saved_model: Path | None = None
    owner: Any = None

    @functools.cached_property
    def has_loop(self) -> bool:
        """Whether the graph holds a loop (an RNN), which TFLite runs for a fixed batch size only."""
        graph = self.concrete.graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        return any(node.op in _LOOP_OPERATORS for node in nodes)

    @property
    def batch_size(self) -> int | None:
        """Number of examples in every call; `None` if it is free."""
        return batch_of(self.inputs)

    def compute(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Run the reference on arrays by input name, in calls of the batch size it was traced with."""
        count = feeding.examples(self.inputs, arrays)
        _, specs = self.reference.structured_input_signature
        size = next((spec.shape[0] for spec in specs.values() if spec.shape.rank), None) or count
        parts = []
        for start in range(0, count, size):
            # A last batch that is not full is filled up with its first example; the rest is cut off below.
            rows = [row if row < count else start for row in range(start, start + size)]
            feeds = {name: tf.constant(array[rows] if array.ndim else array) for name, array in arrays.items()}
            with _as_traced():
                parts.append({name: tensor.numpy() for name, tensor in self.reference(**feeds).items()})
        return {name: _joined([part[name] for part in parts], count) for name in parts[0]}

    @contextlib.contextmanager
    def as_saved_model(self) -> Iterator[Path]:
        """Yield a SavedModel directory of `concrete` for a converter to read.

        Raises:
            UnsupportedModelError: a layer keeps a state from call to call, which files do not.
        """
        for layer in [] if self.model is None else flatten_layers(self.model):
            if getattr(layer, "stateful", False) is True:
                raise UnsupportedModelError(
                    f"Layer {layer.name!r} of {self.name} is stateful, and a file begins every call anew. Build the "
                    f"model with `stateful=False`, its weights are the same, or export a SavedModel."
                )
        if self.saved_model is not None:
            yield self.saved_model
            return
        with scratch_directory() as scratch:
            directory = scratch / "saved_model"
            resources = [c for c in self.concrete.captured_inputs if c.dtype == tf.resource]
            with writing_to(scratch, SCRATCH_REMEDY):
                if len(resources) == len(self.concrete.variables):
                    _write_concrete(self.concrete, directory, freeze=self.freeze)
                else:  # lookup tables, which only the model itself knows how to save
                    self.write(directory)
            yield directory

    def write(self, directory: Path, endpoints: Mapping[str, Any] | None = None) -> None:
        """Write a SavedModel with variables, lookup tables and assets, as TF Serving loads it.

        Args:
            directory: to write.
            endpoints: more signatures, `tf.function`s by name.
        """
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        for name, function in {SIGNATURE: self._endpoint(), **(endpoints or {})}.items():
            archive.add_endpoint(name, function)
        with _full_disk_as_os_error():
            archive.write_out(str(directory), verbose=False)

    def _endpoint(self) -> Any:
        """Return the function to save: one input may also be passed by position, as Keras' TFSMLayer does."""
        names = [info.name for info in self.inputs]

        def serve(*tensors: Any) -> Any:
            return self.function(**dict(zip(names, tensors, strict=True)))

        # By position, since of keywords TensorFlow saves the names in small letters.
        specs = [tf.TensorSpec(info.shape, info.dtype, name=info.name) for info in self.inputs]
        return tf.function(serve, input_signature=specs, autograph=False)


def _joined(parts: list[np.ndarray], count: int) -> np.ndarray:
    """Return the answers of several calls as one; a number for a whole batch is that of one call."""
    return np.concatenate(parts)[:count] if parts[0].ndim else parts[0]


def open_model(model: Any, *, custom_objects: dict[str, Any] | None = None, safe_mode: bool = True) -> Any:
    """Return `model` as something to export: a checked Keras model, or the path of a SavedModel directory.

    Args:
        model: a built Keras model, the path of a `.keras`, `.h5` or SavedModel, or what `traced` yields.
        custom_objects: see `kopt.load_model`.
        safe_mode: see `kopt.load_model`.

    Raises:
        LoadError: the path cannot be opened.
        InputError: the model was never built or called, or is no Keras 3 model.
        NonFiniteError: a weight is NaN or infinite.

    Example:
        >>> kopt.export.open_model("model.keras").name
        'digits'
        >>> kopt.export.open_model(keras.Sequential([keras.layers.Dense(2)]))
        Traceback (most recent call last):
            ...
        kopt.core.errors.InputError: Sequential model ... is not built: its input shape is not known. ...
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if (path / "saved_model.pb").is_file():
            return path
        model = load_model(path, custom_objects=custom_objects, safe_mode=safe_mode)
    require_built(model)
    require_finite(model)
    return model


@contextlib.contextmanager
def traced(model: Any) -> Iterator[Source]:
    """Trace a model once for several exports: every exporter takes the result in place of the model.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.

    Example:
        >>> with kopt.export.traced(model) as source:
        ...     files = [kopt.export.tflite(source, "traced.tflite"), kopt.export.onnx(source, "traced.onnx")]
        >>> [file.format for file in files]
        ['tflite', 'onnx']
    """
    with preserved_random_state():
        source = trace(open_model(model))
    yield source


def prepare(model: Any) -> tuple[Any, tuple[TensorInfo, ...]]:
    """Return `model` opened, ready for `trace`, and its inputs, so that data is checked before anything is traced.

    Raises:
        KoptError: see `open_model`.
    """
    model = open_model(model)
    if isinstance(model, Path):
        model = _trace_saved_model(model)
    return model, model.inputs if isinstance(model, Source) else signature(model)[0]


def trace(model: Any, *, batch_size: int | None = None) -> Source:
    """Trace `model` (from `open_model`).

    Args:
        model: a Keras model; the path of a SavedModel; or a `Source`, which is given back if its batch size is the one
            asked for.
        batch_size: fixed number of examples a call; `None` keeps it free.

    Raises:
        UnsupportedModelError: another batch size of a SavedModel that was made elsewhere.
    """
    if isinstance(model, Path):
        model = _trace_saved_model(model)
    if isinstance(model, Source):
        return _with_batch_size(model, batch_size)
    inputs, outputs = signature(model)
    twin = float32_twin(model)
    _require_names(model, inputs)
    inputs = tuple(_with_batch(model, info, batch_size) for info in inputs)
    serve = _serving_function(twin, [i.name for i in inputs], [o.name for o in outputs])
    function, concrete = trace_function(serve, inputs)
    return Source(model.name, twin, inputs, outputs, fingerprint(model), function, concrete, concrete)


def _with_batch(model: Any, info: TensorInfo, batch_size: int | None) -> TensorInfo:
    """Return an input with this number of examples a call, or with the one that the model fixes.

    Raises:
        ConfigError: the model fixes another.
    """
    fixed = info.shape[0] if info.shape else None
    if fixed is not None and batch_size not in (None, fixed):
        raise ConfigError(
            f"Model {model.name!r} takes batches of exactly {fixed} at its input {info.name!r}. Received: "
            f"`batch_size={batch_size}`. Leave it out, or build the model with an open batch: a Sequential that was "
            f"built by calling it has the batch of that call, unless it begins with `keras.Input`."
        )
    return dataclasses.replace(info, shape=(fixed if batch_size is None else batch_size, *info.shape[1:]))


def _require_names(model: Any, inputs: tuple[TensorInfo, ...]) -> None:
    """Raise if an input has a name that a signature of TensorFlow changes.

    Raises:
        UnsupportedModelError: names it.
    """
    for info in inputs:
        if not _PARAMETER.fullmatch(info.name) or keyword.iskeyword(info.name) or info.name == "self":
            raise UnsupportedModelError(
                f"Input {info.name!r} of model {model.name!r} cannot be named so in a signature, whose names are like "
                f"those of Python's arguments: letters from a to z, digits and underscores after a letter. Name it "
                f"e.g. `keras.Input(..., name={_identifier(info.name)!r})`; a "
                f"trained model keeps its weights as `keras.Model(new_inputs, model(new_inputs))`."
            )


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")
    return plain if _PARAMETER.fullmatch(plain) and not keyword.iskeyword(plain) and plain != "self" else f"x_{plain}"


def trace_function(serve: Callable[..., dict[str, Any]], inputs: tuple[TensorInfo, ...]) -> tuple[Any, Any]:
    """Return `serve` as a `tf.function` of keyword tensors, and its trace for `inputs`."""
    function = tf.function(serve, autograph=False)
    specs = {info.name: tf.TensorSpec(info.shape, info.dtype, name=info.name) for info in inputs}
    with plain_argmax():
        return function, function.get_concrete_function(**specs)


def save_arrays(arrays: Arrays, directory: Path) -> str:
    """Write arrays for a converter into a scratch directory and return the path of the file."""
    path = directory / "calibration.npz"
    with writing_to(directory, SCRATCH_REMEDY):
        arrays_file.write(path, dict(arrays))
    return str(path)


def _with_batch_size(source: Source, batch_size: int | None) -> Source:
    if batch_size in (None, source.batch_size):
        return source
    if source.model is None:
        raise UnsupportedModelError(
            f"{source.name} is a SavedModel whose batch size is {source.batch_size or 'free'}; it cannot be given "
            f"{batch_size}. Export the Keras model itself, or save it with that batch size."
        )
    return dataclasses.replace(trace(source.model, batch_size=batch_size), sha256=source.sha256)


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    """Run graphs as they are: for the few calls here TensorFlow would rewrite them longer than it runs them.

    DenseNet121 with the rounding of integers takes 15 s for the first call with that, and 2 s without.
    """
    key = "disable_meta_optimizer"
    before = tf.config.optimizer.get_experimental_options().get(key, False)
    tf.config.optimizer.set_experimental_options({key: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({key: before})


def _serving_function(model: Any, inputs: list[str], outputs: list[str]) -> Callable[..., dict[str, Any]]:
    def serve(**tensors: Any) -> dict[str, Any]:
        flat = [tensors[name] for name in inputs]
        with losses_kept(model):
            result = model(keras.tree.pack_sequence_as(input_structure(model), flat), training=False)
        # `tf.identity` gives an output that is an input, or another output, a tensor of its own.
        return {name: tf.identity(tensor) for name, tensor in zip(outputs, keras.tree.flatten(result), strict=True)}

    return serve


def _trace_saved_model(path: Path) -> Source:
    loaded = open_saved_model(path)
    if SIGNATURE not in loaded.signatures:
        raise UnsupportedModelError(
            f"{path} has no signature {SIGNATURE!r}; it has {', '.join(map(repr, loaded.signatures)) or 'none'}. "
            f"Save it with `model.export(path)`."
        )
    concrete = loaded.signatures[SIGNATURE]
    require_finite_values(path.name, {variable.name: variable.numpy() for variable in concrete.variables})
    return Source(
        name=path.name,
        model=None,
        inputs=tuple(_info(name, spec) for name, spec in concrete.structured_input_signature[1].items()),
        outputs=tuple(_info(name, spec) for name, spec in concrete.structured_outputs.items()),
        sha256=sha256(path),
        function=concrete,
        concrete=concrete,
        reference=concrete,
        saved_model=path,
        owner=loaded,
    )


def _info(name: str, spec: Any) -> TensorInfo:
    return TensorInfo(name, tuple(spec.shape), spec.dtype.name)


def _write_concrete(concrete: Any, directory: Path, *, freeze: bool) -> None:
    module = tf.Module()
    # Captured constants (a Normalization layer has some) would become inputs of a frozen graph.
    freeze = freeze and len(concrete.captured_inputs) == len(concrete.variables)
    if freeze and sum(v.shape.num_elements() * v.dtype.size for v in concrete.variables) < _FREEZE_BELOW_BYTES:
        concrete = _frozen(concrete)
    else:
        module.variables_of_model = list(concrete.variables)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with _full_disk_as_os_error():
        tf.saved_model.save(module, str(directory), signatures={SIGNATURE: concrete}, options=options)


@contextlib.contextmanager
def _full_disk_as_os_error() -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:  # also what TensorFlow raises when memory runs out
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in error.message:
                raise OSError(code, os.strerror(code)) from error
        raise


def _frozen(concrete: Any) -> Any:
    """Return `concrete` with its variables as constants and the same names."""
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = sorted(concrete.structured_outputs)  # the order in which a dict of outputs is flattened

    @functools.partial(tf.function, autograph=False)
    def serve(**tensors: Any) -> dict[str, Any]:
        return dict(zip(names, frozen(**tensors), strict=True))

    # Named anew: in the specs of a trace TensorFlow writes names of arguments in small letters.
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in concrete.structured_input_signature[1].items()
    }
    return serve.get_concrete_function(**specs)
