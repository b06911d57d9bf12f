"""Write an integer .tflite of a model: ranges chosen by their error, some layers in float, or some of 4 bits."""

import argparse
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import EXAMPLES, calibration_from, check_model_output, one_step, show_text, splits_from
from kopt.core.errors import ConfigError
from kopt.core.files import atomic_path

_MAX_DROP = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="x.tflite; or x.keras, a copy that trains")
    parser.add_argument(
        "--data", required=True, help=f"calibration data: {EXAMPLES}; for --fallback labelled, or --least-db"
    )
    # No `choices`: the library's own errors name the nearest word.
    parser.add_argument("--scheme", default="int8", help="int8 or int16x8")
    parser.add_argument("--options", nargs="*", metavar="NAME", help="apply these, whatever they do to the error")
    parser.add_argument("--ranges", default="auto", help="minmax, moving_average, percentile, mse or entropy for all")
    parser.add_argument("--skip", nargs="+", default=(), metavar="LAYER", help="layers that stay in float")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--fallback", metavar="TYPE", help="find the fewest layers to leave in float32 or float16, by --max-drop"
    )
    other.add_argument(
        "--bits", type=float, metavar="SIZE", help="choose 4 or 8 bits for each layer: 0.6 is 60%% of all with 8"
    )
    parser.add_argument("--max-drop", type=float, help="accuracy that --fallback may lose; 0.01, a point, by default")
    parser.add_argument(
        "--least-db", type=float, metavar="DB", help="signal-to-noise ratio that --fallback keeps, without labels"
    )
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="calibration examples")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if no choice of layers is good enough."""
    falls_back = options.fallback is not None
    check_model_output(options, *((".tflite",) if falls_back else (".tflite", ".keras")))
    _check_together(options)
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    if falls_back:
        found = _with_float_layers(model, options)
    else:
        way = _after_training if options.bits is None else _with_bits
        copy, found = way(model, calibration_from(options, model), options)
        _write(copy, options)
    if options.json:
        show_text(found.to_json())
    else:
        show_text(found.table(100))
        show_text(f"\nModel: {options.output}")
    return 1 if falls_back and not found.within_budget else 0


def _check_together(options: argparse.Namespace) -> None:
    falls_back = options.fallback is not None
    if options.max_drop is not None and not falls_back:
        raise ConfigError("--max-drop is what --fallback may lose. Received it alone.")
    if options.least_db is not None and (not falls_back or options.max_drop is not None):
        raise ConfigError("--least-db is what --fallback keeps, in place of --max-drop. Give it with --fallback alone.")
    way = "--fallback" if falls_back else "--bits"
    post_training = {"--options": options.options is not None, "--ranges": options.ranges != "auto"}
    given = [name for name, there in post_training.items() if there]
    given += ["--scheme"] if options.scheme != "int8" else []
    given += ["--skip"] if falls_back and options.skip else []
    if given and (falls_back or options.bits is not None):
        raise ConfigError(f"{way} chooses by itself and for int8 alone. Received with it: {', '.join(given)}.")


def _after_training(model: Any, data: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    copy, report = kopt.quantize.post_training(
        model,
        data,
        scheme=options.scheme,
        options="auto" if options.options is None else options.options,
        ranges=options.ranges,
        skip=options.skip,
        samples=options.samples,
        progress=kopt.report.make_progress(quiet=options.json),
    )
    return copy, report


def _with_bits(model: Any, data: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    plan = kopt.quantize.bits(model, data, size=options.bits, skip=options.skip, samples=options.samples)
    calibration = kopt.data.calibration(data, samples=options.samples, inputs=kopt.measure.load(model).inputs)
    return kopt.quantize.aware(model, calibration=calibration, bits=plan, skip=options.skip)[0], plan


def _with_float_layers(model: Any, options: argparse.Namespace) -> Any:
    if options.least_db is None:
        data = splits_from(options, model)
        calibration: Any = data.train
        budget = {
            "evaluate": (data.validation.x, data.validation.y),
            "max_drop": _MAX_DROP if options.max_drop is None else options.max_drop,
        }
    else:
        calibration, budget = calibration_from(options, model), {"least_db": options.least_db}
    return kopt.quantize.fallback(
        model,
        calibration,
        options.output,
        **budget,
        to=options.fallback,
        samples=options.samples,
        overwrite=options.force,
        progress=kopt.report.make_progress(quiet=options.json),
    )


def _write(copy: Any, options: argparse.Namespace) -> None:
    if options.output.suffix == ".keras":
        with atomic_path(options.output, overwrite=options.force) as staged:
            copy.save(staged)
    else:
        with one_step(options, f"convert to {options.output.name}"):
            kopt.export.tflite(copy, options.output, scheme=options.scheme, overwrite=options.force)
