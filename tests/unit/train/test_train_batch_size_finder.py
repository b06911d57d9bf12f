import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_program

from kopt.core.errors import ConfigError, DataError, OutOfMemoryError
from kopt.core.records.training.finders import BatchSizeSearch, BatchTrial
from kopt.train.finders import batch_search, memory_meter
from kopt.train.finders import batch_size as batch_size_finder
from kopt.train.finders.batch_size import find_batch_size
from kopt.train.finders.memory_meter import MemoryMeter
from kopt.train.finders.trial_steps import TrialSteps

X = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
Y = np.arange(40) % 3
MIB = 2**20


def make_model(optimizer="adam"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# The search, on a device of numbers.


def attempts(fits_up_to, examples=None):
    def attempt(size):
        if examples is not None and size > examples:
            return None
        fits = size <= fits_up_to
        return BatchTrial(size, fits, True, size, reason="" if fits else f"{size} is too much.")

    return attempt


def tried(trials):
    return [trial.batch_size for trial in trials]


def test_powers_of_two_then_bisection():
    # 100 fits: 64 does, 128 does not; then 96, 112, 104, 100, until less than a sixteenth of 96 or 100 is left: 6.
    trials, stopped = batch_search.search(attempts(100), start=1, most=None, bisect=True)
    assert tried(trials) == [1, 2, 4, 8, 16, 32, 64, 128, 96, 112, 104, 100]
    assert stopped == "A batch of 104 does not fit: 104 is too much."
    trials, stopped = batch_search.search(attempts(100), start=4, most=None, bisect=False)
    assert tried(trials) == [4, 8, 16, 32, 64, 128]
    assert stopped == "A batch of 128 does not fit: 128 is too much."


def test_small_answers_are_exact():
    for largest in range(1, 17):
        trials, _ = batch_search.search(attempts(largest), start=1, most=None, bisect=True)
        assert max(trial.batch_size for trial in trials if trial.fits) == largest


def test_largest_that_may_be_tried_is_tried():
    trials, stopped = batch_search.search(attempts(1000), start=1, most=12, bisect=True)
    assert tried(trials) == [1, 2, 4, 8, 12]
    assert stopped == "`max_batch_size` is 12."
    assert tried(batch_search.search(attempts(10), start=1, most=12, bisect=True)[0]) == [1, 2, 4, 8, 12, 10, 11]
    assert tried(batch_search.search(attempts(1000), start=3, most=3, bisect=True)[0]) == [3]


def test_end_of_the_data_ends_the_search():
    trials, stopped = batch_search.search(attempts(1000, examples=20), start=1, most=None, bisect=True)
    assert tried(trials) == [1, 2, 4, 8, 16]
    assert stopped == "The data has fewer than 32 examples."


def test_predictions():
    assert batch_search.predicted_growth([(4, 100)], 8) == 200
    # A constant 60 and 10 an example: the line is exact.
    assert batch_search.predicted_growth([(4, 100), (8, 140)], 16) == 60 + 10 * 16
    assert batch_search.predicted_growth([(1, 70), (4, 100), (8, 140)], 12) == 60 + 10 * 12
    # Squares of doubled sizes: 5 n^2.
    assert batch_search.predicted_growth([(n, 5 * n * n) for n in (2, 4, 8)], 16) == 5 * 256
    # Less than before is taken for the same, not for a fall.
    assert batch_search.predicted_growth([(4, 100), (8, 90)], 16) == 90
    # A slope that grew a hundredfold in noise counts four times: 0.1, then 10 a row, so 40.
    assert batch_search.predicted_growth([(10, 0), (20, 1), (30, 101)], 40) == 101 + 10 * 40


def test_choice():
    def trial(size, speed, fits=True):
        return BatchTrial(size, fits, True, 1, step_ms=1.0, examples_per_s=speed)

    trials = [trial(1, 100.0), trial(2, 195.0), trial(4, 200.0), trial(8, 150.0), trial(16, 900.0, fits=False)]
    assert batch_search.fastest(trials).batch_size == 4
    assert batch_search.choose(trials, "memory") == (8, "the largest batch that fits")
    size, why = batch_search.choose(trials, "throughput")
    assert size == 2  # 195 is 97.5 % of 200.
    assert why.startswith("195 examples a second, within 3 % of the most (200 with a batch of 4)")
    assert batch_search.choose(trials[:1], "throughput")[1] == "100 examples a second, the most of all batches that fit"


# The meter, on devices of numbers.


class Device:
    """Stands in for TensorFlow's statistics of a device and for the kernel's of the process."""

    def __init__(self, monkeypatch, *, gpu, counts=True):
        self.current, self.peak, self.resident, self.available = 0, 0, 0, 0
        names = [tf.config.LogicalDevice(name="/device:GPU:0", device_type="GPU")] if gpu else []
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: names)
        monkeypatch.setattr(tf.config.experimental, "get_memory_info", self.info if counts else self.refuse)
        monkeypatch.setattr(tf.config.experimental, "reset_memory_stats", self.reset)
        for name in ("resident_bytes", "peak_resident_bytes", "start_peak"):
            monkeypatch.setattr(memory_meter, name, lambda: self.resident)
        monkeypatch.setattr(memory_meter, "available_bytes", lambda: self.available)

    def info(self, name):
        return {"current": self.current, "peak": self.peak}

    def refuse(self, name):
        raise ValueError("Allocator stats not available for device 'CPU:0'")

    def reset(self, name):
        self.peak = self.current


