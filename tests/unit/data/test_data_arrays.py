import collections
import contextlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from processes import run_program, start_program

from kopt.core.errors import ConfigError, DataError
from kopt.data import Augmentation, cache_of, from_arrays
from kopt.data.seeds import permuted

X = np.arange(10, dtype=np.float32)[:, None] * [1.0, 10.0]
Y = np.arange(10)


def first_column(dataset) -> list[list[int]]:
    return [batch[0].numpy()[:, 0].astype(int).tolist() for batch in dataset]


def test_batches_come_in_order_with_their_labels():
    dataset = from_arrays(X, Y, batch_size=4)
    assert dataset.cardinality() == 3
    batches = list(dataset.as_numpy_iterator())
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for x, y in batches:
        np.testing.assert_array_equal(x, y[:, None] * [1.0, 10.0])


def test_drop_remainder_gives_a_static_batch():
    dataset = from_arrays(X, batch_size=4, drop_remainder=True)
    assert dataset.element_spec.shape == (4, 2)
    assert len(list(dataset)) == 2


def test_what_is_no_seed():
    with pytest.raises(ConfigError, match=r"`seed` must be a whole number of at least 0\. Received: 'a' \(str\)"):
        from_arrays(X, Y, batch_size=5, seed="a")


def test_shuffle_repeats_under_a_seed_and_differs_between_epochs():
    first, second = (from_arrays(X, Y, batch_size=5, shuffle=True, seed=7) for _ in range(2))
    epochs = [first_column(first), first_column(first)]
    assert epochs == [first_column(second), first_column(second)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0][0] + epochs[0][1]) == list(range(10))
    assert epochs[0] != first_column(from_arrays(X, Y, batch_size=5, shuffle=True, seed=8))


def test_no_global_random_state_is_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    list(from_arrays(X, Y, batch_size=5, shuffle=True, seed=7))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_structures_of_inputs():
    named = next(iter(from_arrays({"a": X, "b": Y}, Y, batch_size=3)))
    assert named[0]["b"].numpy().tolist() == [0, 1, 2]
    listed = next(iter(from_arrays([X, Y], batch_size=3)))
    assert len(listed) == 1, "Keras would read a pair as inputs and targets"
    assert listed[0][1].numpy().tolist() == [0, 1, 2]
    alone = next(iter(from_arrays(X, batch_size=3)))
    assert isinstance(alone, tf.Tensor)


