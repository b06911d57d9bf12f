"""Train a small CNN on real data and optimize it: the whole flow in a few minutes."""

import argparse
import shlex
from pathlib import Path

import kopt
from kopt.cli.common import add_budget, budget_from, budget_words, progress_from, show_run, show_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--dataset", default="digits", help="digits (8x8 scans, embedded) or fashion_mnist")
    add_budget(parser)
    parser.add_argument("--workdir", type=Path, help="where the run is kept and resumed; kopt-demo/DATASET by default")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    budget = budget_from(options)
    splits = kopt.data.load(options.dataset)
    workdir = options.workdir or Path("kopt-demo") / options.dataset
    model_path = workdir / "baseline.keras"
    if not options.json and not model_path.exists():
        show_text(f"Training a CNN on {len(splits.train)} examples of {options.dataset} ...")
    model = kopt.search.demo.train_or_load(splits, model_path, progress=kopt.report.make_progress(quiet=options.json))
    words = ["kopt", "demo", "--dataset", options.dataset, *budget_words(budget), "--workdir", str(workdir)]
    result = kopt.optimize(
        model,
        splits.train,
        splits.validation,
        test=splits.test,
        budget=budget,
        workdir=workdir,
        progress=progress_from(options),
        description=splits.name,
        command=shlex.join(words),
    )
    report = workdir / "report.html"
    return show_run(result, options, kopt.report.candidates_table(result), kopt.report.headline(result), report)