def test_gpu_is_held_against_what_is_allocated(monkeypatch):
    device = Device(monkeypatch, gpu=True)
    meter = MemoryMeter(None, 0.1, kept_bytes=10)
    assert (meter.device, meter.limit_bytes, meter.exceeds(10**18)) == ("GPU:0", None, False)
    device.current = 30
    assert meter.start() == 20
    device.peak = 90
    assert (meter.peak(), meter.needed(80), meter.predict(200)) == (80, 80, 200)
    assert MemoryMeter(70, 0.1).exceeds(71)
    assert meter.both(80, 80) == (80, None)


def test_cpu_is_held_against_resident_memory_without_what_larger_trials_left_behind(monkeypatch):
    device = Device(monkeypatch, gpu=False)
    device.resident, device.available = 600, 400
    meter = MemoryMeter(None, 0.1, kept_bytes=10)
    assert (meter.device, meter.limit_bytes) == ("CPU:0", 900)  # 0.9 * (600 + 400)
    device.current = 100
    assert meter.start() == 90
    device.peak, device.resident = 300, 800
    peak = meter.peak()
    assert (peak, meter.needed(peak)) == (290, 800)
    # A smaller trial afterwards: the process has not shrunk, but would be 100 smaller without the one before.
    meter.start()
    device.peak = 200
    peak = meter.peak()
    assert (peak, meter.needed(peak)) == (190, 700)
    assert meter.both(peak, 700) == (190, 700)
    # 100 more than ever before may take 150 from the system; what was there before takes nothing more.
    assert meter.predict(390) == 800 + 150
    assert meter.predict(190) == 700


def test_cpu_without_statistics_goes_by_resident_memory(monkeypatch):
    device = Device(monkeypatch, gpu=False, counts=False)
    device.resident = 500
    meter = MemoryMeter(800, 0.1, kept_bytes=20)
    assert meter.start() == 480
    device.resident = 700
    assert (meter.peak(), meter.needed(680), meter.predict(900)) == (680, 680, 900)


# The finder.


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    return [np.asarray(v).tobytes() for v in variables], model.optimizer.built, model.train_function


@pytest.mark.slow
def test_every_trial_is_reported_and_the_model_is_as_before():
    def run(find):
        model = make_model()
        model.train_on_batch(X, Y)
        if find:
            before = state(model)
            found = find_batch_size(model, (X, Y), steps=1)
            assert state(model) == before
            assert tried(found.trials) == [1, 2, 4, 8, 16, 32]
            assert all(
                t.fits and t.run and t.peak_memory_bytes >= 0 and t.resident_bytes > 0 and t.step_ms > 0
                for t in found.trials
            )
            assert all(t.examples_per_s == pytest.approx(1000 * t.batch_size / t.step_ms) for t in found.trials)
            assert (found.largest, found.chosen, found.stopped) == (32, 32, "The data has fewer than 64 examples.")
            assert BatchSizeSearch.from_json(found.to_json()) == found
        model.fit(X, Y, verbose=0)
        return state(model)[0], random.random(), np.random.rand(), tf.random.uniform((2,)).numpy().tolist()

    assert run(find=True) == run(find=False)


def batches_seen(monkeypatch):
    """Return the first inputs of every trial, filled as they come."""
    seen = []

    class Recording(TrialSteps):
        def __init__(self, model, data):
            seen.append(np.asarray(tf.nest.flatten(next(iter(data)))[0]))
            super().__init__(model, data)

    monkeypatch.setattr(batch_size_finder, "TrialSteps", Recording)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 7], ids=["examples", "batches"])
def test_data_set_is_batched_anew(monkeypatch, batch):
    seen = batches_seen(monkeypatch)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    dataset = dataset if batch is None else dataset.batch(batch)
    found = find_batch_size(make_model("sgd"), lambda: dataset, start=16, steps=1)
    assert tried(found.trials) == [16, 32]
    np.testing.assert_array_equal(seen[-1], X[:32])


@pytest.mark.slow
def test_one_example_batch_is_repeated_on_request(monkeypatch):
    seen = batches_seen(monkeypatch)
    rows = X[:3].astype("float64")
    found = find_batch_size(make_model("sgd"), (rows, Y[:3]), repeat=True, start=2, max_batch_size=5, steps=1)
    assert tried(found.trials) == [2, 4, 5]
    np.testing.assert_array_equal(seen[-1], X[[0, 1, 2, 0, 1]])
    assert seen[-1].dtype == "float32"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), True),
        (tf.errors.InternalError(None, None, "Failed to allocate 2.0GiB"), True),
        (tf.errors.UnknownError(None, None, "CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError("std::bad_alloc"), True),
        (tf.errors.InternalError(None, None, "Blas GEMM launch failed"), False),
    ],
)
def test_which_errors_mean_missing_memory(error, is_memory):
    assert batch_size_finder._is_out_of_memory(error) == is_memory


