import io
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kopt.core.errors import ConfigError, DataError
from kopt.data import decode_image, from_images, image_classes, load_folder, skipped_files
from kopt.data.augmentation import Augmentation

SIZE = (6, 8)


def picture(seed, size=(20, 30), channels=3):
    # Smooth, so that JPEG keeps it, and different in every corner, so that a wrong crop or stretch shows.
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    base = 40 + 5 * rows[..., None] + 3 * columns[..., None] + seed % 50 + 10 * np.arange(channels)
    return np.clip(base, 0, 255).astype(np.uint8)


def write(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if file.suffix == ".png" else lambda pixels: tf.io.encode_jpeg(pixels, quality=95)
    file.write_bytes(encode(image).numpy())


def damage(file):
    file.write_bytes(file.read_bytes()[:-30])


def encoded(image, format, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Five JPEG files of class "a" and five PNG files of class "b", all different."""
    for number in range(5):
        write(tmp_path / "a" / f"{number}.jpg", picture(number))
        write(tmp_path / "b" / f"{number}.png", picture(10 + number, size=(40, 30)))
    return tmp_path


def numbers(dataset):
    """The images of an epoch as the means of their pixels, which differ from image to image."""
    return [round(float(image.mean()), 4) for x, _ in dataset.as_numpy_iterator() for image in x]


@pytest.mark.slow
def test_the_same_images_as_keras_and_load_folder(folder):
    ours = from_images(folder, image_size=SIZE, batch_size=4)
    theirs = keras.utils.image_dataset_from_directory(
        folder, image_size=SIZE, batch_size=4, shuffle=False, verbose=False
    )
    assert image_classes(folder) == tuple(theirs.class_names) == ("a", "b")
    assert ours.cardinality() == 3
    assert ours.element_spec[0] == tf.TensorSpec((None, *SIZE, 3), tf.float32)
    for (x, y), (x_keras, y_keras) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, x_keras / 255, atol=1e-6)
        np.testing.assert_array_equal(y, y_keras)
    split = load_folder(folder, image_size=SIZE, validation_fraction=0.2, seed=0).train
    held = {image.tobytes() for x, _ in ours.as_numpy_iterator() for image in x}
    assert len(held) == 10
    assert all(image.tobytes() in held for image in split.x)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(6, 8), (9, 3)])
def test_cropped_as_keras_crops(folder, size):
    ours = from_images(folder, image_size=size, batch_size=4, crop_to_aspect_ratio=True)
    theirs = keras.utils.image_dataset_from_directory(
        folder, image_size=size, batch_size=4, shuffle=False, verbose=False, crop_to_aspect_ratio=True
    )
    for (x, _), (x_keras, _) in zip(ours, theirs, strict=True):
        # A JPEG that is decoded in part differs in its outermost columns; smooth ones by little.
        np.testing.assert_allclose(x, x_keras / 255, atol=3 / 255)


def test_forms_of_labels(folder):
    one_hot = next(iter(from_images(folder, image_size=SIZE, batch_size=10, labels="categorical")))[1]
    np.testing.assert_array_equal(one_hot, np.repeat(np.eye(2, dtype=np.float32), 5, axis=0))
    binary = next(iter(from_images(folder, image_size=SIZE, batch_size=10, labels="binary")))[1]
    np.testing.assert_array_equal(binary, np.repeat(np.float32([[0], [1]]), 5, axis=0))
    alone = from_images(folder, image_size=SIZE, batch_size=4, labels=None, channels=1, drop_remainder=True)
    assert alone.element_spec == tf.TensorSpec((4, *SIZE, 1), tf.float32)
    assert len(list(alone)) == alone.cardinality() == 2
    write(folder / "c" / "0.png", picture(0))
    with pytest.raises(ConfigError, match=r'labels="binary"` needs two classes; .* has 3'):
        from_images(folder, image_size=SIZE, batch_size=4, labels="binary")


def test_shuffle_repeats_under_a_seed_and_differs_between_epochs(folder):
    first, second = (from_images(folder, image_size=SIZE, batch_size=4, shuffle=True, seed=3) for _ in range(2))
    epochs = [numbers(first), numbers(first)]
    assert epochs == [numbers(second), numbers(second)]
    assert epochs[0] != epochs[1]
    in_order = numbers(from_images(folder, image_size=SIZE, batch_size=4))
    assert len(set(in_order)) == 10
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(in_order)


def test_cache_keeps_decoded_images_and_shuffle_stays_random(folder):
    added = tf.Variable(0.0)
    dataset = from_images(
        folder,
        image_size=SIZE,
        batch_size=4,
        shuffle=True,
        seed=3,
        cache=True,
        augment=lambda x, y: (x + added.assign_add(100.0), y),
    )
    first = sorted(value % 100 for value in numbers(dataset))
    for file in (*folder.glob("*/*.jpg"), *folder.glob("*/*.png")):
        file.unlink()
    second, third = numbers(dataset), numbers(dataset)
    assert min(second) > 400, "augment runs anew, behind the cache"
    np.testing.assert_allclose(sorted(value % 100 for value in second), first, atol=1e-3)
    assert [round(value % 100, 2) for value in second] != [round(value % 100, 2) for value in third]


def test_cache_on_disk_serves_the_same_images_and_settings_only(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    expected = numbers(from_images(folder, image_size=SIZE, batch_size=4, cache=str(place)))
    for _ in range(2):
        assert numbers(from_images(folder, image_size=SIZE, batch_size=4, cache=str(place))) == expected
    write(folder / "a" / "0.jpg", picture(49))
    assert numbers(from_images(folder, image_size=SIZE, batch_size=4, cache=str(place))) != expected


@pytest.mark.slow
def test_augmentation_repeats_under_a_seed(folder):
    settings = {"image_size": SIZE, "batch_size": 4, "augment": Augmentation(brightness=0.3, value_range=(0, 1))}
    first, second = (from_images(folder, seed=1, **settings) for _ in range(2))
    assert numbers(first) == numbers(second)
    assert numbers(first) != numbers(from_images(folder, image_size=SIZE, batch_size=4))


@pytest.mark.parametrize(
    ("names", "shuffle"), [(["a/0.jpg"], True), (["a/4.jpg", "b/0.png"], False), (["b/4.png"], False)]
)
def test_a_damaged_image_is_named_or_skipped_and_counted(folder, names, shuffle):
    for name in names:
        damage(folder / name)
    settings = {"image_size": SIZE, "batch_size": 4, "shuffle": shuffle, "seed": 5}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[ab]/[04]\.(jpg|png) cannot be decoded .* 3 channel"):
        list(from_images(folder, **settings))
    skipping = from_images(folder, corrupt="skip", **settings)
    assert skipped_files(skipping).count == 0, "nothing was read yet"
    with pytest.warns(RuntimeWarning, match=r"skipped, \d so far: .*cannot be read as an image of 3 channel"):
        sizes = [len(x) for x, _ in skipping]
    assert sizes == ([4, 4, 1] if len(names) == 1 else [4, 4])
    skipped = skipped_files(skipping)
    assert sorted(skipped.names) == [str(folder / name) for name in names]
    assert all(name in reason for name, reason in skipped.reasons.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Told once, not every epoch.
        list(skipping)
    assert skipped_files(skipping) == skipped


def test_nothing_left_of_a_folder(folder):
    for file in (*folder.glob("*/*.jpg"), *folder.glob("*/*.png")):
        file.write_bytes(b"no image")
    dataset = from_images(folder, image_size=SIZE, batch_size=4, corrupt="skip", drop_remainder=True)
    with pytest.raises(tf.errors.OpError, match=r"None of the 10 files can be read. The first: .*a/0\.jpg"):
        list(dataset)


def test_skipped_files_wants_the_data_set_itself(folder):
    with pytest.raises(ConfigError, match="before any `map`"):
        skipped_files(from_images(folder, image_size=SIZE, batch_size=4))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_and_number_of_channels(channels):
    color, clear = picture(0), picture(0, channels=4)
    gray = 0.299 * color[..., 0] + 0.587 * color[..., 1] + 0.114 * color[..., 2]
    opaque = np.concatenate([color, np.full((*color.shape[:2], 1), 255, np.uint8)], axis=-1)
    expected = {1: gray[..., None], 3: color, 4: opaque}[channels]
    files = {
        "png": encoded(color, "PNG"),
        "jpeg": encoded(color, "JPEG", quality=100, subsampling=0),
        "lossless webp": encoded(color, "WEBP", lossless=True),
    }
    if channels == 3:
        files["bmp"] = encoded(color, "BMP")
    for name, content in files.items():
        image = decode_image(tf.constant(content), channels=channels)
        assert image.dtype == tf.uint8
        np.testing.assert_allclose(image.numpy().astype(float), expected, atol=4, err_msg=name)
    transparent = decode_image(tf.constant(encoded(clear, "WEBP", lossless=True, exact=True)), channels=channels)
    np.testing.assert_allclose(transparent.numpy(), clear if channels == 4 else expected, atol=1)


@pytest.mark.parametrize("channels", [3, 4])
def test_animated_webp_is_refused_instead_of_ending_the_process(folder, channels):
    # TensorFlow 2.21 aborts in `decode_webp(content, channels=0)` for this file.
    first, second = Image.fromarray(picture(0)), Image.fromarray(picture(30))
    first.save(folder / "a" / "9.webp", save_all=True, append_images=[second])
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated WebP"):
        decode_image(tf.constant((folder / "a" / "9.webp").read_bytes()), channels=channels)
    with pytest.raises(DataError, match=r"9\.webp cannot be read .* animated WebP"):
        load_folder(folder, image_size=SIZE, channels=channels)


def test_webp_files_in_a_folder(folder):
    (folder / "b" / "9.webp").write_bytes(encoded(picture(0), "WEBP", lossless=True))
    (folder / "b" / "8.jpg").write_bytes(encoded(picture(0, channels=4), "WEBP", lossless=True))  # The bytes decide.
    x = np.concatenate([x for x, _ in from_images(folder, image_size=(20, 30), batch_size=4)])
    np.testing.assert_array_equal(x[-1], picture(0) / np.float32(255))
    np.testing.assert_array_equal(x[-2], picture(0) / np.float32(255))


def test_folders_that_hold_no_data_set(tmp_path):
    settings = {"image_size": SIZE, "batch_size": 4}
    with pytest.raises(DataError, match="is not a folder"):
        from_images(tmp_path / "absent", **settings)
    with pytest.raises(DataError, match=r"0 class folder\(s\)"):
        from_images(tmp_path, **settings)
    write(tmp_path / "a" / "0.png", picture(0))
    with pytest.raises(DataError, match=r"1 class folder\(s\) \(a\)"):
        from_images(tmp_path, **settings)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b holds no images"):
        from_images(tmp_path, **settings)
    write(tmp_path / "b" / "0.png", picture(0))
    with pytest.raises(DataError, match="2 examples do not fill one batch of 4"):
        from_images(tmp_path, drop_remainder=True, **settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "`batch_size` .* Received: 0"),
        ({"image_size": 224}, r"`image_size` must be \(height, width\)"),
        ({"image_size": (224, 0)}, r"Received: \(224, 0\)"),
        ({"channels": 2}, "`channels` must be 1 .* Received: 2"),
        ({"labels": "catgorical"}, "Unknown `labels`: 'catgorical'. Did you mean 'categorical'"),
        ({"corrupt": "ignore"}, "`corrupt` must be one of raise, skip.* Received: 'ignore'"),
        ({"cache": "aut"}, "'auto'"),
    ],
)
def test_impossible_settings(folder, setting, message):
    with pytest.raises(ConfigError, match=message):
        from_images(folder, **{"image_size": SIZE, "batch_size": 4, **setting})
