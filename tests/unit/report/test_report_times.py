"""Tables, plots and sentences of times, from records written by hand."""

import dataclasses

import pytest

from kopt.core.errors import ConfigError, InputError
from kopt.core.records.profiles.runtime import GpuCounters, GpuUsage, TFLiteOpProfile, TFLiteOpTime
from kopt.core.records.profiles.time import LayerTime, LayerTimes, OpProfile, OpTime, ThreadTimeline
from kopt.report.profiles.gpu_usage import GPU_USAGE
from kopt.report.profiles.tflite_times import TFLITE_OPS
from kopt.report.profiles.timeline import TIMELINE
from kopt.report.profiles.times import LAYER_TIMES, OPS


def op(name, phase="forward", *, self_ms, wall_ms=None, count=2, output_bytes=None, device="cpu"):
    wall_ms = self_ms if wall_ms is None else wall_ms
    return OpTime(
        name=name,
        type="_MatMul",
        layer=name[0] if phase != "other" else None,
        phase=phase,
        device=device,
        count=count,
        total_ms=self_ms + 1.0,
        self_ms=self_ms,
        busy_ms=2 * self_ms,
        wall_ms=wall_ms,
        share=wall_ms / 10.0,
        output_bytes=output_bytes,
    )


@pytest.fixture
def profile():
    ops = (
        op("b/Conv", self_ms=4.0, wall_ms=3.0, output_bytes=2048),
        op("a/Grad", "backward", self_ms=2.0, count=20, output_bytes=0),
        op("mse/Mean", "other", self_ms=1.0),
    )
    return OpProfile("net", "training", 32, 2, 10.0, 8.0, (0.0, 12.0), (10.0, 10.0), ops, (), ("A note.",), 2)


