import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError
from kopt.data import Augmentation, from_arrays, image_ops
from kopt.data.augmentation import apply_augment, augmented

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 7, 6, 3)).astype(np.float32)
ALL = Augmentation(
    flip="both",
    crop=2,
    rotate=20.0,
    zoom=0.2,
    brightness=0.2,
    contrast=0.3,
    saturation=0.4,
    hue=0.1,
    cutout=3,
    mixup=0.4,
    cutmix=1.0,
    num_classes=4,
    value_range=(0.0, 1.0),
)


def each(*values):
    return tf.constant(values, tf.float32)


def moved(images, *, flip_x=1.0, flip_y=1.0, right=0.0, down=0.0, angle=0.0, zoom=1.0, smooth=False, fill="constant"):
    images = tf.constant(images)
    numbers = [tf.fill([len(images)], float(value)) for value in (flip_x, flip_y, right, down, angle, zoom)]
    transforms = image_ops.geometry(*numbers, height=images.shape[1], width=images.shape[2])
    return image_ops.move(images, transforms, smooth=smooth, fill=fill).numpy()


def test_flips_are_numpys():
    np.testing.assert_array_equal(moved(IMAGES, flip_x=-1), IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(moved(IMAGES, flip_y=-1), IMAGES[:, ::-1])


def test_moving_is_padding_and_cropping():
    # 2 to the right and 1 up: a crop, from an image padded by 2 all round, that begins at row 2 + 1, column 2 - 2.
    for fill, mode in (("constant", "constant"), ("reflect", "symmetric"), ("nearest", "edge"), ("wrap", "wrap")):
        padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode)
        np.testing.assert_array_equal(moved(IMAGES, right=2, down=-1, fill=fill), padded[:, 3:10, 0:6], err_msg=fill)


def test_a_quarter_turn_is_counter_clockwise():
    square = IMAGES[:, :6]
    turned = moved(square, angle=math.pi / 2, smooth=True)
    np.testing.assert_allclose(turned[:, 1:-1, 1:-1], np.rot90(square, axes=(1, 2))[:, 1:-1, 1:-1], atol=1e-5)


def reference_pixel(image, x, y):
    """Bilinear, zero outside, one pixel, by the definition."""
    total = np.zeros(image.shape[-1])
    for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
            total += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return total


def test_everything_at_once_follows_the_formula():
    angle, zoom, right, down = 0.3, 1.25, 1.0, -2.0
    result = moved(IMAGES, flip_x=-1, right=right, down=down, angle=angle, zoom=zoom, smooth=True)
    centre = np.array([(6 - 1) / 2, (7 - 1) / 2])
    # The vertical axis points down, so this matrix turns what is seen counter-clockwise by `angle`.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for n, i, j in itertools.product(range(3), range(7), range(6)):
        point = np.array([j, i]) - centre - (right, down)
        source = centre + np.diag([-1.0, 1.0]) @ turn @ point / zoom
        np.testing.assert_allclose(result[n, i, j], reference_pixel(IMAGES[n], *source), atol=1e-5)


def test_zoom_makes_things_larger():
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 3:6, 3:6] = 1.0  # 3 x 3
    assert moved(image, zoom=2.0, smooth=True).sum() == pytest.approx(4 * 9, rel=0.05)


def test_whole_numbers_are_rounded_when_interpolated():
    image = np.array([[[[0], [255]]]], np.uint8)
    result = moved(image, right=0.5, smooth=True, fill="nearest")
    assert result.dtype == np.uint8
    assert result.ravel().tolist() == [0, 128], "127.5 to even"


def test_colours_follow_the_formula():
    brightness, contrast, saturation, hue = each(0.1, -0.1, 0), each(1.2, 0.7, 1), each(0.5, 1.4, 1), each(0.1, -0.2, 0)
    result = image_ops.recolor(tf.constant(IMAGES), brightness, contrast, saturation, hue, low=0.0, high=2.0).numpy()
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    for n in range(3):
        mean = IMAGES[n].mean(axis=(0, 1))
        adjusted = mean + float(contrast[n]) * (IMAGES[n] - mean) + float(brightness[n]) * 2.0
        cosine, sine = math.cos(2 * math.pi * hue[n]), math.sin(2 * math.pi * hue[n])
        chroma = float(saturation[n]) * np.array([[cosine, -sine], [sine, cosine]])
        for i, j in itertools.product(range(7), range(6)):
            y, *colour = yiq @ adjusted[i, j]
            expected = np.linalg.solve(yiq, [y, *(chroma @ colour)])
            np.testing.assert_allclose(result[n, i, j], np.clip(expected, 0.0, 2.0), atol=2e-5)
    np.testing.assert_allclose(result[2], IMAGES[2], atol=1e-5, err_msg="0, 1, 1, 0 change nothing")


