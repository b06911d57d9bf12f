"""From the latency of a call by batch size to TF Serving's batching parameters. Pure."""

from collections.abc import Sequence

from kopt.core.errors import ConfigError
from kopt.core.records.measurements import Latency
from kopt.core.records.shipping.serving import BatchingPlan
from kopt.core.settings import number

# A larger batch must give this much more throughput than the best smaller one, or it only adds to the latency.
_WORTH = 1.1
_QUEUE_MS = 1000.0


def plan_batching(
    latencies: Sequence[Latency], *, latency_ms: float | None = None, cores: int = 1, queue_ms: float = _QUEUE_MS
) -> BatchingPlan:
    """Derive batching parameters from measured latencies.

    - `max_batch_size` is the size with the highest throughput `b / t(b)`, where a larger size counts only if it gives
      10 % more than the best smaller one and `t(b)` is inside `latency_ms`.
    - `batch_timeout_micros` is `t(1)`: waiting for company costs a lone request no more than its own work does. It is
      shortened to what `latency_ms` leaves beside `t(max_batch_size)`.
    - `max_enqueued_batches` is what the threads work off in `queue_ms`; a client waits no longer than that in the
      queue, and what comes beyond is refused at once.
    - `num_batch_threads` is 1 where batching pays, because one call has all cores already, and else one a core.

    Args:
        latencies: one a batch size; the smallest stands for a lone request.
        latency_ms: milliseconds that a request may take, waiting for its batch included; no bound if `None`.
        cores: of the server.
        queue_ms: milliseconds that a request may wait in the queue.

    Raises:
        ConfigError: no latency, or even the smallest batch is slower than `latency_ms`.

    Example:
        >>> times = {1: 1.0, 8: 2.0, 64: 15.0}  # milliseconds by batch size
        >>> latencies = [kopt.measure.summarize([ms], batch_size=size, warmup_runs=0) for size, ms in times.items()]
        >>> plan = kopt.serve.plan_batching(latencies)
        >>> plan.max_batch_size, plan.batch_timeout_micros  # 64 would give 7 % more throughput only
        (8, 1000)

    Source: "TensorFlow Serving Batching Guide", section "Performance Tuning".
    """
    ordered = sorted(latencies, key=lambda latency: latency.batch_size)
    if not ordered:
        raise ConfigError("Batching parameters come from measured latencies. Received none.")
    number("queue_ms", queue_ms, least=0.0, open_below=True)
    lone = ordered[0]
    if latency_ms is not None and lone.p50_ms > number("latency_ms", latency_ms, least=0.0, open_below=True):
        raise ConfigError(
            f"A call of {lone.batch_size} example(s) takes {lone.p50_ms:.3g} ms. Received: latency_ms={latency_ms:g}. "
            f"Allow more, or make the model faster first."
        )
    best = lone
    for latency in ordered[1:]:
        inside = latency_ms is None or latency.p50_ms <= latency_ms
        if inside and latency.throughput_per_s >= _WORTH * best.throughput_per_s:
            best = latency
    wait_ms = lone.p50_ms if best is not lone else 0.0
    if latency_ms is not None:
        wait_ms = min(wait_ms, latency_ms - best.p50_ms)
    threads = 1 if best is not lone else cores
    return BatchingPlan(
        max_batch_size=best.batch_size,
        batch_timeout_micros=round(wait_ms * 1e3),
        max_enqueued_batches=max(1, int(queue_ms / best.p50_ms) * threads),
        num_batch_threads=threads,
        allowed_batch_sizes=tuple(one.batch_size for one in ordered if one.batch_size <= best.batch_size),
        latencies=tuple(ordered),
    )


def batching_parameters_text(plan: BatchingPlan) -> str:
    """Return the plan as the text of TF Serving's `BatchingParameters`, for `--batching_parameters_file`."""
    lines = [
        f"# Median milliseconds a call, by batch size: {', '.join(_measured(one) for one in plan.latencies)}"
        if plan.latencies
        else "# Given by hand.",
        f"max_batch_size {{ value: {plan.max_batch_size} }}",
        f"batch_timeout_micros {{ value: {plan.batch_timeout_micros} }}",
        f"max_enqueued_batches {{ value: {plan.max_enqueued_batches} }}",
        f"num_batch_threads {{ value: {plan.num_batch_threads} }}",
        *(f"allowed_batch_sizes: {size}" for size in plan.allowed_batch_sizes),
    ]
    return "\n".join(lines) + "\n"


def _measured(latency: Latency) -> str:
    return f"{latency.batch_size}: {latency.p50_ms:.3g}"
