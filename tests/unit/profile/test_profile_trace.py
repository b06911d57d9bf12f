"""The reading of what the profiler recorded, on records that are written by hand. Times in microseconds."""

import json

import pytest
import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler_plugin
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from kopt.core.errors import MeasurementError
from kopt.profile.timing.internals import profiler_session
from kopt.profile.timing.intervals import Interval, innermost, sums
from kopt.profile.timing.trace import Operation, read


class Space:
    """Builds an XSpace."""

    def __init__(self):
        self.space = xplane_pb2.XSpace()

    def plane(self, name):
        self._plane = self.space.planes.add(name=name)
        return self

    def line(self, name, start_us=0):
        self._line = self._plane.lines.add(name=name, timestamp_ns=start_us * 1000)
        return self

    def event(self, name, start_us, length_us=0, **stats):
        number = len(self._plane.event_metadata) + 1
        self._plane.event_metadata[number].name = name
        event = self._line.events.add(
            metadata_id=number, offset_ps=round(start_us * 1e6), duration_ps=round(length_us * 1e6)
        )
        for key, value in stats.items():
            entry = len(self._plane.stat_metadata) + 1
            self._plane.stat_metadata[entry].name = key
            stat = event.stats.add(metadata_id=entry)
            if isinstance(value, str):
                other = len(self._plane.stat_metadata) + 1
                self._plane.stat_metadata[other].name = value
                stat.ref_value = other
            else:
                stat.int64_value = value
        return self


def host(*steps):
    built = Space().plane("/host:CPU").line("python")
    for start, length in steps or [(100, 50)]:
        built.event("kopt.step", start, length)
    return built


def thread(trace, name):
    return next(one.intervals for one in trace.threads if one.name == name)


def test_times_count_from_the_first_step():
    built = host((100, 50), (200, 40)).line("tf_Compute/17").event("a:MatMul", 110, 5).event("a:MatMul", 210, 6)
    trace = read(built.space)
    assert trace.steps == ((0, 50), (100, 140))
    assert trace.operations == (Operation("a", "MatMul", "cpu"),)
    assert thread(trace, "tf_Compute 1") == (Interval(10, 15, 0), Interval(110, 116, 0))


def test_lines_with_clocks_of_their_own_are_brought_together():
    built = host().line("tf_Compute/1", start_us=100).event("a:MatMul", 7, 2)
    assert thread(read(built.space), "tf_Compute 1") == (Interval(7, 9, 0),)


def test_what_runs_outside_of_the_steps_is_left_out():
    built = host().line("tf_Compute/1").event("a:MatMul", 90, 5).event("b:Add", 120, 1).event("c:Add", 170, 5)
    intervals = thread(read(built.space), "tf_Compute 1")
    assert [(one.start, one.end) for one in intervals] == [(20, 21)]


def test_the_bookkeeping_of_tensorflow_is_no_operation():
    built = host().line("tf_Compute/1")
    for name in ("ExecutorState::Process", "EagerExecute", "EagerLocalExecute: __inference_f_1", "end: dot.4", "step"):
        built.event(name, 110, 5)
    assert read(built.space).operations == ()


def test_names_with_scopes_and_types_of_onednn_are_operations():
    built = host().line("tf_Compute/1").event("net/a-b.c/d_1:_MklNativeConv2D", 110, 5)
    assert read(built.space).operations == (Operation("net/a-b.c/d_1", "_MklNativeConv2D", "cpu"),)


def test_a_helper_thread_works_for_the_operation_that_called_it():
    built = (
        host()
        .line("tf_Compute/1")
        .event("a:MatMul", 110, 20)
        .event("ThreadpoolListener::Record", 112, _p=7)
        .line("tf_numa_-1_Eigen/2")
        .event("ThreadpoolListener::StartRegion", 115, _c=7)
        .event("ThreadpoolListener::StopRegion", 125)
    )
    assert thread(read(built.space), "tf_numa_-1_Eigen 1") == (Interval(15, 25, 0, helper=True),)