def test_grey_stays_grey_and_one_channel_has_no_colour():
    grey = np.repeat(IMAGES[..., :1], 3, axis=-1)
    result = image_ops.recolor(tf.constant(grey), *[each(*[v] * 3) for v in (0, 1, 1.8, 0.3)], low=0.0, high=1.0)
    np.testing.assert_allclose(result, grey, atol=2e-3)  # the published YIQ rows sum to 0 to three digits
    single = tf.constant(IMAGES[..., :1])
    same = image_ops.recolor(single, *[each(*[v] * 3) for v in (0, 1, 1.8, 0.3)], low=0.0, high=1.0)
    np.testing.assert_allclose(same, single, atol=1e-6)


def test_boxes_are_cut_at_the_border():
    top, left = tf.constant([-1, 5]), tf.constant([2, -3])
    mask = image_ops.boxes(top, left, tf.constant([3, 9]), tf.constant([2, 4]), height=7, width=6).numpy()
    expected = np.zeros((2, 7, 6, 1), bool)
    expected[0, 0:2, 2:4] = True
    expected[1, 5:7, 0:1] = True
    np.testing.assert_array_equal(mask, expected)
    blanked = image_ops.blank(tf.constant(IMAGES[:2]), tf.constant(mask), 0.0).numpy()
    np.testing.assert_array_equal(blanked, np.where(expected, 0.0, IMAGES[:2]))


def test_mixup_and_cutmix_mix_labels_by_share_and_area():
    labels, partner, share = np.eye(3, dtype=np.float32), np.array([2, 0, 1]), np.array([0.75, 0.5, 1.0], np.float32)
    images, rows = image_ops.mixup(tf.constant(IMAGES), tf.constant(labels), partner, tf.constant(share))
    for n in range(3):
        own, other = share[n], 1 - share[n]
        np.testing.assert_allclose(images[n], own * IMAGES[n] + other * IMAGES[partner[n]], atol=1e-6)
        np.testing.assert_allclose(rows[n], own * labels[n] + other * labels[partner[n]], atol=1e-6)
    mask = np.zeros((3, 7, 6, 1), bool)
    mask[0, :2, :3] = True  # 6 of 42 pixels
    images, rows = image_ops.cutmix(tf.constant(IMAGES), tf.constant(labels), partner, tf.constant(mask))
    np.testing.assert_array_equal(images[0], np.where(mask[0], IMAGES[2], IMAGES[0]))
    np.testing.assert_allclose(rows[0], [36 / 42, 0, 6 / 42], atol=1e-6)
    np.testing.assert_array_equal(rows[1], labels[1])


def epochs(augment=ALL, *, seed=5, count=2, dtype=np.float32, batch_size=4):
    images = np.random.default_rng(1).random((10, 8, 8, 3))
    images = (images * 255).astype(dtype) if dtype == np.uint8 else images.astype(dtype)
    dataset = from_arrays(images, np.arange(10) % 4, batch_size=batch_size, augment=augment, seed=seed)
    return [[tuple(part.numpy() for part in batch) for batch in dataset] for _ in range(count)]


def same(one, two):
    return all(np.array_equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_seed_gives_the_same_stream_and_epochs_differ(dtype):
    first, second = epochs(dtype=dtype), epochs(dtype=dtype)
    assert all(map(same, first, second))
    assert not same(*first)
    assert not same(first[0], epochs(dtype=dtype, seed=6)[0])
    images, labels = first[0][0]
    assert images.dtype == dtype
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_parallelism_changes_nothing():
    images = tf.constant(np.random.default_rng(1).random((40, 8, 8, 3)).astype(np.float32))

    def run(threads):
        source = tf.data.Dataset.from_tensor_slices((images, tf.range(40) % 4)).batch(2)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.autotune.enabled = threads > 1
        return list(apply_augment(source, ALL, 3).with_options(options).as_numpy_iterator())

    assert same(run(1), run(8))


def test_examples_of_one_batch_differ():
    # One image 64 times; positions in [-2, 2]^2 and two flips give 50 results: nearly all should occur.
    image = np.repeat(np.random.default_rng(1).random((1, 8, 8, 1)), 64, axis=0).astype(np.float32)
    pair = tf.constant([1, 2], tf.int64)
    result = augmented(Augmentation(flip="horizontal", crop=2), tf.constant(image), pair).numpy()
    assert len({one.tobytes() for one in result}) > 25


def test_the_draws_have_their_distributions():
    count = 20_000
    images = tf.ones([count, 1, 1, 1])
    labels = tf.one_hot(tf.range(count) % 2, 2)
    # Own and partner's class differ for half of the examples; there the first share is Beta(0.4, 0.4) distributed:
    # mean 1/2, variance 1 / (4 (2 * 0.4 + 1)) = 0.1389.
    _, rows = augmented(Augmentation(mixup=0.4), (images, labels), tf.constant([3, 4], tf.int64))
    shares = rows.numpy()[:, 0][(rows.numpy()[:, 0] > 0) & (rows.numpy()[:, 0] < 1)]
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * 1.8), rel=0.05)


