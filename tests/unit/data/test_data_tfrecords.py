import json
import struct
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from processes import start_program

from kopt.core.errors import ConfigError, DataError, OutputExistsError
from kopt.core.records.training.data import TFRecordManifest
from kopt.data import check_tfrecords, from_arrays, from_tfrecords, write_tfrecords
from kopt.data.tfrecord_framing import detect_compression, first_record, masked_crc32c, walk
from kopt.data.tfrecord_schema import feature_schema, serialize

X = np.arange(60, dtype=np.float32).reshape(20, 3)
Y = np.arange(20)
SCHEMA = {"x": tf.io.FixedLenFeature([3], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}
KINDS = ["", "GZIP", "ZLIB"]
WHOLE = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES = [*WHOLE, "float16", "bfloat16", "float32", "float64", "complex64"]


def example(**values):
    lists = {"i": ("int64_list", tf.train.Int64List), "f": ("float_list", tf.train.FloatList)}
    features = {}
    for name, value in values.items():
        array = np.ravel(value)
        field, kind = lists.get(array.dtype.kind, ("bytes_list", tf.train.BytesList))
        features[name] = tf.train.Feature(**{field: kind(value=array.tolist())})
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_file(path, records, kind=""):
    with tf.io.TFRecordWriter(str(path), kind) as writer:
        for record in records:
            writer.write(record)
    return path


def labels(dataset):
    return np.concatenate([y for _, y in dataset.as_numpy_iterator()]).tolist()


@pytest.fixture
def files(tmp_path):
    """Two files with the examples 0 to 9 and 10 to 19, as another program would write them."""
    for number in range(2):
        rows = range(10 * number, 10 * number + 10)
        write_file(tmp_path / f"train-{number}.tfrecord", [example(x=X[row], y=Y[row]) for row in rows])
    return tmp_path


# Framing


def test_checksum_is_the_published_one():
    # RFC 3720, B.4: 32 bytes of zeros have CRC-32C 8a9136aa, of ones 62a8ab43, counted up 46dd794e.
    crcs = np.array([0x8A9136AA, 0x62A8AB43, 0x46DD794E], np.uint64)
    data = np.stack([np.zeros(32), np.full(32, 255), np.arange(32)]).astype(np.uint8)
    rotated = ((crcs >> np.uint64(15)) | (crcs << np.uint64(17))) % 2**32
    np.testing.assert_array_equal(masked_crc32c(data), (rotated + 0xA282EAD8) % 2**32)


@pytest.mark.parametrize("kind", KINDS)
def test_walk_finds_what_tensorflow_reads(tmp_path, kind):
    random = np.random.default_rng(0)
    records = [random.bytes(int(size)) for size in random.integers(0, 3000, 200)]
    file = write_file(tmp_path / "file", records, kind)
    framing = walk(file, kind)
    assert framing.damage == ""
    read = list(tf.data.TFRecordDataset(str(file), kind).as_numpy_iterator())
    assert framing.lengths.tolist() == [len(record) for record in read]
    assert first_record(file, kind) == read[0]
    assert detect_compression(file) == kind


def test_every_cut_of_a_file_is_found(tmp_path):
    file = write_file(tmp_path / "file", [b"a" * 5, b"", b"b" * 9])
    content = file.read_bytes()
    begins = [0, 21, 37, 62]  # 16 bytes of frame and 5, 0 and 9 of data
    assert len(content) == begins[-1]
    for size in range(len(content)):
        file.write_bytes(content[:size])
        framing = walk(file, "")
        whole = sum(size >= end for end in begins[1:])
        assert len(framing.lengths) == whole
        assert framing.damage.startswith(f"offset {begins[whole]}: the file ends inside record {whole}") or (
            size in begins and framing.damage == ""
        )


def test_a_wrong_length_is_found_where_it_stands(tmp_path):
    file = write_file(tmp_path / "file", [b"a" * 5, b"b" * 9])
    content = bytearray(file.read_bytes())
    for value in (content[21] ^ 1, 255):
        file.write_bytes(content[:21] + bytes([value]) + content[22:])
        assert walk(file, "").damage == "offset 21: the checksum of its length is wrong"
    file.write_bytes(b"this is a text, no TFRecord")
    assert walk(file, "").damage.startswith("offset 0: the checksum of its length is wrong (no TFRecord")


def test_a_record_whose_length_looks_like_gzip(tmp_path):
    # 1f 8b begins a gzip file, and a record of 35,615 bytes.
    file = write_file(tmp_path / "file", [b"a" * struct.unpack("<H", b"\x1f\x8b")[0]])
    assert file.read_bytes()[:2] == b"\x1f\x8b"
    assert detect_compression(file) == ""


# Reading


def test_files_of_another_program(files):
    dataset = from_tfrecords(
        files / "train-*.tfrecord", features=SCHEMA, batch_size=8, parse=lambda f: (2 * f["x"], f["y"])
    )
    assert dataset.cardinality() == 3
    batches = list(dataset.as_numpy_iterator())
    assert np.concatenate([y for _, y in batches]).tolist() == Y.tolist(), "less than a block in a file"
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), 2 * X)
    plain = next(iter(from_tfrecords(files / "train-0.tfrecord", features=SCHEMA, batch_size=4, drop_remainder=True)))
    assert sorted(plain) == ["x", "y"]
    assert plain["x"].shape == (4, 3)


