"""Random changes of image batches inside the `tf.data` graph, the same from run to run under a seed."""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, nearest
from kopt.core.serialization import Record
from kopt.data import image_ops
from kopt.data.seeds import with_seeds

_FLIPS = ("horizontal", "vertical", "both")
_log = logging.getLogger("kopt.data")


@dataclasses.dataclass(frozen=True)
class Augmentation(Record):
    """Random changes of images; pass it as `augment=` of the builders of `kopt.data`.

    What is not named is left out. The order is fixed: flip, zoom, turn and move in one resampling; colour; cutout; then
    MixUp or CutMix. Every example gets numbers of its own, drawn from `(seed, epoch, batch)`, so that the stream is
    the same bit for bit in every run with the same `seed`, whatever runs in parallel.

    Attributes:
        flip: `"horizontal"`, `"vertical"` or `"both"`, each with probability 1/2.
        crop: cut the image out of one that is larger by this many pixels on every side, filled by `fill`: moves it by
            up to so many pixels in each direction.
        rotate: largest angle to either side, in degrees.
        zoom: sizes are multiplied by a number in `[1 - zoom, 1 + zoom]`.
        brightness: a number in `[-brightness, brightness]` times the value range is added.
        contrast: multiplied by a number in `[1 - value, 1 + value]`.
        saturation: the same.
        hue: colours are turned by a number in `[-hue, hue]` turns, at most 0.5.
        cutout: side in pixels of a square that is blanked out (set to zero), which may reach over the border.
        mixup: `alpha` of MixUp: two examples are mixed by a share from Beta(alpha, alpha); 0.2 is usual.
        cutmix: `alpha` of CutMix: a box is replaced by another example's; 1.0 is usual. With both, each batch gets one
            of the two at random.
        num_classes: for MixUp and CutMix of whole-number labels, which become rows of that many shares: train with
            `CategoricalCrossentropy`, not with the sparse one.
        fill: what lies outside a moved image: `"reflect"`, `"constant"` (zeros), `"nearest"` or `"wrap"`.
        value_range: lowest and highest pixel value; for whole numbers 0 and 255. Colour changes of floats need it.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> augment = kopt.data.Augmentation(flip="horizontal", crop=2, cutout=3)
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64, augment=augment, seed=0)
        >>> (epoch_1, _), (epoch_2, _) = next(iter(train)), next(iter(train))
        >>> epoch_1.shape, bool(np.all(epoch_1 == epoch_2))
        (TensorShape([64, 8, 8, 1]), False)

    Sources: MixUp https://arxiv.org/abs/1710.09412, CutMix https://arxiv.org/abs/1905.04899, Cutout
    https://arxiv.org/abs/1708.04552.
    """

    flip: str | None = None
    crop: int = 0
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    num_classes: int | None = None
    fill: str = "reflect"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.flip is not None and self.flip not in _FLIPS:
            raise ConfigError(f"Unknown flip {self.flip!r}.{nearest(self.flip, _FLIPS)} Accepted: {', '.join(_FLIPS)}.")
        if self.fill not in image_ops.FILLS:
            raise ConfigError(
                f"Unknown fill {self.fill!r}.{nearest(self.fill, image_ops.FILLS)} "
                f"Accepted: {', '.join(image_ops.FILLS)}."
            )
        for name in ("crop", "cutout"):
            _check_whole(name, getattr(self, name), 0)
        for name, largest in _LIMITS.items():
            _check_number(name, getattr(self, name), largest)
        if self.num_classes is not None:
            _check_whole("num_classes", self.num_classes, 2)
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"`value_range` must be (lowest, highest). Received: {self.value_range!r}.")
        if not (self.moves or self.recolors or self.cutout or self.mixes):
            raise ConfigError("The augmentation changes nothing. Name at least one change, e.g. `flip='horizontal'`.")

    @property
    def resamples(self) -> bool:
        """Whether pixels are interpolated."""
        return bool(self.rotate or self.zoom)

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return bool(self.flip or self.crop or self.resamples)

    @property
    def recolors(self) -> bool:
        """Whether pixels change their value by colour."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def mixes(self) -> bool:
        """Whether labels become shares."""
        return bool(self.mixup or self.cutmix)


_LIMITS = {
    "rotate": 180.0,
    "zoom": 0.9,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.5,
    "mixup": math.inf,
    "cutmix": math.inf,
}


def apply_augment(
    dataset: tf.data.Dataset, augment: Augmentation | Callable[..., Any] | None, seed: int | None
) -> tf.data.Dataset:
    """Return batches changed by `augment`: an `Augmentation`, or a function of a batch; `None` changes nothing.

    Raises:
        ConfigError: `augment` is neither, or asks for what the images or labels do not allow.
        DataError: there is not exactly one batch of images.
    """
    if augment is None:
        return dataset
    if isinstance(augment, Augmentation):
        check_fits(augment, dataset.element_spec)
        if augment.mixes and _labels_are_whole(dataset.element_spec):
            _log.warning(
                "Labels become rows of %d shares: train with CategoricalCrossentropy (not Sparse...), and measure "
                "CategoricalAccuracy.",
                augment.num_classes,
            )
        config = augment

        def augmentation(element: Any, pair: Any) -> Any:
            return augmented(config, element, pair)

        seeded = with_seeds(dataset, seed)
        return seeded.map(augmentation, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if not callable(augment):
        raise ConfigError(
            f"`augment` must be a `kopt.data.Augmentation` or a function of a batch. Received: {augment!r} "
            f"({type(augment).__name__})."
        )
    return dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def augmented(augment: Augmentation, element: Any, pair: Any) -> Any:
    """Return one batch changed by numbers drawn from `pair`: the same batch for the same pair.

    Args:
        augment: what to do.
        element: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, where `x` holds one `[batch, height, width,
            channels]`.
        pair: int64 tensor of shape `[2]`.
    """
    parts = list(element) if isinstance(element, tuple) else [element]
    leaves = tf.nest.flatten(parts[0])
    place = next(i for i, leaf in enumerate(leaves) if leaf.shape.rank == 4)
    images, draw = leaves[place], _Draw(pair, tf.shape(leaves[place])[0])
    if augment.moves:
        images = _moved(augment, images, draw)
    if augment.recolors:
        images = _recolored(augment, images, draw)
    if augment.cutout:
        images = _cut_out(augment, images, draw)
    if augment.mixes:
        images, parts[1] = _mixed(augment, images, as_rows(parts[1], augment.num_classes), draw)
    leaves[place] = images
    parts[0] = tf.nest.pack_sequence_as(parts[0], leaves)
    return tuple(parts) if isinstance(element, tuple) else parts[0]


def as_rows(labels: Any, num_classes: int | None) -> Any:
    """Return labels as float rows, one column a class; whole numbers outside `[0, num_classes)` end the pipeline."""
    if labels.dtype.is_floating:
        return labels
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes != 1:
        return tf.cast(labels, tf.float32)
    labels = tf.reshape(labels, [-1])
    top = tf.cast(num_classes, labels.dtype)
    message = f"Labels must lie in [0, {num_classes}), the `num_classes` of the augmentation."
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(labels, message),
            tf.debugging.assert_less(labels, top, message),
        ]
    ):
        return tf.one_hot(labels, num_classes or 0)


def check_fits(augment: Augmentation, spec: Any) -> None:
    """Refuse what the images and labels of `spec` do not allow, before anything runs. See `apply_augment`."""
    parts = spec if isinstance(spec, tuple) else (spec,)
    images = [leaf for leaf in tf.nest.flatten(parts[0]) if leaf.shape.rank == 4]
    if len(images) != 1:
        raise DataError(
            f"An `Augmentation` changes one batch of images [batch, height, width, channels]. Received inputs of "
            f"{parts[0]}. Batch the images and keep their channel axis, e.g. `x[..., None]`."
        )
    [image] = images
    if not (image.dtype.is_floating or image.dtype == tf.uint8):
        raise ConfigError(f"Images must be uint8 or floats. Received: {image.dtype.name}. Cast them.")
    if augment.recolors:
        if image.dtype.is_floating and augment.value_range is None:
            raise ConfigError(
                f"Colour changes of {image.dtype.name} images need their `value_range`, e.g. (0.0, 1.0), or "
                f"(0.0, 255.0) for images that are not scaled. Received: None."
            )
        if (augment.saturation or augment.hue) and image.shape[-1] != 3:
            raise ConfigError(
                f"`saturation` and `hue` need images of 3 channels. Received: {image.shape[-1]}. Leave them out."
            )
    if augment.moves:
        _check_targets_of_moved(image, parts[1:])
    if augment.mixes:
        _check_labels(augment, parts)


def _check_targets_of_moved(image: tf.TensorSpec, targets: Any) -> None:
    for leaf in tf.nest.flatten(targets):
        if leaf.shape.rank in (3, 4) and leaf.shape[1:3] == image.shape[1:3]:
            raise ConfigError(
                f"Flips, shifts, rotations and zooms move the pixels of images alone, and the targets of shape "
                f"{leaf.shape} look like maps of those pixels. Change both in a function of a batch, `augment=lambda "
                f"x, y: ...`; changes of colour need none."
            )


def _check_labels(augment: Augmentation, parts: tuple[Any, ...]) -> None:
    if len(parts) != 2 or not isinstance(parts[1], tf.TensorSpec):
        raise ConfigError(
            f"`mixup` and `cutmix` mix pairs (x, y) with one tensor of labels and no sample weights. Received "
            f"elements of {len(parts)} part(s)."
        )
    if _labels_are_whole(parts):
        if augment.num_classes is None:
            raise ConfigError(
                f"`mixup` and `cutmix` of whole-number labels need `num_classes`: labels become rows of shares. "
                f"Received labels {parts[1].dtype.name} {parts[1].shape} and num_classes=None."
            )
    elif parts[1].shape.rank != 2:
        raise ConfigError(
            f"`mixup` and `cutmix` need whole-number labels or float rows [batch, classes]. Received labels "
            f"{parts[1].dtype.name} {parts[1].shape}."
        )


def _labels_are_whole(spec: Any) -> bool:
    return bool(spec[1].dtype.is_integer)


class _Draw:
    """Numbers for one batch: each purpose has a stream of its own, so that adding a change leaves the others as is."""

    def __init__(self, pair: Any, batch: Any):
        self.pair, self.batch = pair, batch

    def seed(self, purpose: int) -> Any:
        return tf.random.experimental.stateless_fold_in(self.pair, purpose)

    def uniform(self, purpose: int, low: Any, high: Any) -> Any:
        return tf.random.stateless_uniform([self.batch], self.seed(purpose), low, high)

    def whole(self, purpose: int, low: Any, high: Any) -> Any:
        """Whole numbers in `[low, high)`."""
        return tf.random.stateless_uniform([self.batch], self.seed(purpose), low, high, tf.int32)

    def sign(self, purpose: int) -> Any:
        return tf.where(self.uniform(purpose, 0.0, 1.0) < 0.5, -1.0, 1.0)

    def beta(self, purpose: int, alpha: float) -> Any:
        """Beta(alpha, alpha) as a ratio of gamma draws."""
        draws = tf.random.stateless_gamma([2, self.batch], self.seed(purpose), alpha)
        total = draws[0] + draws[1]
        # Both draws of a tiny alpha can underflow to zero; then one side takes all.
        return tf.where(total > 0, draws[0] / tf.where(total > 0, total, 1.0), 1.0)

    def partners(self, purpose: int) -> Any:
        return tf.argsort(self.uniform(purpose, 0.0, 1.0), stable=True)


def _moved(augment: Augmentation, images: Any, draw: _Draw) -> Any:
    ones = tf.ones([draw.batch])
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    radians = augment.rotate * math.pi / 180.0
    transforms = image_ops.geometry(
        draw.sign(0) if augment.flip in ("horizontal", "both") else ones,
        draw.sign(1) if augment.flip in ("vertical", "both") else ones,
        tf.cast(draw.whole(2, -augment.crop, augment.crop + 1), tf.float32),
        tf.cast(draw.whole(3, -augment.crop, augment.crop + 1), tf.float32),
        draw.uniform(4, -radians, radians) if augment.rotate else 0.0 * ones,
        draw.uniform(5, 1.0 - augment.zoom, 1.0 + augment.zoom) if augment.zoom else ones,
        height=height,
        width=width,
    )
    return image_ops.move(images, transforms, smooth=augment.resamples, fill=augment.fill)


def _recolored(augment: Augmentation, images: Any, draw: _Draw) -> Any:
    low, high = augment.value_range or (0.0, 255.0)

    def around(purpose: int, middle: float, width: float) -> Any:
        return draw.uniform(purpose, middle - width, middle + width) if width else tf.fill([draw.batch], middle)

    return image_ops.recolor(
        images,
        around(6, 0.0, augment.brightness),
        around(7, 1.0, augment.contrast),
        around(8, 1.0, augment.saturation),
        around(9, 0.0, augment.hue),
        low=low,
        high=high,
    )


def _cut_out(augment: Augmentation, images: Any, draw: _Draw) -> Any:
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    side = tf.fill([draw.batch], augment.cutout)
    top = draw.whole(10, 0, height) - augment.cutout // 2
    left = draw.whole(11, 0, width) - augment.cutout // 2
    return image_ops.blank(images, image_ops.boxes(top, left, side, side, height=height, width=width), 0.0)


def _mixed(augment: Augmentation, images: Any, labels: Any, draw: _Draw) -> tuple[Any, Any]:
    partner = draw.partners(12)
    if not augment.cutmix:
        return image_ops.mixup(images, labels, partner, draw.beta(13, augment.mixup))
    if not augment.mixup:
        return image_ops.cutmix(images, labels, partner, _patch(augment, images, draw))
    return tf.cond(
        tf.random.stateless_uniform([], draw.seed(17)) < 0.5,
        lambda: image_ops.mixup(images, labels, partner, draw.beta(13, augment.mixup)),
        lambda: image_ops.cutmix(images, labels, partner, _patch(augment, images, draw)),
    )


def _patch(augment: Augmentation, images: Any, draw: _Draw) -> Any:
    """A box of area `1 - share` around a random pixel, cut at the borders as in the paper."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    side = tf.sqrt(1.0 - draw.beta(14, augment.cutmix))
    box_height = tf.cast(side * tf.cast(height, tf.float32), tf.int32)
    box_width = tf.cast(side * tf.cast(width, tf.float32), tf.int32)
    top = draw.whole(15, 0, height) - box_height // 2
    left = draw.whole(16, 0, width) - box_width // 2
    return image_ops.boxes(top, left, box_height, box_width, height=height, width=width)


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"`{name}` must be a whole number of at least {least}. Received: {value!r}.")


def _check_number(name: str, value: Any, largest: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (0.0 <= value <= largest)
        or value == math.inf
    ):
        limit = f"in [0, {largest:g}]" if largest < math.inf else "of at least 0"
        raise ConfigError(f"`{name}` must be a number {limit}. Received: {value!r}.")
