"""Make a small student of a model, let it learn from that model, and write it."""

import argparse
from pathlib import Path
from typing import Any

import kopt
from kopt.cli.common import check_model_output, show_text, splits_from
from kopt.core.errors import ConfigError
from kopt.core.files import atomic_path

_EPOCHS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("teacher", metavar="TEACHER", help=".keras, .h5; with --student any model")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="x.keras")
    parser.add_argument("--data", required=True, help=".npz, image folders, a packaged name")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--student", metavar="FILE", help=".keras: the model that learns")
    size.add_argument(
        "--width",
        type=float,
        metavar="SHARE",
        help="of the teacher's channels; of 16 to 256 with --mobile",
    )
    size.add_argument("--macs", type=float, metavar="M", help="multiply-accumulates: a share, or a number above 1")
    size.add_argument("--params", type=float, metavar="P", help="parameters: a share, or a number above 1")
    parser.add_argument("--depth", type=float, default=1.0, metavar="SHARE", help="blocks kept that can be left out")
    parser.add_argument("--mobile", action="store_true", help="a student of depthwise convolutions")
    parser.add_argument("--epochs", type=int, default=_EPOCHS, metavar="N", help=f"of training, {_EPOCHS} by default")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--learning-rate", type=float, default=2e-3, metavar="R", help="the highest, of Adam")
    parser.add_argument("--loss", help="of the labels, where neither model is compiled; found out for class numbers")
    parser.add_argument("--temperature", type=float, default=3.0, metavar="T")
    parser.add_argument("--alpha", type=float, default=0.7, metavar="A", help="share of the teacher against the labels")
    parser.add_argument("--features", nargs="+", default=(), metavar="LAYER", help="inner layers too; or `auto`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--unsafe", action="store_true", help="open model files that store Python code, and run it")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_model_output(options, ".keras")
    if options.student and (options.mobile or options.depth != 1.0):
        raise ConfigError("--depth and --mobile are for students that are made here. Leave them out with --student.")
    if options.mobile and options.depth != 1.0:
        raise ConfigError("--depth leaves out blocks of the teacher, which a --mobile student has none of.")
    safe = not options.unsafe
    teacher = kopt.measure.load(options.teacher, safe_mode=safe) if options.student else None
    original = teacher or kopt.load_model(options.teacher, safe_mode=safe)
    splits = splits_from(options, original)
    student = kopt.load_model(options.student, safe_mode=safe) if options.student else _made(original, options)
    report = kopt.distill.teach(
        student,
        original,
        (splits.train.x, splits.train.y),
        (splits.validation.x, splits.validation.y),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        loss=options.loss or _loss(splits, original, student),
        batch_size=options.batch_size,
        seed=options.seed,
        progress=kopt.report.make_progress(quiet=options.json),
        temperature=options.temperature,
        alpha=options.alpha,
        features="auto" if list(options.features) == ["auto"] else options.features,
    )
    with atomic_path(options.output, overwrite=options.force) as staged:
        student.save(staged)
    if options.json:
        show_text(report.to_json())
    else:
        show_text(report.table(80))
        show_text(f"\nModel: {options.output}")
    return 0


def _made(teacher: Any, options: argparse.Namespace) -> Any:
    """Return a student of the size that was asked for."""
    sizes = {"width": options.width, "target_macs": options.macs, "target_params": options.params}
    if options.mobile:
        return kopt.distill.mobile_student(teacher, **sizes)[0]
    return kopt.distill.smaller_student(teacher, depth=options.depth, **sizes)[0]


def _loss(splits: Any, *models: Any) -> str | None:
    """Return the loss of class numbers where no model brings one of its own."""
    brings = any(getattr(model, "compiled", False) for model in models)
    return "sparse_categorical_crossentropy" if splits.num_classes and not brings else None