def test_decode_works_on_single_examples(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    write_file(tmp_path / "a.tfrecord", [example(image=tf.io.encode_png(image).numpy(), y=3) for image in images])
    features = {"image": tf.io.FixedLenFeature([], tf.string), "y": tf.io.FixedLenFeature([], tf.int64)}

    def decode(f):
        return tf.ensure_shape(tf.io.decode_png(f["image"]), (4, 5, 3)), f["y"]

    for cache in (None, True):
        dataset = from_tfrecords(tmp_path, features=features, batch_size=4, decode=decode, cache=cache)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in dataset.as_numpy_iterator()]), images)


@pytest.mark.parametrize("cache", [None, True])
def test_shuffle_repeats_under_a_seed_and_differs_between_epochs(files, cache):
    settings = {"features": SCHEMA, "batch_size": 6, "parse": lambda f: (f["x"], f["y"]), "cache": cache}
    first, second = (from_tfrecords(files, shuffle=True, seed=3, **settings) for _ in range(2))
    epochs = [labels(first), labels(first)]
    assert epochs == [labels(second), labels(second)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert labels(from_tfrecords(files, shuffle=4, seed=3, **settings)) != epochs[0]


def test_augment_comes_last(files):
    dataset = from_tfrecords(
        files,
        features=SCHEMA,
        batch_size=20,
        parse=lambda f: (f["x"], f["y"]),
        cache=True,
        augment=lambda x, y: (x, -y),
    )
    assert sorted(labels(dataset)) == list(range(-19, 1))


# Writing and reading back


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "GZIP", "ZLIB"])
def test_round_trip_is_exact_and_in_order(tmp_path, kind):
    manifest = write_tfrecords((X, Y), tmp_path / "set", shards=3, compression=kind, progress=None)
    assert [shard.records for shard in manifest.shards] == [7, 7, 6]
    assert manifest.records == 20
    assert [file.name for file in sorted((tmp_path / "set").iterdir())] == [
        "data-00000-of-00003.tfrecord",
        "data-00001-of-00003.tfrecord",
        "data-00002-of-00003.tfrecord",
        "manifest.json",
    ]
    assert TFRecordManifest.from_json((tmp_path / "set/manifest.json").read_text()) == manifest
    dataset = from_tfrecords(tmp_path / "set", batch_size=6)
    assert labels(dataset) == Y.tolist()
    np.testing.assert_array_equal(np.concatenate([x for x, _ in dataset.as_numpy_iterator()]), X)
    doubled = from_tfrecords(tmp_path / "set", batch_size=20, parse=lambda x, y: (x, 2 * y))
    assert labels(doubled) == (2 * Y).tolist()