def rows_of(text):
    """The first word of every row between the rule and the empty line."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("──")) + 1
    return [line.split()[0] for line in lines[begin : lines.index("", begin)]]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("self", ["b/Conv", "a/Grad", "mse/Mean"]),
        ("count", ["a/Grad", "b/Conv", "mse/Mean"]),
        # What is not known comes last, after what is nothing.
        ("memory", ["b/Conv", "a/Grad", "mse/Mean"]),
        ("name", ["a/Grad", "b/Conv", "mse/Mean"]),
        ("layer", ["a/Grad", "b/Conv", "mse/Mean"]),
    ],
)
def test_operations_are_sorted_as_asked(profile, sort, expected):
    assert rows_of(OPS.text(profile, 80, sort=sort)) == expected


def test_the_table_says_what_it_leaves_out(profile):
    text = OPS.text(profile, 80, rows=1)
    assert rows_of(text) == ["b/Conv"]
    # 2 and 1 of 10 ms.
    assert "2 more operations with 30% of the time" in text
    assert "- A note." in text


def test_the_numbers_of_an_operation(profile):
    [line] = [line for line in OPS.text(profile, 120).splitlines() if line.startswith("a/Grad")]
    # Kernel, phase, 20 calls in 2 steps, self, total, busy, share, bytes: 0 because it has no results.
    assert line.split() == ["a/Grad", "MatMul", "backward", "10.0", "2.000", "3.000", "4.000", "20%", "0.0"]
    [unknown] = [line for line in OPS.text(profile, 120).splitlines() if line.startswith("mse/Mean")]
    assert unknown.split()[-1] == "-"


def test_the_rest_is_told(profile):
    # 10 - 3 - 2 - 1 = 4 of 10 ms; busy: 8 + 4 + 2 = 14 ms of threads.
    text = " ".join(OPS.text(profile, 120).split())
    assert "no operation runs for 40%" in text
    assert "Busy: all threads, 1.4x the step on 2 cores" in text
    assert "Without the profiler a step takes 8.000 ms" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit(profile, width):
    assert max(len(line) for line in OPS.text(profile, width).splitlines()) <= width


def test_a_device_is_shown_where_there_is_one(profile):
    assert "Device" not in OPS.text(profile, 120)
    with_gpu = OpProfile(**{**vars(profile), "ops": (*profile.ops, op("b/Conv", self_ms=1.0, device="gpu:0"))})
    assert "gpu:0" in OPS.text(with_gpu, 120)


def test_a_compiled_step_shows_its_note_and_no_empty_table(profile):
    compiled = OpProfile(**{**vars(profile), "ops": (), "notes": ("XLA compiles this.",)})
    assert OPS.text(compiled, 80).splitlines() == [
        "net: one training step takes 10.00 ms, compiled by XLA",
        "- XLA compiles this.",
    ]
    assert "XLA compiles this." in OPS.words(compiled)
    assert OPS.figure(compiled).axes[0].get_yticklabels()[0].get_text() == "the compiled step"


def test_the_plot_of_operations(profile):
    figure = OPS.figure(profile)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "b/Conv takes 30% of one training step of 10.00 ms"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "b/Conv",
        "a/Grad",
        "mse/Mean",
        "no operation runs",
    ]
    assert [bar.get_width() for bar in axes.patches[:4]] == pytest.approx([3.0, 2.0, 1.0, 4.0])


def test_unknown_orders_and_rows_are_refused(profile):
    with pytest.raises(ConfigError, match="Did you mean 'self'"):
        OPS.text(profile, 80, sort="sel")
    with pytest.raises(ConfigError, match="`rows`"):
        OPS.text(profile, 80, rows=0)


@pytest.fixture
def times():
    layers = (
        LayerTime("conv", "Conv2D", 1.0, 3.0, 6.0, 4),
        LayerTime("head/dense", "Dense", 0.5, 1.0, 2.0, 5),
        LayerTime("drop", "Dropout", 0.0, 0.0, 0.0, 0),
    )
    return LayerTimes("net", "training", 32, 4, 10.0, 9.0, layers, 1.0, 0.5, ())


def test_the_parts_of_a_step_are_told(times):
    text = " ".join(LAYER_TIMES.text(times, 80).split())
    parts = "10.00 ms a step = forward 1.500 + backward 4.000 + update 1.000 + other operations 0.500 + rest 3.000."
    assert parts in text


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("total", ["conv", "head/dense", "drop"]),
        ("model", ["conv", "head/dense", "drop"]),
        ("name", ["conv", "drop", "head/dense"]),
    ],
)
def test_layers_are_sorted_as_asked(times, sort, expected):
    assert rows_of(LAYER_TIMES.text(times, 80, sort=sort)) == expected


def test_inference_has_no_columns_of_training(times):
    layers = tuple(LayerTime(row.layer, row.type, row.forward_ms, None, row.busy_ms, row.ops) for row in times.layers)
    inference = LayerTimes("net", "inference", 32, 4, 10.0, 9.0, layers, None, 0.5, ())
    text = LAYER_TIMES.text(inference, 100)
    assert "Backward" not in text
    assert "update" not in text
    # 10 - 1.5 - 0.5
    assert "rest 8.000" in text


def test_the_plot_of_layers(times):
    figure = LAYER_TIMES.figure(times)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "conv takes 40% of one training step of 10.00 ms"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["conv", "head/dense", "drop", "optimizer update", "loss, metrics and others", "no operation runs"]


def test_operators_of_a_file():
    ops = (
        TFLiteOpTime("WHILE", "LiteRT", 0, "WHILE", "net/while", 1.0, None, None, 8),
        TFLiteOpTime("Convolution IGEMM", "XNNPACK", 1, "CONV_2D", "net/conv/Relu;net/conv/x", 3.0, 0.75, 0.75, 2048),
        TFLiteOpTime("Copy", "XNNPACK", 1, None, None, 1.0, 0.25, 0.25, None),
    )
    profile = TFLiteOpProfile("m.tflite", "LiteRT 2.3", 1, 50, 1.25, 1.5, ops, ())
    text = TFLITE_OPS.text(profile, 120)
    assert rows_of(text) == ["conv/Relu", "-", "while"]
    assert rows_of(TFLITE_OPS.text(profile, 80, sort="file")) == ["while", "conv/Relu", "-"]
    [loop] = [line for line in text.splitlines() if line.startswith("while")]
    assert loop.split()[-3:] == ["-", "-", "0.0"]  # Time and share are not known.
    assert "Share of the operators' 1.000 ms. A call takes 1.250 ms, under the profiler 1.500 ms." in text
    assert TFLITE_OPS.figure(profile).get_suptitle() == "conv/Relu takes 75% of the operators' 1.000 ms"
    assert "conv/Relu (Convolution IGEMM) 75%" in TFLITE_OPS.words(profile)


def test_counters_of_gpus():
    first = GpuCounters("A", 0, (0.0, 1.0), (0.2, 0.6), (2**30, 2**31), 2**33, (100.0, 300.0), 150.0)
    second = GpuCounters("B", 1, (0.0, 1.0), (0.0, 0.0), (0, 0), 2**33, None, None)
    usage = GpuUsage((first, second), 1.0)
    text = GPU_USAGE.text(usage, 100)
    [line] = [line for line in text.splitlines() if line.startswith("0 A")]
    assert line.split() == ["0", "A", "40%", "2.00", "GiB", "8.00", "GiB", "200", "150"]
    [line] = [line for line in text.splitlines() if line.startswith("1 B")]
    assert line.split()[-2:] == ["-", "-"]
    assert GPU_USAGE.figure(usage).axes[0].get_title(loc="left") == "GPU 0 was busy for 40% of the time"


@pytest.mark.parametrize("columns", [((), ()), ((0.0,), (0.1, 0.2))])
def test_counters_need_as_many_readings_in_each_column(columns):
    with pytest.raises(ConfigError, match="readings"):
        GpuCounters("A", 0, columns[0], columns[1], (1,), 2, None, None)


def test_a_timeline_shows_the_step_of_median_duration_thread_by_thread(profile):
    # Times in microseconds; the second of three steps, from 12,000 to 22,000, has the median duration.
    work = ThreadTimeline(
        "worker",
        (0, 0, 1, 1),
        (False, False, False, False),
        # One call of an earlier step, one of the step with another within it, one that lasts beyond its end.
        (1000.0, 13000.0, 14000.0, 20000.0),
        (500.0, 4000.0, 1000.0, 5000.0),
    )
    helper = ThreadTimeline("helper", (0,), (True,), (13000.0,), (2000.0,))
    idle = ThreadTimeline("idle", (0,), (False,), (0.0,), (100.0,))
    profile = dataclasses.replace(
        profile,
        step_start_us=(0.0, 12000.0, 30000.0),
        step_duration_us=(9000.0, 10000.0, 30000.0),
        timelines=(work, helper, idle),
    )
    lines = [line.split() for line in TIMELINE.text(profile, 80).splitlines()]
    assert ["worker", "3", "6.000", "60%"] in lines
    assert ["helper", "1", "2.000", "20%"] in lines
    assert not [line for line in lines if line[:1] == ["idle"]]
    assert "10.00 ms" in TIMELINE.words(profile)
    svg = TIMELINE.svg(profile)
    for legend in ("forward", "backward", "helper"):
        assert legend in svg
    assert "update" not in svg


def test_a_timeline_of_nothing_is_an_error(profile):
    with pytest.raises(InputError, match="no timeline to draw"):
        TIMELINE.svg(profile)
