"""Records as tables for the terminal. They choose their columns for the width of the console they are printed on."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from kopt.core.records.artifacts import Artifact, OperatorCount, TensorInfo
from kopt.core.records.candidates import OptimizationResult
from kopt.core.records.checks import Check
from kopt.core.records.measurements import Measurement
from kopt.core.serialization import Record
from kopt.report.parts import formats
from kopt.report.parts.columns import Column, FittedTable
from kopt.report.run.rows import Row, baseline_row, candidate_rows, open_questions, size_reference

_CHECK_MARKS = {"ok": "ok", "missing": "off", "warning": "WARNING"}
_CHECK_STYLES = {"ok": "green", "missing": "red", "warning": "yellow"}


def json_text(record: Record) -> str:
    """Return a record as the JSON that `--json` prints.

    Example:
        >>> print(kopt.report.json_text(kopt.Constraint.parse("size_bytes<=200_000")))
        {
          "schema": "Constraint/1",
          "quantity": "size_bytes",
          "relation": "<=",
          "bound": 200000.0
        }
    """
    return record.to_json()


def candidates_table(result: OptimizationResult) -> RenderableType:
    """Return the baseline and the candidates, best first, failed ones last with the reason.

    Example:
        >>> from rich.console import Console
        >>> Console(width=100).print(kopt.report.candidates_table(result))
        digits on arrays, 269 validation examples
          Candidate ... Accuracy  Drop pt   p50 ms  Speed   KiB  Size
        ...
        > tflite-int8: best: smallest size inside the budget
        ...
    """
    metric = result.budget.metric
    rows = (baseline_row(result), *candidate_rows(result))
    # Where it is no objective, it is known of the best alone.
    energy_rank = 0 if "energy" in result.budget.objectives else 8
    columns = (
        Column[Row]("Candidate", lambda row: f"{'>' if row.is_best else ' '} {row.name}", is_number=False),
        Column[Row]("Runtime", lambda row: row.runtime or formats.NOTHING, 3, is_number=False),
        Column[Row]("Format", lambda row: row.format, 7, is_number=False),
        Column[Row](metric.capitalize(), lambda row: formats.metric_value(row.metric, metric)),
        Column[Row](_drop_header(metric), lambda row: _drop(row, metric)),
        Column[Row]("p50 ms", lambda row: formats.number(row.latency_ms)),
        Column[Row]("Speed", lambda row: formats.times(row.speedup), 1),
        Column[Row]("KiB", lambda row: formats.kibibytes(row.size_bytes)),
        Column[Row]("Size", lambda row: formats.share(row.size_ratio), 2),
        *([Column[Row]("mJ", _energy, energy_rank)] if any(row.energy for row in rows) else []),
        Column[Row]("Agree", lambda row: formats.agreement(row.agreement), 4),
        Column[Row]("Pareto", lambda row: "*" if row.candidate.pareto else "", 5),
    )
    return FittedTable(
        f"{result.model} on {result.data}",
        rows,
        columns,
        _row_style,
        lambda row: row.why,
        "Verdict",
        caption=_legend(result, rows),
    )


def measurements_table(measurements: Sequence[Measurement], sizes: Mapping[str, int]) -> RenderableType:
    """Return measured files side by side, one row a file and batch size, speed relative to the first file.

    Args:
        measurements: at least one; the first is what the others are compared with.
        sizes: bytes on disk by `Measurement.target`; a target without an entry shows none.

    Example:
        >>> from rich.console import Console
        >>> found = kopt.measure.latency([model, "model.tflite"], max_seconds=0.1)
        >>> Console(width=80).print(kopt.report.measurements_table(found, {"model.tflite": 2048}))
        Latency
        File          Batch   p50 ms   p99 ms    Per s  Speed  KiB
        ...
        model.tflite      1 ... 2.0
        ...
    """
    rows = tuple(_bench_rows(measurements, sizes))
    has_memory = any(row.peak_memory_bytes is not None for row in rows)  # then it was asked for
    columns = (
        Column[_BenchRow]("File", lambda row: row.target, is_number=False),
        Column[_BenchRow]("Runtime", lambda row: row.runtime, 4, is_number=False),
        Column[_BenchRow]("Batch", lambda row: str(row.batch_size)),
        Column[_BenchRow]("p50 ms", lambda row: formats.number(row.p50_ms)),
        Column[_BenchRow]("p90 ms", lambda row: formats.number(row.p90_ms), 6),
        Column[_BenchRow]("p99 ms", lambda row: formats.number(row.p99_ms), 1),
        Column[_BenchRow]("Per s", lambda row: formats.number(row.throughput_per_s), 2),
        Column[_BenchRow]("Speed", lambda row: formats.times(row.speedup)),
        Column[_BenchRow]("KiB", lambda row: formats.kibibytes(row.size_bytes), 3),
        *([Column[_BenchRow]("Peak MiB", lambda row: _mebibytes(row.peak_memory_bytes), 1)] if has_memory else []),
    )
    return FittedTable("Latency", rows, columns, caption=_bench_caption(measurements))


def artifact_table(artifact: Artifact) -> RenderableType:
    """Return what is known of an exported file: sizes, signature, operators and parity.

    Example:
        >>> from rich.console import Console
        >>> Console(width=80).print(kopt.report.artifact_table(artifact))
        model.tflite
        Format   tflite, float32
        Size     ... KiB (... KiB after gzip)
        Input    image (?, 8, 8, 1) float32
        Output   classes (?, 10) float32
        ...
    """
    facts = FittedTable(
        artifact.path,
        _artifact_facts(artifact),
        (Column[tuple[str, str]]("", lambda fact: fact[0], is_number=False),),
        remark=lambda fact: fact[1],
    )
    parts: list[RenderableType] = [facts]
    if artifact.operators:
        parts.append(_operators_table(artifact.operators))
    parts.extend(Text(f"Note: {note}") for note in artifact.notes)
    return Group(*parts)


def checks_table(checks: Sequence[Check]) -> RenderableType:
    """Return what an installation has and lacks, with the remedy.

    Example:
        >>> from rich.console import Console
        >>> Console(width=80).print(kopt.report.checks_table(kopt.measure.check_devices()))
        kopt doctor
        Check               Status   Found
        ...
    """
    columns = (
        Column[Check]("Check", lambda check: check.name, is_number=False),
        Column[Check]("Status", lambda check: _CHECK_MARKS[check.status], is_number=False),
    )
    return FittedTable(
        "kopt doctor",
        checks,
        columns,
        lambda check: _CHECK_STYLES[check.status],
        lambda check: ". ".join(filter(None, (check.found, check.remedy))),
        "Found",
    )


def _energy(row: Row) -> str:
    if row.energy is None:
        return formats.NOTHING
    return f"{'' if row.energy.measured else '≈'}{formats.number(row.energy.millijoules)}"


def _drop_header(metric: str) -> str:
    return "Drop pt" if formats.is_counted(metric) else "Drop"


def _drop(row: Row, metric: str) -> str:
    text = formats.NOTHING if row.is_baseline else formats.metric_change(row.drop, metric)
    return f"{text}~" if row.within_noise else text


def _row_style(row: Row) -> str:
    if row.is_best:
        return "bold green"
    if row.failed:
        return "red"
    return "" if row.is_baseline or row.candidate.within_budget else "dim"


def _legend(result: OptimizationResult, rows: Sequence[Row]) -> list[str]:
    _, reference = size_reference(result)
    against = f" Size: against {reference}." if reference else ""
    front = " Pareto front: *." if any(row.candidate.pareto for row in rows) else ""
    lines = [f"Speed: against the first row.{against} Best: >.{front}"]
    if any(row.within_noise for row in rows):
        lines.append("~: within the noise of so many examples (95% interval of the drop includes zero).")
    lines += open_questions(rows)
    if any(row.energy and not row.energy.measured for row in rows):
        lines.append("mJ: energy of one example; ≈ an estimate, not a measurement.")
    batches = {row.latency.batch_size for row in rows if row.latency}
    if batches - {1}:
        lines.append(f"p50 ms is a call at batch size {', '.join(map(str, sorted(batches)))}.")
    return lines


@dataclasses.dataclass(frozen=True)
class _BenchRow:
    target: str
    runtime: str
    batch_size: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    speedup: float | None
    size_bytes: int | None
    peak_memory_bytes: int | None


def _bench_rows(measurements: Sequence[Measurement], sizes: Mapping[str, int]) -> list[_BenchRow]:
    reference = {latency.batch_size: latency.p50_ms for latency in measurements[0].latencies}
    folder = _common_folder([measurement.target for measurement in measurements])
    return [
        _BenchRow(
            target=measurement.target.removeprefix(folder),
            runtime=measurement.runtime,
            batch_size=latency.batch_size,
            p50_ms=latency.p50_ms,
            p90_ms=latency.p90_ms,
            p99_ms=latency.p99_ms,
            throughput_per_s=latency.throughput_per_s,
            speedup=reference[latency.batch_size] / latency.p50_ms if latency.batch_size in reference else None,
            size_bytes=sizes.get(measurement.target),
            peak_memory_bytes=measurement.peak_memory_bytes,
        )
        for measurement in measurements
        for latency in measurement.latencies
    ]


def _common_folder(targets: Sequence[str]) -> str:
    parents = [target.rpartition("/")[0] for target in targets]
    if len(set(targets)) == 1 or not all(parent.startswith("/") for parent in parents):
        return ""
    return f"{os.path.commonpath(parents)}/".replace("//", "/")


def _bench_caption(measurements: Sequence[Measurement]) -> list[str]:
    machine = measurements[0].machine
    lines = [f"{machine.processor}, {machine.cores} core(s), {machine.system}. Speed: against the first file."]
    for measurement in measurements:
        energy = measurement.energy
        if energy:
            kind = "measured" if energy.measured else "estimate"
            lines.append(
                f"{measurement.target}: {formats.number(energy.millijoules)} mJ an example ({kind}: {energy.method})."
            )
    return lines


def _mebibytes(value: int | None) -> str:
    return formats.NOTHING if value is None else formats.number(value / (1 << 20))


def _artifact_facts(artifact: Artifact) -> list[tuple[str, str]]:
    facts = [
        ("Format", f"{artifact.format}, {artifact.scheme}"),
        ("Size", f"{formats.size(artifact.size_bytes)} ({formats.size(artifact.gzip_bytes)} after gzip)"),
        *(("Input", _tensor(tensor)) for tensor in artifact.inputs),
        *(("Output", _tensor(tensor)) for tensor in artifact.outputs),
    ]
    if artifact.options:
        facts.append(("Options", ", ".join(f"{key}={value}" for key, value in artifact.options.items())))
    if artifact.parity:
        facts.extend(_parity_facts(artifact))
    return [*facts, ("SHA-256", artifact.sha256)]


def _parity_facts(artifact: Artifact) -> list[tuple[str, str]]:
    parity = artifact.parity
    if parity is None:
        return []
    facts = []
    for output in parity.outputs:
        text = f"{output.name}: largest difference {formats.number(output.max_abs)}, rmse {formats.number(output.rmse)}"
        if output.argmax_agreement is not None:
            text += f", argmax agreement {formats.agreement(output.argmax_agreement)}"
        if output.nonfinite_a:
            text += f", {output.nonfinite_a} NaN or infinite"
        facts.append(("Parity", f"{text} ({parity.examples:,} examples)"))
    return facts


def _tensor(tensor: TensorInfo) -> str:
    text = f"{tensor.name} {formats.shape(tensor.shape)} {tensor.dtype}"
    return (
        text
        if tensor.scale is None
        else f"{text}, scale {formats.number(tensor.scale)}, zero point {tensor.zero_point}"
    )


def _operators_table(operators: Sequence[OperatorCount]) -> RenderableType:
    columns = (
        Column[OperatorCount]("Operator", lambda operator: operator.name, is_number=False),
        Column[OperatorCount]("Type", lambda operator: operator.dtype, is_number=False),
        Column[OperatorCount]("Count", lambda operator: str(operator.count)),
    )
    return FittedTable("", sorted(operators, key=lambda operator: -operator.count), columns)


def _part(value: int | None, total: int) -> str:
    return "" if not value else formats.share(value / total)
