"""The bytes of an image file to pixels, inside the TensorFlow runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data.splits import Array

CHANNELS = (1, 3, 4)
_ALPHA = 4
# Layout of a WebP file: "RIFF", size, "WEBP", then the name of the first chunk, its size and, in VP8X, a byte of flags.
# Source: "WebP Container Specification", https://developers.google.com/speed/webp/docs/riff_container.
_WEBP_NAME, _WEBP_CHUNK, _WEBP_FLAGS = 8, 12, 20
_WEBP_ANIMATION = 0x02


def decode_image(content: Any, *, channels: int = 3) -> Any:
    """Return the pixels of a JPEG, PNG, WebP or BMP image; the bytes decide which, not a file name.

    Use it in a `map` of your own, or as `decode` of `from_tfrecords`.

    TensorFlow 2.21 decodes still WebP images only with the channels that they have, and ends the process at an
    animated one without transparency; so WebP is decoded as it is and then converted, and animations are refused.

    Args:
        content: scalar string tensor, the bytes of the file.
        channels: 1 (gray), 3 (RGB, transparency dropped) or 4 (RGBA, opaque where the file has none).

    Returns:
        uint8 tensor of shape (height, width, `channels`).

    Raises:
        tf.errors.InvalidArgumentError: damaged, animated, or another format.

    Example:
        >>> kopt.data.decode_image(tf.io.read_file("images/seven/0.png"), channels=3).shape
        TensorShape([8, 8, 3])
    """
    head = _head(content)
    image = tf.cond(
        tf.equal(tf.strings.substr(head, _WEBP_NAME, 4), b"WEBP"),
        lambda: _decode_webp(content, head, channels),
        lambda: decode_other(content, channels),
    )
    return tf.ensure_shape(image, (None, None, channels))


def decode_other(content: Any, channels: int) -> Any:
    """Return the pixels of a JPEG, PNG or BMP image, or of a still WebP image that has `channels` already."""
    if channels != _ALPHA:
        return tf.io.decode_image(content, channels=channels, expand_animations=False)
    return tf.cond(
        _is_jpeg(content),
        lambda: _with_channels(tf.io.decode_jpeg(content, channels=3), channels),
        lambda: tf.io.decode_image(content, channels=channels, expand_animations=False),
    )


def decode_window(content: Any, size: tuple[int, int], *, channels: int = 3) -> Any:
    """Return the largest centered window of an image that has the proportions of `size` (height, width).

    A JPEG decodes no more than the window. Otherwise as `decode_image`.
    """
    if channels == _ALPHA:  # TensorFlow cuts JPEG files of 1 and 3 channels only.
        return _window_of(decode_image(content, channels=channels), size)
    return tf.cond(
        _is_jpeg(content),
        lambda: tf.io.decode_and_crop_jpeg(
            content, _window(tf.io.extract_jpeg_shape(content), size), channels=channels
        ),
        lambda: _window_of(decode_image(content, channels=channels), size),
    )


def resize(image: Any, size: tuple[int, int]) -> Any:
    """Return uint8 pixels stretched to `size` (height, width), bilinear, as float32 in [0, 1].

    The same numbers as `tf.image.resize(image, size) / 255`, in fewer operations.
    """
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)[0]
    return resized / tf.constant(255, tf.float32)


def read_image(file: Path, size: tuple[int, ...] | None, channels: int) -> Array:
    """Return one image file as a float32 array in [0, 1], resized to `size` (height, width) if that is given.

    Raises:
        DataError: the file cannot be decoded; the message names it and says why.
    """
    with tf.device("/cpu:0"):
        try:
            image = decode_image(tf.constant(file.read_bytes()), channels=channels)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            raise DataError(
                f"{file} cannot be read as an image of {channels} channel(s): {_reason(error.message)}. Replace or "
                f"remove it."
            ) from error
        if size is not None:
            return resize(image, (size[0], size[1])).numpy()
        pixels: Array = np.divide(image.numpy(), np.float32(255))
    return pixels


def _reason(message: str) -> str:
    # "{{function_node ...}} <what the decoder says> [Op:DecodeImage]"
    return message.rpartition("}} ")[2].partition(" [Op:")[0].rstrip(".")


def _is_jpeg(content: Any) -> Any:
    return tf.equal(tf.strings.substr(content, 0, 3), b"\xff\xd8\xff")


def _window(shape: Any, size: tuple[int, int]) -> Any:
    """Return (top, left, height, width) of the centered window in an image of `shape`, rounded down as Keras does."""
    height, width = shape[0], shape[1]
    tall = tf.minimum(height, width * size[0] // size[1])
    wide = tf.minimum(width, height * size[1] // size[0])
    return tf.stack([(height - tall) // 2, (width - wide) // 2, tall, wide])


def _window_of(image: Any, size: tuple[int, int]) -> Any:
    top, left, tall, wide = tf.unstack(_window(tf.shape(image), size))
    return image[top : top + tall, left : left + wide]


def _head(content: Any) -> Any:
    """Return the first bytes, filled up with zeros where the file is shorter, so that each can be asked for."""
    return tf.strings.substr(content, 0, _WEBP_FLAGS + 1) + b"\0" * (_WEBP_FLAGS + 1)


def _decode_webp(content: Any, head: Any, channels: int) -> Any:
    flags = tf.io.decode_raw(tf.strings.substr(head, _WEBP_FLAGS, 1), tf.uint8)[0]
    extended = tf.equal(tf.strings.substr(head, _WEBP_CHUNK, 4), b"VP8X")
    animated = extended & (tf.bitwise.bitwise_and(flags, _WEBP_ANIMATION) > 0)
    refusal = tf.debugging.Assert(~animated, ["an animated WebP; only still ones are decoded"])
    # Nothing in eager mode, where the line above has raised already.
    with tf.control_dependencies([] if refusal is None else [refusal]):
        return _with_channels(tf.io.decode_webp(content, channels=0)[0], channels)


def _with_channels(image: Any, channels: int) -> Any:
    color = image[..., :3]
    if channels == 1:
        return tf.image.rgb_to_grayscale(color)
    if channels == 3:
        return color
    opaque = tf.fill(tf.concat([tf.shape(image)[:2], [1]], 0), tf.constant(255, tf.uint8))
    return tf.concat([image, opaque], axis=-1)[..., :4]