def test_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert first_column(from_arrays(mapped, Y, batch_size=5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    # Rows of 16 bytes: the view begins 48 bytes after an address that TensorFlow takes, so 3 rows are skipped inside.
    assert first_column(from_arrays(mapped[3:], Y[3:], batch_size=5)) == [[3, 4, 5, 6, 7], [8, 9]]
    assert first_column(from_arrays(np.asarray(mapped)[7:9], batch_size=5, shuffle=False).map(lambda x: (x,))) == [
        [7, 8]
    ]
    shuffled = from_arrays(mapped, Y, batch_size=5, shuffle=True, seed=7)
    assert first_column(shuffled) == first_column(from_arrays(X, Y, batch_size=5, shuffle=True, seed=7))


@pytest.mark.parametrize("kind", [object, "S", "U", "mapped"])
def test_text(tmp_path, kind):
    texts = np.array([f"très {'long ' * place}text {place}" for place in range(10)], object)
    given = texts.astype(object if kind == "mapped" else kind) if kind != "S" else np.array([t.encode() for t in texts])
    if kind == "mapped":
        np.save(tmp_path / "texts.npy", np.array([text.encode() for text in texts]))
        given = np.load(tmp_path / "texts.npy", mmap_mode="r")
    batches = from_arrays(given, Y, batch_size=4, shuffle=True, seed=0)
    found = {text.decode(): label for x, y in batches.as_numpy_iterator() for text, label in zip(x, y, strict=True)}
    assert found == dict(zip(texts, Y, strict=True))


def test_mapped_arrays_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    dataset = from_arrays(mapped, Y, batch_size=5)
    mapped[0, 0] = 77
    assert first_column(dataset)[0][0] == 77, "the tensor lies over the file's own memory"


@pytest.mark.parametrize("layout", ["fortran", "strided", "byte order", "offset"])
def test_mapped_layouts_that_would_need_a_copy(tmp_path, layout):
    if layout == "offset":
        (tmp_path / "x.bin").write_bytes(b"12345" + np.ones(16, np.float32).tobytes())
        mapped = np.memmap(tmp_path / "x.bin", np.float32, "r", offset=5, shape=(4, 4))
    else:
        x = {"fortran": np.asfortranarray(X), "strided": X, "byte order": X.astype(">f8")}[layout]
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[:: 2 if layout == "strided" else 1]
    with pytest.raises(DataError, match=r"np\.array\(array, order='C'\)"):
        from_arrays(mapped, batch_size=2)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_saved_iterator_goes_on_where_it_stood(tmp_path, at):
    def build():
        images = np.repeat(X[:, :1], 48, axis=1).reshape(10, 4, 4, 3).astype(np.float32)
        return from_arrays(images, Y, batch_size=4, shuffle=True, seed=3, augment=Augmentation(flip="both", crop=1))

    def epoch(iterable):
        return [(x.tolist(), y.tolist()) for x, y in (tf.nest.map_structure(lambda t: t.numpy(), b) for b in iterable)]

    whole = build()
    epochs = [epoch(whole) for _ in range(4)]
    assert len({str(one) for one in epochs}) == 4
    interrupted = build()
    epoch(interrupted)
    iterator = iter(interrupted)
    for _ in range(at):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 20_000, "no buffer of rows is saved"
    resumed = build()
    iterator = iter(resumed)
    tf.train.Checkpoint(iterator=iterator).read(path)
    assert epoch(iterator) == epochs[1][at:]
    assert [epoch(resumed), epoch(resumed)] == epochs[2:]


@pytest.mark.slow
def test_every_order_is_as_likely_as_another():
    # 3 rows in batches of 1 have 6 orders. 600 seeds give each 100 times on average, with a standard deviation of
    # sqrt(600 * 1/6 * 5/6) = 9.1; chi-square with 5 degrees of freedom is below 20.5 in 99.9 % of all seeds.
    seeds = tf.data.Dataset.range(600)
    dataset = seeds.map(lambda i: permuted(tf.range(3, dtype=tf.int64), tf.stack([i, 7 * i + 1]), 3))
    orders = collections.Counter(tuple(order.tolist()) for order in dataset.as_numpy_iterator())
    assert len(orders) == 6
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 20.5


def test_several_workers_need_one_order(monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ConfigError, match="TF_CONFIG names 2 workers"):
        from_arrays(X, batch_size=2, shuffle=True)
    policy = from_arrays(X, batch_size=2, shuffle=True, seed=0).options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.DATA
    monkeypatch.setenv("TF_CONFIG", "{worker}")
    with pytest.raises(ConfigError, match=r"Received: '\{worker\}'"):
        from_arrays(X, batch_size=2)


MAPPED = """
import sys, numpy as np, tensorflow as tf
from kopt.data import from_arrays
tf.random.set_seed(3)
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
list(from_arrays(np.zeros((8, 4), np.float32), batch_size=2, shuffle=True, seed=5))
x = np.load(sys.argv[1], mmap_mode="r")
before, peak = anonymous(), 0
dataset = from_arrays(x, batch_size=64, shuffle=True, seed=5)
for epoch in range(2):
    order = []
    for batch in dataset:
        order.extend(int(v) for v in batch.numpy()[:, 0])
        peak = max(peak, anonymous())
    assert sorted(order) == list(range(len(x))), "every row once"
    print(order[:10])
print((peak - before) * 1024 / x.nbytes)
"""


@pytest.mark.slow
def test_a_mapped_array_takes_no_memory_and_its_order_is_that_of_other_processes(tmp_path):
    rows = 4096
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, 16384))  # 268 MB
    x[:, 0] = np.arange(rows)
    x.flush()
    done = run_program(MAPPED, str(tmp_path / "x.npy"))
    assert done.exit_code == 0, done.errors
    first, second, grown = done.output.splitlines()
    # Batches in flight are 4 MB each. A copy, or the zero-filled stand-in that tf.data's optimizer makes, would be 1.
    assert float(grown) < 0.5
    tf.random.set_seed(3)  # It counts too, as everywhere in TensorFlow.
    here = from_arrays(np.arange(rows), batch_size=64, shuffle=True, seed=5)
    assert [str([int(v) for v in next(iter(here))[:10]]) for _ in range(2)] == [first, second]


