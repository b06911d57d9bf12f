"""Tune techniques, settings and architectures with keras-tuner, by what the exported file is worth."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from rich.console import Group

import kopt
from kopt.cli.common import show_run, show_text
from kopt.cli.search import add_search, search_call, search_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_search(parser)
    # No `choices`: the library's own errors name the nearest.
    parser.add_argument("--tuner", default="random", help="random, bayesian, hyperband or pareto")
    parser.add_argument("--max-trials", type=int, default=20, help="most recipes to try")
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="ways to ship; tflite-float32 tflite-int8 by default")
    parser.add_argument("--builder", metavar="MODULE:NAME", help="architectures: a function build(hp), or a HyperModel")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that run trials beside this one; machines join by keras-tuner's environment variables",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.builder and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m kopt` does
    own = {name: getattr(options, name) for name in ("ways", "tuner", "max_trials", "builder", "workers")}
    result = kopt.tune(**search_call(options), **own, command=_command(options))
    if result is None:
        text = "This machine worked for the chief, which has the result."
        show_text(json.dumps({"result": None, "message": text}) if options.json else text)
        return 0
    table = Group(kopt.report.candidates_table(result), kopt.report.decisions_table(result))
    return show_run(result, options, table, kopt.report.headline(result), options.workdir / "report.html")


def _command(options: argparse.Namespace) -> str:
    own = ["--tuner", options.tuner, "--max-trials", str(options.max_trials)]
    own += ["--ways", *options.ways] if options.ways else []
    own += ["--builder", options.builder] if options.builder else []
    own += ["--workers", str(options.workers)] if options.workers else []
    return shlex.join(["kopt", "tune", *search_words(options, tuple(own))])
