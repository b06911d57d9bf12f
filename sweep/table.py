"""The rows of the sweep as a page of Markdown."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_STATUSES = ("ok", "refused", "skipped", "failed")

_INTRODUCTION = """\
# Sweep over `keras.applications` and the zoo

Made by `make sweep` (`python -m sweep.run`); do not edit. Random weights whose normalizations were estimated on a
batch, so that signals are of order one; ten classes; each row in a process of its own.

{versions}

{summary}
"""

_CHANNELS = """\
## Channels removed: `kopt.prune.channels(model, keep={keep:g})`

- *MACs*: share left. *Predicted*: by what share the count of the smaller model differs from the one that was predicted
  without making it; at most 1 %.
- *Zeros*: half of a model's channels (or 30 %) are set to zero and removed; largest difference of the outputs as a
  share of the largest output, at most 1e-4. Where rounding alone is more, both are computed again in float64, and must
  agree to 1e-12. *Reloaded*, *TFLite*, *ONNX*: the same of a `.keras` file (1e-6) and of
  exported files in their runtimes (1e-4). Where rounding alone is more, *... over rounding*: how many times as far as
  the model in float32 the file is from the model in float64, at most 1.5.
- *Trains*: seconds of one step of `fit`, run eagerly. *Pruning*: seconds of the call.
"""

_BRIDGE = """\
## tf_keras twin and tfmot: `kopt.prune.magnitude(model, 0.5, backend="tfmot")`

- *Twin*: largest difference of the outputs, as a share of the largest output; at most 1e-5. Where rounding alone is
  more, both are computed again in float64, and must agree to 1e-12. *Adapters*: calls of
  layers or operations of Keras 3 alone, which the twin holds as they are.
- *Wrapped*: kernels under tfmot's wrappers. *Left*: layers that stay dense, by reason.
- *Weights that came back otherwise*: after every weight of the twin was changed, those that are not bit for bit the
  same in the Keras 3 model that `finalize` gives. *Finalized*: difference of the outputs, at most 1e-4. Where rounding
  alone is more, *over rounding*: how many times as far as that model in float32 the twin is from it in float64, at most
  1.5.
"""

_QUANTIZE = """\
## Training with the rounding of an int8 file: `kopt.quantize.aware(model)`, a step of `fit`, `kopt.export.tflite`

- *Kernels*, *Ranges*: what is rounded. *Left*: layers in float, by reason. *Float operators*: in the file, where no
  layer is left in float.
- *Difference*: mean between the outputs of the copy and of its file, as a share of the largest; at most 0.05. Where
  it is more, *over noise*: how many times as far as the copy from itself on inputs that are larger by 1e-5, a small
  part of a step; at most 1.5. A rounding that falls the other way grows from layer to layer under random weights, and
  of some networks no two computations agree; where such a file is too far from its copy, the export refuses it.
  *Agreement*: share of 16 examples with the same class. Weights are random, so that classes are close.
"""

_SPEED = """\
## Seconds of `kopt.prune.channels(model, keep=0.5)` at 224x224

ResNet50 may take 20.
"""


def write(path: Path, rows: Iterable[Row], asked: int) -> None:
    """Write the page, whole; `asked` is the number of rows of a whole sweep."""
    rows = list(rows)
    sections = [_INTRODUCTION.format(versions=_versions(rows), summary=_summary(rows, asked))]
    for keep in sorted({row["keep"] for row in rows if row["part"] == "channels"}, reverse=True):
        chosen = [row for row in rows if row["part"] == "channels" and row["keep"] == keep]
        sections.append(_CHANNELS.format(keep=keep) + "\n" + _table(chosen, CHANNELS))
    others = (("bridge", _BRIDGE, BRIDGE), ("quantize", _QUANTIZE, QUANTIZE), ("speed", _SPEED, SPEED))
    for part, text, columns in others:
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            sections.append(text + "\n" + _table(chosen, columns))
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("\n".join(sections))
    unfinished.replace(path)


def _difference(name: str) -> Callable[[Row], str]:
    return lambda numbers: f"{numbers[name]:.0e}" if numbers.get(name) else "0" if name in numbers else "-"


def _plain(name: str, form: str = "") -> Callable[[Row], str]:
    return lambda numbers: format(numbers[name], form) if name in numbers else "-"


def _left(numbers: Row) -> str:
    reasons = list(numbers.get("left", {}).values())
    return "; ".join(f"{reasons.count(reason)}: {reason}" for reason in dict.fromkeys(reasons)) or "none"


Columns = dict[str, Callable[[Row], str]]
CHANNELS: Columns = {
    "MACs": _plain("macs_kept", ".3f"),
    "Predicted": _difference("macs"),
    "Zeros": _difference("zeros"),
    "in float64": _difference("zeros_float64"),
    "Reloaded": _difference("reloaded"),
    "TFLite": _difference("tflite"),
    "TFLite over rounding": _plain("tflite_rounding", ".2f"),
    "ONNX": _difference("onnx"),
    "ONNX over rounding": _plain("onnx_rounding", ".2f"),
    "Trains, s": _plain("trains_s", ".1f"),
    "Pruning, s": _plain("pruned_s", ".1f"),
}
BRIDGE: Columns = {
    "Twin": _difference("twin"),
    "in float64": _difference("twin_float64"),
    "Adapters": _plain("adapters"),
    "Wrapped": _plain("wrapped"),
    "Left": _left,
    "Weights that came back otherwise": _plain("not_bit_for_bit"),
    "Finalized": _difference("finalized"),
    "over rounding": _plain("finalized_rounding", ".2f"),
    "tfmot, s": _plain("tfmot_s", ".1f"),
}
QUANTIZE: Columns = {
    "Kernels": _plain("kernels"),
    "Ranges": _plain("ranges"),
    "Left": _left,
    "Float operators": _plain("float_operators"),
    "Difference": _difference("difference"),
    "over noise": _plain("difference_over_noise", ".2f"),
    "Agreement": _plain("agreement", ".2f"),
    "Size, KB": lambda numbers: f"{numbers['size_bytes'] / 1e3:,.0f}" if "size_bytes" in numbers else "-",
    "Training step, s": _plain("trains_s", ".1f"),
    "Export, s": _plain("ships_s", ".1f"),
}
SPEED: Columns = {"MACs": _plain("macs_kept", ".3f"), "Pruning, s": _plain("seconds", ".1f")}


def _table(rows: list[Row], columns: Columns) -> str:
    head = ["Model", "Pixels", *columns, "All, s", "Memory, GB", "Result"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda row: (not row["model"].startswith("zoo/"), row["model"])):
        numbers = row.get("numbers")
        cells = [column(numbers) for column in columns.values()] if numbers else ["-"] * len(columns)
        result = row["status"] + (f": {row['reason']}" if row["reason"] else "")
        cells = [row["model"], str(row["pixels"] or "-"), *cells, str(row["seconds"]), str(row["peak_gb"]), result]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _versions(rows: list[Row]) -> str:
    found = {tuple(sorted(row["versions"].items())) for row in rows if "versions" in row}
    return "\n".join("Versions: " + ", ".join(f"{name} {version}" for name, version in one) + "." for one in found)


def _summary(rows: list[Row], asked: int) -> str:
    counts = [sum(row["status"] == status for row in rows) for status in _STATUSES]
    found = ", ".join(f"{count} {status}" for count, status in zip(counts, _STATUSES, strict=True))
    return f"{asked} rows: {found}, {asked - len(rows)} not run yet."