MIRRORED = """
import numpy as np, tensorflow as tf
from kopt.data import from_arrays
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for shuffle in (False, True):
    dataset = strategy.experimental_distribute_dataset(
        from_arrays(np.arange(22), batch_size=4, shuffle=shuffle, seed=0))
    for _ in range(2):
        seen = [int(v) for batch in dataset for part in strategy.experimental_local_results(batch) for v in part]
        assert sorted(seen) == list(range(22)), seen
print("once")
"""

WORKER = """
import numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from kopt.data import from_arrays
dataset = strategy.experimental_distribute_dataset(from_arrays(np.arange(24), batch_size=4, shuffle=True, seed=0))
for _ in range(2):
    print(*[int(v) for batch in dataset for part in strategy.experimental_local_results(batch) for v in part])
"""


@pytest.mark.slow
def test_mirrored_replicas_see_each_example_once():
    done = run_program(MIRRORED)
    assert done.output.strip() == "once", done.errors


@pytest.mark.slow
def test_workers_see_each_example_once():
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("localhost", 0))
        workers = [f"localhost:{probe.getsockname()[1]}" for probe in (one, two)]
    with contextlib.ExitStack() as stack:
        children = []
        for index in range(2):
            config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            children.append(stack.enter_context(start_program(WORKER, TF_CONFIG=json.dumps(config))))
        ended = [child.end(timeout=120) for child in children]
    epochs = zip(*(one.output.splitlines() for one in ended), strict=True)
    seen = [[list(map(int, line.split())) for line in epoch] for epoch in epochs]
    assert len(seen) == 2, ended[0].errors
    for epoch in seen:
        assert [len(part) for part in epoch] == [12, 12]
        assert sorted(epoch[0] + epoch[1]) == list(range(24))
    assert seen[0] != seen[1]


def test_augment_sees_batches_and_cache_keeps_them():
    calls = tf.Variable(0)

    def augment(x, y):
        calls.assign_add(1)
        return x + 1, y

    dataset = from_arrays(X, Y, batch_size=5, augment=augment, cache=True)
    epochs = [first_column(dataset) for _ in range(3)]
    assert epochs == [[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]] * 3
    assert calls.numpy() == 2, "two batches, augmented in the first epoch only"


def test_cache_in_a_file(tmp_path):
    dataset = from_arrays(X, Y, batch_size=5, cache=tmp_path / "cache")
    assert first_column(dataset) == first_column(dataset)
    assert len(list(tmp_path.glob("cache/*/fill-*/elements.index"))) == 1
    plan = cache_of(dataset)
    assert plan is not None
    assert plan.place == "disk"
    assert Path(plan.directory).parent == tmp_path / "cache"


def test_a_cache_on_disk_is_for_the_same_content_only(tmp_path):
    def rows(x, augment=None):
        return first_column(from_arrays(x, Y, batch_size=5, cache=tmp_path, augment=augment))

    np.save(tmp_path / "x.npy", X)
    shift = 2
    first = rows(X)
    assert rows(X + 1) == [[v + 1 for v in batch] for batch in first]
    assert rows(X, lambda x, y: (x + shift, y)) == [[v + 2 for v in batch] for batch in first]
    shift = 3
    assert rows(X, lambda x, y: (x + shift, y)) == [[v + 3 for v in batch] for batch in first]
    assert rows(np.load(tmp_path / "x.npy", mmap_mode="r")[:10]) == first
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 5
    assert rows(X) == first
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 5, "the first one served again"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:9], r"shapes \(10, 2\), \(9,\)"),
        (X[:0], Y[:0], "no examples"),
        ([], None, "no examples"),
        (X, [1, 2], r"builtins\.int '1'"),
        (np.array([[1], [1, 2]], dtype=object), None, r"Python objects of shape \(2,\)"),
        (np.float32(1), None, "examples along the first axis"),
    ],
)
def test_data_that_does_not_fit_itself(x, y, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x, y, batch_size=2)


def test_impossible_settings():
    with pytest.raises(ConfigError, match="Received: 0"):
        from_arrays(X, batch_size=0)
    with pytest.raises(ConfigError, match="Received: True"):
        from_arrays(X, batch_size=True)
    with pytest.raises(ConfigError, match="same order every epoch"):
        from_arrays(X, batch_size=2, shuffle=True, cache=True)
    with pytest.raises(DataError, match="10 examples do not fill one batch of 11"):
        from_arrays(X, batch_size=11, drop_remainder=True)