def test_structures_are_kept():
    pair = tf.constant([1, 2], tf.int64)
    flip = Augmentation(flip="horizontal")
    images = tf.constant(IMAGES)
    assert isinstance(augmented(flip, images, pair), tf.Tensor)
    x, y, weight = augmented(flip, ({"image": images, "id": tf.range(3)}, tf.range(3), tf.ones(3)), pair)
    assert set(x) == {"image", "id"}
    assert y.shape == weight.shape == (3,)


@pytest.mark.slow
def test_mixed_whole_number_labels_are_announced(caplog):
    spec = tf.data.Dataset.from_tensors((tf.constant(IMAGES), tf.constant([0, 1, 2])))
    apply_augment(spec, Augmentation(mixup=0.2, num_classes=3), 0)
    assert "CategoricalCrossentropy (not Sparse" in caplog.text


def test_labels_outside_the_classes_end_the_pipeline():
    dataset = from_arrays(IMAGES, np.array([0, 1, 3]), batch_size=3, augment=Augmentation(mixup=0.2, num_classes=3))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must lie in \[0, 3\)"):
        list(dataset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "changes nothing"),
        ({"flip": "horizontl"}, "Did you mean 'horizontal'"),
        ({"crop": -1}, "whole number of at least 0. Received: -1"),
        ({"crop": 1.5}, "Received: 1.5"),
        ({"rotate": 200.0}, r"in \[0, 180\]. Received: 200.0"),
        ({"zoom": math.nan}, "Received: nan"),
        ({"hue": 0.6}, r"in \[0, 0.5\]"),
        ({"mixup": -1}, "of at least 0"),
        ({"mixup": True}, "Received: True"),
        ({"mixup": 0.2, "num_classes": 1}, "at least 2"),
        ({"flip": "both", "fill": "mirror"}, "Unknown fill 'mirror'"),
        ({"flip": "both", "value_range": (1.0, 0.0)}, "lowest, highest"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**settings)


def test_the_record_reads_back():
    assert Augmentation.from_json(ALL.to_json()) == ALL


@pytest.mark.parametrize(
    ("settings", "element", "error", "message"),
    [
        ({"flip": "both"}, tf.zeros([2, 8, 8]), DataError, r"x\[..., None\]"),
        ({"flip": "both"}, (tf.zeros([2, 8]), tf.zeros(2)), DataError, "one batch of images"),
        ({"flip": "both"}, tf.zeros([2, 8, 8, 3], tf.int32), ConfigError, "uint8 or floats. Received: int32"),
        ({"brightness": 0.1}, tf.zeros([2, 8, 8, 3]), ConfigError, "value_range"),
        ({"hue": 0.1}, tf.zeros([2, 8, 8, 1], tf.uint8), ConfigError, "3 channels. Received: 1"),
        ({"mixup": 0.1}, tf.zeros([2, 8, 8, 3]), ConfigError, r"pairs \(x, y\)"),
        ({"mixup": 0.1}, (tf.zeros([2, 8, 8, 3]), tf.zeros(2, tf.int32)), ConfigError, "need `num_classes`"),
        ({"cutmix": 0.1}, (tf.zeros([2, 8, 8, 3]), tf.zeros(2)), ConfigError, r"float rows \[batch, classes\]"),
        ({"cutmix": 0.1}, (tf.zeros([2, 8, 8, 3]), tf.zeros(2), tf.zeros(2)), ConfigError, "no sample weights"),
    ],
)
def test_data_that_does_not_suit(settings, element, error, message):
    with pytest.raises(error, match=message):
        apply_augment(tf.data.Dataset.from_tensors(element), Augmentation(**settings), 0)


def test_an_augment_that_is_no_function():
    with pytest.raises(ConfigError, match=r"'flip' \(str\)"):
        from_arrays(IMAGES, batch_size=2, augment="flip")


@pytest.mark.parametrize("targets", [IMAGES[..., :1], IMAGES[..., 0]])
def test_maps_of_pixels_are_not_left_where_pixels_were(targets):
    with pytest.raises(ConfigError, match="look like maps of those pixels"):
        from_arrays(IMAGES, targets, batch_size=3, augment=Augmentation(flip="horizontal"))
    brighter = Augmentation(brightness=0.1, value_range=(0.0, 1.0))
    _, kept = next(iter(from_arrays(IMAGES, targets, batch_size=3, augment=brighter)))
    np.testing.assert_array_equal(kept, targets)