@pytest.mark.slow
def test_order_of_many_examples(tmp_path):
    # Four blocks of 256 are about 1,024 examples: turns of 1024 // (16 * 3) = 21. There are 47 whole turns and one of
    # 13, so 16 for each shard; the last shard has the short one.
    manifest = write_tfrecords((np.arange(1000), np.arange(1000)), tmp_path / "set", shards=3, progress=None)
    assert manifest.block == 21
    assert [shard.records for shard in manifest.shards] == [336, 336, 15 * 21 + 13]
    for settings in ({"cache": True}, {"drop_remainder": True, "batch_size": 100}, {}):
        assert labels(from_tfrecords(tmp_path / "set", **{"batch_size": 30, **settings})) == list(range(1000))


def test_every_dtype_comes_back(tmp_path):
    random, x = np.random.default_rng(0), {}
    for dtype in map(tf.as_dtype, DTYPES):
        bits = random.integers(0, 256, (5, 2, 3, dtype.size), np.uint8)
        x[dtype.name] = bits[..., 0] > 127 if dtype == tf.bool else bits.view(dtype.as_numpy_dtype)[..., 0]
        x[f"scalar {dtype.name}"] = np.ascontiguousarray(x[dtype.name][:, 0, 0])
    write_tfrecords(x, tmp_path / "set", shards=2, progress=None)
    back = next(iter(from_tfrecords(tmp_path / "set", batch_size=5)))
    assert sorted(back) == sorted(x)
    for name, array in x.items():
        assert back[name].dtype == tf.as_dtype(name.split()[-1])
        assert back[name].shape == array.shape
        assert back[name].numpy().tobytes() == array.tobytes(), "NaN and all"


