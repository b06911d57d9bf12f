"""The outcome of a run in words."""

from kopt.core.records.candidates import OptimizationResult
from kopt.report.parts import formats
from kopt.report.run.rows import Row, baseline_row, candidate_rows, size_reference
from kopt.report.run.shortfalls import demands, shortfall_text

_SAME_SPEED = 0.05
# Times as many examples as there are, beyond which asking for more is no advice.
_MOST_TIMES = 100


def headline(result: OptimizationResult) -> str:
    """Return the outcome in a sentence or two: the best candidate with its gains and costs, or why there is none.

    Example:
        >>> print(kopt.report.headline(result))
        tflite-int8 is ... as fast as the model as given ..., ...% of the size of its float32 weights ...
    """
    rows = candidate_rows(result)
    best = next((row for row in rows if row.is_best), None)
    if best:
        return f"{best.name} {_gains(result, best)}; {_metric(result, best)}."
    usable = [row for row in rows if not row.failed and row.drop is not None]
    if not usable:
        return f"None of the {len(rows)} candidates could be made and measured." if rows else "No candidate was tried."
    closest = next((row for row in usable if row.name == result.nearest_name), None)
    closest = closest or min(usable, key=lambda row: row.drop or 0.0)
    bounds = "".join(f", {one}" for one in demands(result.budget)[1:])
    missed = "; ".join(shortfall_text(one, result.budget) for one in closest.candidate.shortfalls)
    return (
        f"No candidate stays inside the budget of {budget_text(result)}{bounds}. "
        f"The closest is {closest.name}: it {_gains(result, closest)}; {_metric(result, closest)}."
        + (f" What is not met: {missed}." if missed else "")
    )


def budget_text(result: OptimizationResult) -> str:
    """Return the budget in words, e.g. `1.00 points of accuracy`."""
    metric = result.budget.metric
    amount = formats.metric_change(result.budget.max_drop, metric)
    return f"{amount} points of {metric}" if formats.is_counted(metric) else f"{amount} of {metric}"


def change_text(row: Row, metric: str) -> str:
    """Return how the metric changed: `loses 0.12 points of accuracy`, `keeps the accuracy`."""
    if row.drop is None:
        return f"its {metric} is unknown"
    amount = formats.metric_change(abs(row.drop), metric)
    if float(amount.replace("NaN", "nan")) == 0:
        return f"keeps the {metric}"
    unit = f"points of {metric}" if formats.is_counted(metric) else f"of {metric}"
    return f"{'loses' if row.drop > 0 else 'gains'} {amount} {unit}"


def doubts(result: OptimizationResult, row: Row) -> list[str]:
    """Return what the examples cannot tell about a candidate, in sentences; empty if nothing is open."""
    if row.drop_interval is None:
        return []
    few, level = f"{row.examples:,} examples", f"{result.budget.level:.0%}"
    low, high = (formats.metric_change(end, result.budget.metric) for end in row.drop_interval)
    unit = formats.change_unit(result.budget.metric)
    found = []
    if row.within_noise:
        found.append(f"The change is within noise: on {few} the drop lies between {low} and {high} {unit} ({level}).")
    if row.candidate.within_budget and row.drop_interval[1] > result.budget.max_drop:
        needed = row.candidate.judgement.examples_needed if row.candidate.judgement else None
        more = _more(needed, row.examples) if needed else ""
        found.append(
            f"The drop may be as large as {high} {unit} ({level}), more than the budget allows: "
            f"{few} are too few to be sure.{more}"
        )
    return found


def _more(needed: int, examples: int | None) -> str:
    """Return how many examples would tell, where that is a number that somebody may have."""
    if needed > _MOST_TIMES * (examples or 0):
        return " It is so near the budget that no practical number would tell."
    return f" About {_rounded(needed)} would do."


def _rounded(count: int) -> str:
    """Return `count` rounded up to two significant digits: more would pretend to know it."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def runtime_text(result: OptimizationResult, row: Row) -> str:
    """Return where the numbers come from: `LiteRT (the model as given: Keras)`."""
    reference = baseline_row(result).runtime
    if not row.runtime or row.runtime == reference:
        return row.runtime
    return f"{row.runtime} (the model as given: {reference})" if reference else row.runtime


def _gains(result: OptimizationResult, row: Row) -> str:
    baseline, reference = baseline_row(result), size_reference(result)[1]
    parts = [
        part
        for part in (
            _speed(row, baseline),
            _against_plain(result, row),
            _size(row, baseline, reference),
            _energy(row, baseline),
        )
        if part
    ]
    return "is " + ", ".join(parts) if parts else "was made"


def _speed(row: Row, baseline: Row) -> str:
    if row.speedup is None or row.latency is None:
        return ""
    against = f"{formats.number(row.latency_ms)} ms against {formats.number(baseline.latency_ms)} ms"
    if abs(row.speedup - 1) <= _SAME_SPEED:
        return f"as fast as the model as given ({against})"
    if row.speedup > 1:
        return f"{formats.times(row.speedup)} as fast as the model as given ({against})"
    return f"{formats.times(1 / row.speedup)} slower than the model as given ({against})"


def _against_plain(result: OptimizationResult, row: Row) -> str:
    """Return the speed against the file that no technique was applied to, in the same runtime."""
    plain = next((one for one in candidate_rows(result) if one.name == "tflite-float32"), row)
    is_other = plain.name != row.name and plain.runtime == row.runtime
    if not is_other or not plain.latency_ms or not row.latency_ms:
        return ""
    return f"{formats.times(plain.latency_ms / row.latency_ms)} as fast as {plain.name}"


def _size(row: Row, baseline: Row, reference: str) -> str:
    if row.size_ratio is None:
        return "" if row.size_bytes is None else f"{formats.size(row.size_bytes)} in size"
    pair = f"{formats.size(row.size_bytes)} of {formats.size(baseline.size_bytes)}"
    return f"{formats.share(row.size_ratio)} of the size of {reference} ({pair})"


def _energy(row: Row, baseline: Row) -> str:
    own, reference = row.energy, baseline.energy
    if own is None or reference is None or not reference.millijoules > 0:
        return ""
    kind = "measured" if own.measured and reference.measured else "an estimate"
    ratio = formats.share(own.millijoules / reference.millijoules)
    return f"{ratio} of its energy ({formats.number(own.millijoules)} mJ an example, {kind})"


def _metric(result: OptimizationResult, row: Row) -> str:
    noise = ", within noise" if row.within_noise else ""
    examples = f" on {row.examples:,} examples" if row.examples else ""
    value = formats.metric_value(row.metric, result.budget.metric)
    return f"it {change_text(row, result.budget.metric)} ({value}{examples}{noise})"