@pytest.mark.slow
def test_running_out_of_memory_is_an_answer(monkeypatch):
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    class Small(TrialSteps):
        def __init__(self, model, data):
            super().__init__(model, data)
            self.size = int(tf.nest.flatten(next(iter(data)))[0].shape[0])

        def take(self):
            if self.size > 11:
                raise error
            return super().take()

    monkeypatch.setattr(batch_size_finder, "TrialSteps", Small)
    model = make_model()
    before = state(model)
    found = find_batch_size(model, (X, Y), steps=1)
    assert tried(found.trials) == [1, 2, 4, 8, 16, 12, 10, 11]
    assert (found.largest, found.trials[4].peak_memory_bytes) == (11, None)
    assert found.trials[4].reason.startswith("out of memory (")
    assert found.stopped.startswith("A batch of 12 does not fit: out of memory")
    assert state(model) == before
    with pytest.raises(OutOfMemoryError, match="with a batch of 16 does not fit"):
        find_batch_size(model, (X, Y), start=16, steps=1)
    assert state(model) == before


def test_other_errors_are_not_taken_for_missing_memory(monkeypatch):
    def take(self):
        raise tf.errors.InternalError(None, None, "something else")

    monkeypatch.setattr(TrialSteps, "take", take)
    with pytest.raises(tf.errors.InternalError, match="something else"):
        find_batch_size(make_model(), (X, Y))


LIMITED = """
import keras
import numpy as np
from kopt.core.memory import resident_bytes
from kopt.train import find_batch_size

layers = [keras.layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(2)]
model = keras.Sequential([keras.Input((64, 64, 1)), *layers, keras.layers.GlobalAveragePooling2D()])
model.compile("sgd", "mse")
limit = resident_bytes() + 64 * 2**20
example = (np.zeros((1, 64, 64, 1), "float32"), np.zeros((1, 8), "float32"))
found = find_batch_size(model, example, repeat=True, steps=1, memory_limit_bytes=limit, start=4)
assert found.limit_bytes == limit
print(found.to_json(indent=None))
"""


@pytest.mark.slow
def test_limit_is_kept_on_a_cpu():
    # Each example keeps 2 layers of 64 x 64 x 8 floats, 128 KiB each, so some hundred of them fill 64 MiB. In a process
    # of its own, because what other tests made the allocator hold would hold more of them.
    done = run_program(LIMITED)
    assert done.exit_code == 0, done.errors
    found = BatchSizeSearch.from_json(done.output.splitlines()[-1])
    assert "above the limit of" in found.stopped
    assert 4 <= found.largest < 64 * MIB / (2 * 128 * 1024)
    assert all((trial.resident_bytes <= found.limit_bytes) == trial.fits for trial in found.trials)
    assert not [trial for trial in found.trials if trial.run and trial.resident_bytes > 1.1 * found.limit_bytes]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "binary"}, "Unknown `mode` 'binary'"),
        ({"objective": "speed"}, "Unknown `objective` 'speed'"),
        ({"start": 0}, "`start` must be"),
        ({"start": 8, "max_batch_size": 4}, "`max_batch_size` must be at least `start`"),
        ({"memory_limit_bytes": 0}, "`memory_limit_bytes` must be"),
        ({"headroom": 1.0}, "`headroom` is a share"),
        ({"steps": 0}, "`steps` must be"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        find_batch_size(make_model(), (X, Y), **settings)


def test_data_that_cannot_be_used():
    with pytest.raises(DataError, match="fewer than `start=64` examples"):
        find_batch_size(make_model(), (X, Y), start=64)
    with pytest.raises(DataError, match=r"same number of examples, at least one. Received lengths \[3, 40\]"):
        find_batch_size(make_model(), (X, Y[:3]))
    with pytest.raises(DataError, match="4 axes; the model takes 2"):
        find_batch_size(make_model(), tf.data.Dataset.from_tensors((np.zeros((1, 2, 3, 6), "float32"), Y)))
    with pytest.raises(ConfigError, match="not compiled"):
        find_batch_size(keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]), (X, Y))


@pytest.mark.slow
def test_inputs_in_a_list_and_data_that_cannot_be_cut():
    a, b = keras.Input((6,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Dense(1)(keras.layers.Concatenate()([a, b])))
    model.compile("sgd", "mse")
    found = find_batch_size(model, ([X, X[:, :3]], X[:, :1]), start=4, max_batch_size=16)
    assert found.chosen in (4, 8, 16)
    with pytest.raises(DataError, match=r"Batches of any size are cut of arrays .*generator"):
        find_batch_size(make_model(), ((X, Y) for _ in range(3)), start=4)
