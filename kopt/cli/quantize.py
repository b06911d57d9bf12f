"""Write an integer .tflite of a model by post-training quantization, with ranges and weights chosen by their error."""

import argparse
from pathlib import Path

import kopt
from kopt.cli.common import check_model_output, show_text
from kopt.core.files import atomic_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 (Keras 3 or legacy)")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="x.tflite; or x.keras, a copy that trains")
    parser.add_argument("--data", required=True, help="calibration data: .npz, image folders, a packaged name")
    # No `choices`: the library's own errors name the nearest word.
    parser.add_argument("--scheme", default="int8", help="int8 or int16x8")
    parser.add_argument("--options", nargs="*", metavar="NAME", help="apply these, whatever they do to the error")
    parser.add_argument("--ranges", default="auto", help="minmax, moving_average, percentile, mse or entropy for all")
    parser.add_argument("--skip", nargs="+", default=(), metavar="LAYER", help="layers that stay in float")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="calibration examples")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_model_output(options, ".tflite", ".keras")
    model = kopt.load_model(options.model, safe_mode=not options.unsafe)
    data = kopt.data.open_data(options.data, image_shape=kopt.measure.load(model).inputs[0].shape[1:]).train
    copy, report = kopt.quantize.post_training(
        model,
        data,
        scheme=options.scheme,
        options="auto" if options.options is None else options.options,
        ranges=options.ranges,
        skip=options.skip,
        samples=options.samples,
    )
    if options.output.suffix == ".keras":
        with atomic_path(options.output, overwrite=options.force) as staged:
            copy.save(staged)
    else:
        kopt.export.tflite(copy, options.output, scheme=options.scheme, overwrite=options.force)
    if options.json:
        show_text(report.to_json())
    else:
        show_text(report.table(100))
        show_text(f"\nModel: {options.output}")
    return 0