def test_structures_come_back(tmp_path):
    words = np.array([["a", "bc"], ["", "d é"]])
    source = tf.data.Dataset.from_tensor_slices(
        ({"image": X[:2], "word": words}, (Y[:2], X[:2, :0]), np.float64([0.5, 2]))
    )
    manifest = write_tfrecords(source, tmp_path / "set", shards=1, progress=None)
    names = [feature.name for feature in manifest.features]
    assert names == ["x/image", "x/word", "y/0", "y/1", "sample_weight"]
    back = from_tfrecords(tmp_path / "set", batch_size=2, drop_remainder=True)
    expected = next(iter(source.batch(2, drop_remainder=True)))
    tf.nest.assert_same_structure(next(iter(back)), expected)
    assert back.element_spec == source.batch(2, drop_remainder=True).element_spec
    for ours, theirs in zip(tf.nest.flatten(next(iter(back))), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_batches_are_taken_apart(tmp_path):
    write_tfrecords(from_arrays(X, Y, batch_size=8), tmp_path / "set", shards=4, batched=True, progress=None)
    assert labels(from_tfrecords(tmp_path / "set", batch_size=20)) == Y.tolist()
    with pytest.raises(DataError, match=r"look like batches.*`batched=True`"):
        write_tfrecords(from_arrays(X, Y, batch_size=8), tmp_path / "other", shards=4, progress=None)


def test_other_readers_understand_the_files(tmp_path):
    write_tfrecords((X, Y), tmp_path / "set", shards=1, progress=None)
    record = next(iter(tf.data.TFRecordDataset(str(tmp_path / "set/data-00000-of-00001.tfrecord"))))
    parsed = tf.io.parse_single_example(record, SCHEMA)
    np.testing.assert_array_equal(parsed["x"], X[0])
    schemas = [feature_schema((0,), "float32", (3,)), feature_schema((1,), "int64", ())]
    for row in (0, 19):
        theirs = tf.train.Example.FromString(example(x=X[row], y=Y[row]))
        assert tf.train.Example.FromString(serialize([X[row], Y[row : row + 1]], schemas)) == theirs


def test_no_half_written_directory(tmp_path):
    def failing():
        yield from zip(X[:7], Y[:7], strict=True)
        raise OSError("the source broke")

    spec = (tf.TensorSpec((3,), tf.float32), tf.TensorSpec((), tf.int64))
    with pytest.raises(tf.errors.OpError, match="the source broke"):
        write_tfrecords(
            tf.data.Dataset.from_generator(failing, output_signature=spec), tmp_path / "a", shards=2, progress=None
        )
    assert list(tmp_path.iterdir()) == []
    write_tfrecords((X, Y), tmp_path / "a", shards=2, progress=None)
    with pytest.raises(OutputExistsError):
        write_tfrecords((X, Y), tmp_path / "a", shards=2, progress=None)
    write_tfrecords((X[:5], Y[:5]), tmp_path / "a", shards=1, overwrite=True, progress=None)
    assert check_tfrecords(tmp_path / "a") == {str(tmp_path / "a/data-00000-of-00001.tfrecord"): 5}


@pytest.mark.slow
def test_killed_while_writing(tmp_path):
    code = f"""
        import numpy as np, tensorflow as tf, time, kopt
        def slow():
            for i in range(10_000):
                if i == 600: print("writing", flush=True)
                if i > 600: time.sleep(0.01)
                yield np.int64(i)
        data = tf.data.Dataset.from_generator(slow, output_signature=tf.TensorSpec((), tf.int64))
        kopt.data.write_tfrecords(data, {str(tmp_path / "set")!r}, shards=2, progress=None)
    """
    with start_program(textwrap.dedent(code)) as process:
        while process.output() != "writing\n":
            assert process.is_alive(), process.errors()
            time.sleep(0.01)
        time.sleep(0.2)
        process.kill()
    assert not (tmp_path / "set").exists()
    assert all(path.name.startswith(".set.") and path.name.endswith(".kopt-tmp") for path in tmp_path.iterdir())
    with pytest.raises(DataError, match="No file matches"):
        from_tfrecords(tmp_path / "*.tfrecord", batch_size=2)


def test_progress_is_told(tmp_path):
    told = []

    class Teller:
        def start(self, total):
            told.append(total)

        def step(self, description):
            told.append(description)

        def finish(self):
            told.append("done")

    write_tfrecords((X, Y), tmp_path / "a", shards=1, progress=Teller())
    assert told == [1, "write examples", "done"]
    told.clear()
    write_tfrecords(from_arrays(X, Y, batch_size=5), tmp_path / "b", shards=1, batched=True, progress=Teller())
    assert told == [4, *["write examples"] * 4, "done"]


# Damage


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_named_with_the_offset(tmp_path, kind):
    for number in range(2):
        write_file(tmp_path / f"{number}.tfrecord", [bytes(100)] * 10, kind)
    file = tmp_path / "1.tfrecord"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - (10 if kind else 150)])
    # Records take 116 bytes. 150 bytes less leave eight and a part of the ninth; TensorFlow reads these without a word
    # when the cut is inside a header.
    offset = r"offset \d+" if kind else "offset 928: the file ends inside record 8"
    for act in (
        lambda: check_tfrecords(tmp_path),
        lambda: from_tfrecords(tmp_path, features=SCHEMA, batch_size=2),
        lambda: from_tfrecords(tmp_path, features=SCHEMA, batch_size=2, compression=kind or None),
    ):
        with pytest.raises(DataError, match=rf"1\.tfrecord is damaged: {offset}"):
            act()


