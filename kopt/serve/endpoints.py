"""Signatures of a SavedModel beside `serving_default`: raw images, examples and classes, all inside the graph."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError, UnsupportedModelError
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.shipping.serving import RawImage, SignatureInfo
from kopt.core.settings import whole
from kopt.data import decode_image
from kopt.data.image_decoding import decode_window, resize
from kopt.data.validation import TEXT
from kopt.export.source import SIGNATURE, Source

IMAGES, EXAMPLES, CLASSIFY, TOP_K = "serving_images", "serving_examples", "classify", "top_k"
# TF Serving writes and reads tensors whose names end in `_bytes` as base64.
IMAGE_BYTES = "image_bytes"
# The names that its Classify API looks for. Source: tensorflow/python/saved_model/signature_constants.py.
CLASSIFY_METHOD = "tensorflow/serving/classify"
CLASSIFY_INPUT, CLASSES, SCORES = "inputs", "classes", "scores"
_STORED = {"float32": tf.float32, "int64": tf.int64, **dict.fromkeys(TEXT, tf.string)}
Call = Callable[..., dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Endpoint:
    """A signature to write: its description and the `tf.function` behind it."""

    info: SignatureInfo
    function: Any


def endpoints(
    source: Source, *, image: RawImage | None, examples: bool, class_names: Sequence[str] | None, top_k: int
) -> tuple[Endpoint, ...]:
    """Return the signatures that were asked for, `serving_default` left out.

    Raises:
        ConfigError: names or settings that do not fit the model.
        UnsupportedModelError: the model's inputs or outputs have no such signature.
    """
    call = source.function
    found = []
    outputs = tuple(info.name for info in source.outputs)
    if image is not None:
        from_images = _from_images(call, source.inputs, image)
        spec = tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)
        found.append(_endpoint(IMAGES, "predict", from_images, [spec], outputs))
    if examples or class_names is not None:
        parse = _parser(source.inputs, image)
        if examples:
            spec = tf.TensorSpec([None], tf.string, name="examples")
            found.append(_endpoint(EXAMPLES, "predict", lambda examples: call(**parse(examples)), [spec], outputs))
    if class_names is not None:
        best = _best_classes(source.outputs, class_names, top_k)
        spec = tf.TensorSpec([None], tf.string, name=CLASSIFY_INPUT)
        specs = [tf.TensorSpec(info.shape, _dtype(info), name=info.name) for info in source.inputs]
        names = [info.name for info in source.inputs]
        classified = (CLASSES, SCORES)
        found += [
            _endpoint(CLASSIFY, "classify", lambda inputs: best(call(**parse(inputs))), [spec], classified),
            _endpoint(
                TOP_K,
                "predict",
                lambda *tensors: best(call(**dict(zip(names, tensors, strict=True)))),
                specs,
                classified,
            ),
        ]
    return tuple(found)


def default_signature(source: Source) -> SignatureInfo:
    """Return the description of `serving_default`."""
    return SignatureInfo(
        SIGNATURE, "predict", tuple(info.name for info in source.inputs), tuple(info.name for info in source.outputs)
    )


def decoded(image: RawImage, size: tuple[int, int], channels: int) -> Callable[[Any], Any]:
    """Return a function from the bytes of files, shape (n,), to float32 pixels (n, height, width, channels)."""

    def one(content: Any) -> Any:
        window = image.fit == "window"
        pixels = decode_window(content, size, channels=channels) if window else decode_image(content, channels=channels)
        return resize(pixels, size) * image.scale + image.offset

    spec = tf.TensorSpec((*size, channels), tf.float32)
    return lambda contents: tf.map_fn(one, contents, fn_output_signature=spec)


def _endpoint(name: str, method: str, call: Call, specs: list[Any], outputs: tuple[str, ...]) -> Endpoint:
    function = tf.function(call, input_signature=specs, autograph=False)
    return Endpoint(SignatureInfo(name, method, tuple(spec.name for spec in specs), outputs), function)


def _from_images(call: Call, inputs: tuple[TensorInfo, ...], image: RawImage) -> Call:
    info = _image_input(inputs)
    decode = decoded(image, info.shape[1:3], info.shape[3])  # type: ignore[arg-type]
    return lambda image_bytes: call(**{info.name: tf.cast(decode(image_bytes), _dtype(info))})


def _image_input(inputs: tuple[TensorInfo, ...]) -> TensorInfo:
    info = inputs[0]
    if len(inputs) > 1 or len(info.shape) != 4 or None in info.shape[1:] or info.shape[3] not in (1, 3, 4):
        listed = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise UnsupportedModelError(
            f"`image` needs a model with one input (n, height, width, channels) of known size with 1, 3 or 4 channels. "
            f"Received: {listed}. Leave `image` out."
        )
    return info


def _parser(inputs: tuple[TensorInfo, ...], image: RawImage | None) -> Callable[[Any], dict[str, Any]]:
    """Return a function from serialized `tf.train.Example`s, shape (n,), to the model's inputs by name.

    A feature is called like the input; where images come as files, their bytes are the feature `image_bytes`.
    """
    if image is not None:
        info = _image_input(inputs)
        decode = decoded(image, info.shape[1:3], info.shape[3])  # type: ignore[arg-type]
        features = {IMAGE_BYTES: tf.io.FixedLenFeature([], tf.string)}
        return lambda serialized: {
            info.name: tf.cast(decode(tf.io.parse_example(serialized, features)[IMAGE_BYTES]), _dtype(info))
        }
    for info in inputs:
        if not info.shape or None in info.shape[1:]:
            raise UnsupportedModelError(
                f"Examples hold features of known size. Received: the input {info.name!r} of shape {info.shape}. "
                "Leave `examples` and `class_names` out."
            )
    features = {
        info.name: tf.io.FixedLenFeature(info.shape[1:], _STORED.get(info.dtype, _stored_as(info))) for info in inputs
    }

    def parse(serialized: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(serialized, features)
        return {
            info.name: tf.cast(parsed[info.name], _dtype(info)) if info.dtype not in TEXT else parsed[info.name]
            for info in inputs
        }

    return parse


def _stored_as(info: TensorInfo) -> Any:
    return tf.float32 if info.dtype.startswith(("float", "bfloat")) else tf.int64


def _dtype(info: TensorInfo) -> Any:
    return tf.string if info.dtype in TEXT else tf.as_dtype(info.dtype)


def _best_classes(outputs: tuple[TensorInfo, ...], class_names: Sequence[str], top_k: int) -> Callable[[Any], Any]:
    """Return a function from the model's outputs to the `top_k` best classes and scores, each (n, k).

    A single probability stands for the second of two classes.
    """
    names = list(class_names)
    whole("top_k", top_k)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ConfigError(f"`class_names` are different words, one a class. Received: {names!r}.")
    info = outputs[0]
    classes = 2 if info.shape[-1:] == (1,) else info.shape[-1] if info.shape else None
    if len(outputs) > 1 or len(info.shape) != 2 or classes != len(names):
        listed = ", ".join(f"{i.name} {i.shape}" for i in outputs)
        raise ConfigError(
            f"`class_names` need a model with one output (n, classes), and a name for each class. Received: "
            f"{len(names)} name(s) for {listed}."
        )
    single = info.shape[-1] == 1

    def best(result: dict[str, Any]) -> dict[str, Any]:
        scores = tf.cast(result[info.name], tf.float32)
        scores = tf.concat([1.0 - scores, scores], axis=-1) if single else scores
        values, indices = tf.math.top_k(scores, k=min(top_k, len(names)))
        return {CLASSES: tf.gather(tf.constant(names), indices), SCORES: values}

    return best
