"""One row of the sweep: the checks of one part over one model, in this process; prints the row as JSON.

`python -m sweep.row` with no arguments prints what there is to sweep over.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import applications
import bridge_checks
import channel_checks
import keras
import quantization_checks
import zoo
from channel_cases import relative_difference, with_zeros

import kopt
from kopt.core.errors import InputError, KoptError
from kopt.graph import GraphView
from sweep import results

# A network at its own size, of which pruning is timed, and the seconds it may take.
SPEED_LIMIT_S = {"ResNet50": 20.0, "ConvNeXtBase": None}
_ZOO = "zoo/"
_EXAMPLES = 16
# They come last, so that a sweep that is killed has most of the rows.
_LONGEST = (
    *("ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtXLarge", "EfficientNetB5", "EfficientNetB6"),
    *("EfficientNetB7", "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S", "NASNetLarge"),
)


class Checks:
    """Runs checks one by one; what one of them says against the model does not keep the others from running."""

    def __init__(self, bounds: dict[str, float]):
        self.numbers: dict[str, Any] = {}
        self.failures: list[str] = []
        self._bounds = bounds

    def run(self, name: str, check: Callable[[], Any]) -> Any:
        """Return what the check returns; `None` if it fails."""
        start = time.perf_counter()
        try:
            value = check()
        except (KoptError, AssertionError) as error:
            self.failures.append(f"{name}: {type(error).__name__}: {_first_line(error)}")
            return None
        self.numbers[f"{name}_s"] = round(time.perf_counter() - start, 2)
        if name in self._bounds:
            self.note(name, value)
        return value

    def note(self, name: str, value: float) -> None:
        """Write down a number, and hold it against its bound."""
        self.numbers[name] = value
        if not value <= self._bounds[name]:
            self.failures.append(f"{name}: {value:.3g}, at most {self._bounds[name]:g} was expected")


def _first_line(error: BaseException) -> str:
    return results.reason((str(error).splitlines() or ["a check does not hold"])[0])


def _model(name: str) -> tuple[keras.Model, Any]:
    """Return a model whose signals are of order one, and examples."""
    if name.startswith(_ZOO):
        model = zoo.build(name.removeprefix(_ZOO))
        x = zoo.inputs(model, _EXAMPLES)
        return applications.with_fitting_norms(model, x), x
    return applications.build(name), applications.images(name, _EXAMPLES)


def _two(x: Any) -> Any:
    return keras.tree.map_structure(lambda values: values[:2], x)


def channels(name: str, keep: float) -> Checks:
    """Remove channels, and do with the smaller model what users do."""
    checks = Checks(channel_checks.BOUNDS)
    model, examples = _model(name)
    x = _two(examples)

    def settle(one: keras.Model) -> keras.Model:
        return applications.with_fitting_norms(one, examples)

    smaller, report, seconds = channel_checks.pruned(model, keep)
    # Without half of the channels, statistics of before let signals die out, and any two files would be alike.
    smaller = settle(smaller)
    checks.numbers.update(pruned_s=round(seconds, 2), macs_kept=report.macs_kept, macs_before=report.macs_before)
    checks.run("runs", lambda: channel_checks.runs(model, smaller, x))
    checks.run("macs", lambda: channel_checks.macs(model, report))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        checks.run("reloaded", lambda: channel_checks.reloaded(smaller, x, folder))
        for kind in ("tflite", "onnx"):
            _exported(checks, kind, smaller, x, folder / f"smaller.{kind}")
    checks.run("trains", lambda: channel_checks.trains(smaller, x))
    zeroed = checks.run("zeros_made", lambda: with_zeros(model, keep, settle))
    if zeroed is not None:
        with_them, without, _ = zeroed
        difference = checks.run("zeros_compared", lambda: relative_difference(with_them, without, x))
        if difference is None:
            return checks
        checks.numbers["zeros"] = difference
        if not difference <= channel_checks.BOUNDS["zeros"]:
            checks.run("zeros_float64", lambda: channel_checks.difference_in_double(with_them, without, x))
    return checks


def _exported(checks: Checks, kind: str, smaller: keras.Model, x: Any, path: Path) -> None:
    found = checks.run(f"{kind}_export", lambda: channel_checks.from_file(smaller, x, path))
    if found is None:
        return
    checks.numbers[kind] = channel_checks.exported(smaller, x, found)
    if not checks.numbers[kind] <= channel_checks.BOUNDS[kind]:
        checks.run(f"{kind}_rounding", lambda: channel_checks.rounding(smaller, x, found))


def bridge(name: str, keep: float) -> Checks:
    """Make the tf_keras twin, put tfmot round it, and come back."""
    checks = Checks(bridge_checks.BOUNDS)
    model, x = _model(name)
    x = _two(x)
    GraphView.of(model)  # a model without one is refused
    made = checks.run("converts", lambda: bridge_checks.twin(model, x))
    if made is not None:
        checks.numbers.update(twin=made[0], adapters=made[1])
        if made[0] > bridge_checks.BOUNDS["twin"]:
            with bridge_checks.float64():
                double = _in_double(name, model)
                checks.note("twin_float64", bridge_checks.twin(double, keras.tree.map_structure(_wider, x))[0])
    back = checks.run("tfmot", lambda: bridge_checks.there_and_back(model, x))
    if back is not None:
        checks.note("not_bit_for_bit", back["not_bit_for_bit"])
        checks.numbers["finalized"] = back["finalized"]
        if not back["finalized"] <= bridge_checks.BOUNDS["finalized"]:
            checks.run("finalized_rounding", lambda: channel_checks.rounding(back["plain"], x, back["found"]))
        checks.numbers.update(wrapped=back["wrapped"], left=back["left"])
    return checks


def _wider(values: Any) -> Any:
    return values.astype("float64") if values.dtype == "float32" else values


def _in_double(name: str, model: keras.Model) -> keras.Model:
    """Return the network anew, while double precision is on, with the same weights."""
    if name.startswith(_ZOO):
        return channel_checks.in_double(model)
    double = applications.untrained(name)
    double.set_weights(model.get_weights())
    return double


def speed(name: str, keep: float) -> Checks:
    """Time pruning of a network at its own size."""
    limit = SPEED_LIMIT_S[name]
    checks = Checks({} if limit is None else {"seconds": limit})
    model = applications.untrained(name, 224)
    _, report, seconds = channel_checks.pruned(model, keep)
    checks.numbers["macs_kept"] = report.macs_kept
    checks.numbers["seconds"] = round(seconds, 2)
    if limit is not None:
        checks.note("seconds", round(seconds, 2))
    return checks


def quantize(name: str, keep: float) -> Checks:
    """Train a step with the rounding of an int8 file, and write the file."""
    checks = Checks(quantization_checks.BOUNDS)
    model, x = _model(name)
    made = checks.run("trains", lambda: quantization_checks.trained(model, x))
    if made is None:
        return checks
    copy, report = made
    with tempfile.TemporaryDirectory() as directory:
        found = checks.run("ships", lambda: quantization_checks.shipped(copy, report, x, Path(directory)))
    bound = quantization_checks.BOUNDS["difference"]
    is_far = found is None or found["difference"] > bound
    noise = checks.run("noise", lambda: quantization_checks.noise(copy, x)) if is_far else 0.0
    if found is None:
        if noise > bound:
            raise InputError(f"a nudge of the inputs changes the copy by {noise:.2f}. {checks.failures[-1]}")
        return checks
    checks.note("float_operators", found.pop("float_operators"))
    checks.numbers.update(found)
    if is_far:
        checks.note("difference_over_noise", found["difference"] / max(noise, sys.float_info.min))
    return checks


PARTS = {"channels": channels, "bridge": bridge, "speed": speed, "quantize": quantize}


def jobs() -> list[dict[str, Any]]:
    """Return part, model and keep of every row."""
    # Three of the zoo are in `keras.applications`.
    names = applications.names()
    known = {name.lower() for name in names}
    models = [*names, *(f"{_ZOO}{name}" for name in zoo.BUILDERS if name.replace("_", "") not in known)]
    models.sort(key=lambda name: name in _LONGEST)
    found = [{"part": "speed", "model": name, "keep": 0.5} for name in SPEED_LIMIT_S]
    for name in models:
        found += [{"part": "channels", "model": name, "keep": 0.5}, {"part": "bridge", "model": name, "keep": 1.0}]
    # The contract of the tests has all of the zoo.
    found += [{"part": "quantize", "model": name, "keep": 1.0} for name in models if not name.startswith(_ZOO)]
    return [*found, *({"part": "channels", "model": name, "keep": 0.7} for name in models)]


def row(part: str, name: str, keep: float) -> dict[str, Any]:
    """Return a row: `status` is `"ok"`, `"refused"` (kopt says that it has nothing to do here) or `"failed"`."""
    start = time.perf_counter()
    size = 224 if part == "speed" else 0 if name.startswith(_ZOO) else applications.pixels(name)
    found: dict[str, Any] = {"part": part, "model": name, "keep": keep, "pixels": size}
    try:
        checks = PARTS[part](name, keep)
    except InputError as error:
        found.update(status="refused", reason=_first_line(error))
    else:
        status = "failed" if checks.failures else "ok"
        found.update(status=status, reason="; ".join(checks.failures), numbers=checks.numbers)
    machine = kopt.core.environment.machine()
    return {**found, "seconds": round(time.perf_counter() - start, 1), "versions": machine.versions}


def main() -> None:
    """Print the list of jobs, or one row."""
    if len(sys.argv) == 1:
        print(json.dumps(jobs()))
        return
    part, name, keep = sys.argv[1:]
    print(json.dumps(row(part, name, float(keep))))


if __name__ == "__main__":
    main()