def test_a_truncated_shard_is_found_by_its_size(tmp_path):
    write_tfrecords((X, Y), tmp_path / "set", shards=2, progress=None)
    file = tmp_path / "set/data-00001-of-00002.tfrecord"
    size = file.stat().st_size
    # Without the last record: whole by its framing, but not by the manifest.
    file.write_bytes(file.read_bytes()[: size // 10 * 9])
    with pytest.raises(DataError, match=rf"00001-of-00002\.tfrecord is damaged: .*says {size} bytes"):
        from_tfrecords(tmp_path / "set", batch_size=2)


@pytest.mark.slow
def test_damaged_data_is_named_in_the_epoch_or_before(files):
    file = files / "train-1.tfrecord"
    content = bytearray(file.read_bytes())
    frame = len(content) // 10
    content[3 * frame + 20] ^= 1
    file.write_bytes(content)
    settings = {"features": SCHEMA, "batch_size": 2, "parse": lambda f: (f["x"], f["y"])}
    where = rf"train-1\.tfrecord.*offset {3 * frame}: the checksum of its data is wrong"
    with pytest.raises(DataError, match=where):
        from_tfrecords(files, check="full", **settings)
    with pytest.raises(DataError, match=where):
        check_tfrecords(files, full=True)
    assert sum(check_tfrecords(files).values()) == 20, "the framing is whole"
    epoch = iter(from_tfrecords(files, **settings))
    assert [next(epoch)[1].numpy().tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(tf.errors.InvalidArgumentError, match=where):
        list(epoch)
    unchecked = from_tfrecords(files, check=False, **settings)
    assert unchecked.cardinality() == tf.data.UNKNOWN_CARDINALITY
    with pytest.raises(tf.errors.DataLossError, match=f"corrupted record at {3 * frame + 12}"):
        list(unchecked)


# Bad input


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"z": SCHEMA["y"]}, r"Feature 'z': the record lacks it .* holds 'x' \(float32 x 3\), 'y' \(int64 x 1\)"),
        ({"xx": SCHEMA["x"]}, r"Feature 'xx': .*Did you mean 'x'"),
        ({"x": tf.io.FixedLenFeature([3], tf.int64)}, "'x': the record holds float32, the schema asks int64"),
        ({"x": tf.io.FixedLenFeature([2, 2], tf.float32)}, r"holds 3 value\(s\), the schema asks 4, shape \[2, 2\]"),
        ({"y": tf.io.VarLenFeature(tf.string)}, "'y': the record holds int64, the schema asks string"),
        ({"x": tf.io.FixedLenFeature([3], tf.uint8)}, "int64, float32 and string only; the schema asks uint8"),
    ],
)
def test_schema_mismatch(files, schema, message):
    with pytest.raises(DataError, match=message):
        from_tfrecords(files, features=schema, batch_size=2)


def test_schemas_that_fit_though_they_are_unlike_the_record(files):
    schema = {"y": tf.io.VarLenFeature(tf.int64), "w": tf.io.FixedLenFeature([], tf.float32, default_value=1.0)}
    batch = next(iter(from_tfrecords(files, features=schema, batch_size=2)))
    assert batch["w"].numpy().tolist() == [1, 1]
    assert batch["y"].values.numpy().tolist() == [0, 1]


def test_files_that_are_no_data_set(files, tmp_path_factory):
    with pytest.raises(DataError, match=r"No file matches .*trian-0\.tfrecord'. Did you mean 'train-0\.tfrecord'"):
        from_tfrecords(files / "trian-0.tfrecord", features=SCHEMA, batch_size=2)
    with pytest.raises(DataError, match="absent is no file"):
        from_tfrecords([files / "absent"], features=SCHEMA, batch_size=2)
    with pytest.raises(DataError, match=r"no manifest\.json .* pass `features`"):
        from_tfrecords(files, batch_size=2)
    (files / "manifest.json").write_text(json.dumps({"of": "another program"}))
    with pytest.raises(DataError, match="pass `features`"):
        from_tfrecords(files, batch_size=2)
    other = tmp_path_factory.mktemp("other")
    write_file(other / "0.tfrecord", [])
    with pytest.raises(DataError, match=r"no examples in .*0\.tfrecord"):
        from_tfrecords(other, features=SCHEMA, batch_size=2)
    write_file(other / "1.tfrecord", [b"not a message"])
    with pytest.raises(DataError, match=r"first record of .*1\.tfrecord is no tf\.train\.Example"):
        from_tfrecords(other, features=SCHEMA, batch_size=2)
    write_file(other / "2.tfrecord", [b"x"], "GZIP")
    with pytest.raises(DataError, match=r"1\.tfrecord is not compressed, .*2\.tfrecord is GZIP"):
        from_tfrecords(other, features=SCHEMA, batch_size=2)
    for kind in ("ZLIB", None):
        file = other / ("1.tfrecord" if kind else "2.tfrecord")
        for check in (False, "headers"):
            with pytest.raises(DataError, match=rf"{file.name}.*(does not begin with a TFRecord|is damaged: offset 0)"):
                from_tfrecords(file, features=SCHEMA, batch_size=2, compression=kind, check=check)
    with pytest.raises(DataError, match="20 examples do not fill one batch of 21"):
        from_tfrecords(files, features=SCHEMA, batch_size=21, drop_remainder=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "`batch_size`"),
        ({"shuffle": 0.5}, "`shuffle` must be .* Received: 0.5"),
        ({"compression": "GZ"}, "`compression` must be .* Did you mean 'GZIP'"),
        ({"check": True}, "`check` must be .* Received: True"),
        ({"features": ["x"]}, r"`features` must be a dict .* Received: builtins\.list"),
        ({"parse": len, "decode": len}, "Pass one of the two"),
    ],
)
def test_impossible_settings_of_the_reader(files, setting, message):
    with pytest.raises(ConfigError, match=message):
        from_tfrecords(files, **{"features": SCHEMA, "batch_size": 2, **setting})