def test_helpers_that_call_helpers_work_for_the_first_caller():
    built = (
        host()
        .line("tf_Compute/1")
        .event("a:MatMul", 110, 30)
        .event("ThreadpoolListener::Record", 112, _p=1)
        .line("Eigen/2")
        .event("ThreadpoolListener::StartRegion", 115, _c=1)
        .event("ThreadpoolListener::Record", 116, _p=2)
        .event("ThreadpoolListener::StopRegion", 125)
        .line("Eigen/3")
        .event("ThreadpoolListener::StartRegion", 118, _c=2)
        .event("ThreadpoolListener::StopRegion", 130)
    )
    assert thread(read(built.space), "Eigen 2") == (Interval(18, 30, 0, helper=True),)


def test_handing_an_operation_to_another_thread_is_no_help():
    # The executor records this between operations; the region then shows the operation itself.
    built = (
        host()
        .line("tf_Compute/1")
        .event("a:MatMul", 110, 5)
        .event("ThreadpoolListener::Record", 116, _p=1)
        .line("tf_Compute/2")
        .event("ThreadpoolListener::StartRegion", 117, _c=1)
        .event("b:Add", 118, 3)
        .event("ThreadpoolListener::StopRegion", 125)
    )
    assert thread(read(built.space), "tf_Compute 2") == (Interval(18, 21, 1),)


def test_kernels_of_a_gpu_belong_to_the_operation_that_started_them():
    built = host().line("tf_Compute/1").event("a:MatMul", 110, 2)
    built.plane("/device:GPU:1").line("Stream #14(Compute)").event("ampere_sgemm", 112, 30, tf_op="a:MatMul")
    built.event("memset", 143, 1)
    trace = read(built.space)
    assert trace.operations == (Operation("a", "MatMul", "cpu"), Operation("a", "MatMul", "gpu:1"))
    assert thread(trace, "gpu:1 Stream #14(Compute) 1") == (Interval(12, 42, 1),)


def test_allocations_belong_to_the_operation_in_whose_time_they_are():
    built = (
        host()
        .line("tf_Compute/1")
        .event("MemoryAllocation", 105, requested_bytes=1)
        .event("a:MatMul", 110, 20)
        .event("MemoryAllocation", 112, requested_bytes=64)
        .event("MemoryAllocation", 113, requested_bytes=36)
    )
    assert read(built.space).allocated == {0: 100}


def test_a_record_without_steps_is_refused():
    with pytest.raises(MeasurementError, match="recorded no step"):
        read(Space().plane("/host:CPU").line("python").event("a:MatMul", 1, 2).space)


def test_the_times_are_those_of_the_table_that_tensorboard_would_show(tmp_path):
    @tf.function
    def step(x):
        for _ in tf.range(3):
            x = tf.nn.relu(x @ x)
        return x

    x = tf.ones((64, 64)) / 64
    step(x)
    with profiler_session(tmp_path) as collect:
        for number in range(2):
            with tf.profiler.experimental.Trace("kopt.step", step_num=number, _r=1):
                step(x)
        trace = read(collect())
    files = [str(path) for path in tmp_path.rglob("*.xplane.pb")]
    [table, *_] = json.loads(_pywrap_profiler_plugin.xspace_to_tools_data(files, "framework_op_stats")[0])
    columns = [column["id"] for column in table["cols"]]
    rows = [dict(zip(columns, [cell["v"] for cell in row["c"]], strict=True)) for row in table["rows"]]
    theirs = {row["operation"]: (row["total_time"], row["total_self_time"]) for row in rows if row["type"] != "IDLE"}
    own = [[one for one in part.intervals if not one.helper] for part in trace.threads]
    total = sums(one for intervals in own for one in intervals)
    alone = sums(one for intervals in own for one in innermost(intervals))
    ours = {operation.name: (total[key], alone[key]) for key, operation in enumerate(trace.operations)}
    assert any(name.endswith("Relu") for name in ours)
    assert ours.keys() == theirs.keys()
    for name, times in ours.items():
        assert times == pytest.approx(theirs[name], abs=0.01), name
