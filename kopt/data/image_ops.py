"""Image augmentation as functions of a batch and explicit numbers, one number an example; nothing is drawn here.

Images are `[batch, height, width, channels]`. All work on the whole batch at once.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

# RGB to luma and two chroma axes (NTSC YIQ): grey stays grey under scaling and turning the chroma plane.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_RGB = np.linalg.inv(YIQ).astype(np.float32)
FILLS = ("reflect", "constant", "nearest", "wrap")


def geometry(
    flip_x: Any, flip_y: Any, shift_x: Any, shift_y: Any, angle: Any, zoom: Any, *, height: Any, width: Any
) -> Any:
    """Return the projective transforms, `[batch, 8]`, that flip, zoom, turn and then move images.

    With `c` the centre of the image, output pixel `p` shows input pixel `c + F R(angle) (p - c - shift) / zoom`:
    `F` mirrors an axis, `R` turns.

    Args:
        flip_x: 1.0, or -1.0 to mirror left-right.
        flip_y: 1.0, or -1.0 to mirror top-bottom.
        shift_x: how far the content moves to the right, in pixels.
        shift_y: how far it moves down, in pixels.
        angle: counter-clockwise as the image is seen, in radians.
        zoom: size of things in the output over that in the input.
        height: of the images.
        width: of the images.
    """
    centre_x, centre_y = (tf.cast(width, tf.float32) - 1.0) / 2.0, (tf.cast(height, tf.float32) - 1.0) / 2.0
    cosine, sine = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    # The vertical axis points down: seen counter-clockwise, output (1, 0) comes from input (cos, sin).
    a, b = flip_x * cosine, -flip_x * sine
    d, e = flip_y * sine, flip_y * cosine
    from_x, from_y = centre_x + shift_x, centre_y + shift_y
    c = centre_x - a * from_x - b * from_y
    f = centre_y - d * from_x - e * from_y
    zeros = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zeros, zeros], axis=1)


def move(images: Any, transforms: Any, *, smooth: bool, fill: str) -> Any:
    """Return images resampled by `transforms`.

    Args:
        images: whole numbers or floats.
        transforms: from `geometry`.
        smooth: interpolate between pixels (then rounded for whole numbers); else take the nearest one, exact where
            every pixel falls on a pixel.
        fill: what lies outside: `"reflect"`, `"constant"` (zeros), `"nearest"` or `"wrap"`.
    """
    source = tf.cast(images, tf.float32) if smooth else images
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=source,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR" if smooth else "NEAREST",
        fill_mode=fill.upper(),
    )
    return as_type(tf.ensure_shape(moved, images.shape), images.dtype)


def recolor(images: Any, brightness: Any, contrast: Any, saturation: Any, hue: Any, *, low: float, high: float) -> Any:
    """Return images with colours changed, cut to `[low, high]`.

    `x <- m + contrast (x - m) + brightness (high - low)` with `m` the mean of the image's channel; then, in the YIQ
    colour space, the chroma is scaled by `saturation` and turned by `hue` (in turns). One channel has no chroma.

    Args:
        images: one or three channels.
        brightness: added, as a part of the value range; one number an example, 0 changes nothing.
        contrast: 1 changes nothing.
        saturation: 1 changes nothing.
        hue: in turns, 0 changes nothing.
        low: the lowest pixel value.
        high: the highest.
    """
    values = tf.cast(images, tf.float32)
    mean = tf.reduce_mean(values, axis=(1, 2), keepdims=True)
    values = mean + _each(contrast) * (values - mean) + _each(brightness) * (high - low)
    if images.shape[-1] == 3:
        # The range may not begin at 0, where black is.
        values = tf.einsum("bij,bhwj->bhwi", _chroma(saturation, hue), values - low) + low
    return as_type(tf.clip_by_value(values, low, high), images.dtype)


def _chroma(saturation: Any, hue: Any) -> Any:
    cosine, sine = saturation * tf.cos(2 * math.pi * hue), saturation * tf.sin(2 * math.pi * hue)
    zeros, ones = tf.zeros_like(cosine), tf.ones_like(cosine)
    rows = [tf.stack(row, -1) for row in ((ones, zeros, zeros), (zeros, cosine, -sine), (zeros, sine, cosine))]
    return tf.einsum("ij,bjk,kl->bil", tf.constant(_RGB), tf.stack(rows, 1), tf.constant(YIQ))


def boxes(top: Any, left: Any, box_height: Any, box_width: Any, *, height: Any, width: Any) -> Any:
    """Return a boolean mask, `[batch, height, width, 1]`, true inside one box an example, cut at the borders.

    Args:
        top: first row, may be negative.
        left: first column, may be negative.
        box_height: in pixels.
        box_width: in pixels.
        height: of the images.
        width: of the images.
    """
    rows, columns = tf.range(height)[None, :], tf.range(width)[None, :]
    inside_y = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])
    inside_x = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])
    return (inside_y[:, :, None] & inside_x[:, None, :])[..., None]


def blank(images: Any, mask: Any, value: float) -> Any:
    """Return images with `value` where `mask` is true (cutout)."""
    return tf.where(mask, tf.cast(value, images.dtype), images)


def mixup(images: Any, labels: Any, partner: Any, share: Any) -> tuple[Any, Any]:
    """Return `share * own + (1 - share) * partner` for images and labels.

    Args:
        images: of any type; whole numbers are rounded.
        labels: float rows, `[batch, classes]`.
        partner: position of each example's partner in the batch.
        share: in [0, 1], one an example.
    """
    own, other = tf.cast(images, tf.float32), tf.cast(tf.gather(images, partner), tf.float32)
    mixed = other + _each(share) * (own - other)
    return as_type(mixed, images.dtype), _mixed_labels(labels, partner, share)


def cutmix(images: Any, labels: Any, partner: Any, mask: Any) -> tuple[Any, Any]:
    """Return images with the partner's pixels where `mask` is true, and labels mixed by the area of each."""
    share = 1.0 - tf.reduce_mean(tf.cast(mask, tf.float32), axis=(1, 2, 3))
    mixed = tf.where(mask, tf.gather(images, partner), images)
    return mixed, _mixed_labels(labels, partner, share)


def as_type(values: Any, dtype: Any) -> Any:
    """Return `values` in `dtype`; whole numbers are rounded and kept inside the range of the type."""
    if values.dtype == dtype:
        return values
    if dtype.is_integer:
        return tf.saturate_cast(tf.round(values), dtype)
    return tf.cast(values, dtype)


def _mixed_labels(labels: Any, partner: Any, share: Any) -> Any:
    weight = tf.cast(share, labels.dtype)[:, None]
    return weight * labels + (1 - weight) * tf.gather(labels, partner)


def _each(values: Any) -> Any:
    return tf.reshape(values, [-1, 1, 1, 1])