@pytest.mark.parametrize(
    ("source", "setting", "error", "message"),
    [
        ((X, Y), {"shards": 0}, ConfigError, "`shards` must be .* Received: 0"),
        ((X, Y), {"shards": 21}, DataError, r"20 example\(s\) do not fill 21 shards. Use `shards` <= 20"),
        ((X, Y), {"compression": "gzip"}, ConfigError, "Did you mean 'GZIP'"),
        ((X, Y), {"name": "a/b"}, ConfigError, "beginning of a file name. Received: 'a/b'"),
        ((X, Y), {"progress": "bar"}, ConfigError, "Received: 'bar'"),
        ((X, Y[:3]), {}, DataError, "same number of examples.*'x': 20, 'y': 3"),
        ((X[:0], Y[:0]), {}, DataError, "at least one"),
        (np.array([[1], [1, 2]], dtype=object), {}, DataError, "'x' has dtype object.*ragged rows"),
        ({1: X}, {}, DataError, "must be text. Received: 1"),
        ({"x": {"a": X}, "x/a": X}, {}, DataError, "Two arrays would have the name 'x/a'"),
    ],
)
def test_impossible_settings_of_the_writer(tmp_path, source, setting, error, message):
    with pytest.raises(error, match=message):
        write_tfrecords(source, tmp_path / "set", **{"shards": 1, "progress": None, **setting})
    assert list(tmp_path.iterdir()) == []


def test_data_sets_that_do_not_come_back_as_they_were(tmp_path):
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [1, 2]]))
    with pytest.raises(DataError, match=r"RaggedTensorSpec.*to_tensor"):
        write_tfrecords(ragged, tmp_path / "set", shards=1, progress=None)
    growing = tf.data.Dataset.range(1, 4).map(lambda n: (tf.zeros([n, 2]), n))
    with pytest.raises(DataError, match=r"'x' has shape \(2, 2\) in example 1, but \(1, 2\) in the first"):
        write_tfrecords(growing, tmp_path / "set", shards=1, progress=None)
    with pytest.raises(DataError, match="no batch axis"):
        write_tfrecords(tf.data.Dataset.range(3), tmp_path / "set", shards=1, batched=True, progress=None)
    with pytest.raises(DataError, match="The data set is empty"):
        write_tfrecords(tf.data.Dataset.range(0), tmp_path / "set", shards=1, progress=None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_record_is_not_replaced(tmp_path):
    place = tmp_path / "records"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"holds more than records: thesis\.txt"):
        write_tfrecords((X[:5], Y[:5]), place, shards=1, overwrite=True, progress=None)
    assert (place / "thesis.txt").read_text() == "years of work"


def test_data_without_an_end_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"never ends.*`dataset.take\(1000\)`"):
        write_tfrecords(tf.data.Dataset.range(9).repeat(), tmp_path / "a", shards=2, progress=None)
    assert not list(tmp_path.iterdir())
