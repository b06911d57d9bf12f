"""A profile in the Trace Event Format, which chrome://tracing and Perfetto open."""

import json
from typing import Any

from kopt.core.records.profiles.time import OpProfile, ThreadTimeline

_PROCESS = 1
_STEPS_THREAD = 0


def chrome_trace(profile: OpProfile) -> str:
    """Return the profile as JSON: a row a thread, steps above them, times in microseconds.

    What a thread did for an operation of another thread has the category `"helper"`.

    Source: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    events: list[dict[str, Any]] = [_name("process_name", _STEPS_THREAD, f"{profile.model}: {profile.step}")]
    events.append(_name("thread_name", _STEPS_THREAD, "steps"))
    spans = zip(profile.step_start_us, profile.step_duration_us, strict=True)
    events.extend(
        _event(f"step {number}", "step", _STEPS_THREAD, start, length) for number, (start, length) in enumerate(spans)
    )
    for thread, timeline in enumerate(profile.timelines, start=1):
        events.append(_name("thread_name", thread, timeline.thread))
        events.extend(_thread_events(profile, timeline, thread))
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)


def _thread_events(profile: OpProfile, timeline: ThreadTimeline, thread: int) -> list[dict[str, Any]]:
    events = []
    for op, helper, start, length in zip(
        timeline.ops, timeline.helper, timeline.start_us, timeline.duration_us, strict=True
    ):
        row = profile.ops[op]
        category = "helper" if helper else row.phase
        arguments = {"type": row.type, "layer": row.layer or "", "phase": row.phase, "device": row.device}
        events.append({**_event(row.name, category, thread, start, length), "args": arguments})
    return events


def _event(name: str, category: str, thread: int, start: float, length: float) -> dict[str, Any]:
    return {"name": name, "cat": category, "ph": "X", "ts": start, "dur": length, "pid": _PROCESS, "tid": thread}


def _name(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": name}}
