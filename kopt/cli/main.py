"""Parsing, the choice of subcommand, and what an error looks like."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kopt.cli import (
    backup,
    bench,
    compare,
    demo,
    diagnose,
    distill,
    doctor,
    export,
    monitor,
    optimize,
    profile,
    prune,
    quantize,
    report,
    serve,
    tune,
    verify,
)
from kopt.core.errors import ConfigError, InputError, KoptError, LoadError, OutputError
from kopt.core.files import require_path
from kopt.version import __version__

COMMANDS = (
    demo,
    optimize,
    tune,
    profile,
    diagnose,
    prune,
    quantize,
    distill,
    export,
    verify,
    backup,
    serve,
    monitor,
    bench,
    report,
    compare,
    doctor,
)
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: words after `kopt`; those of the process by default.
        own_process: the process is the command's alone, so that what TensorFlow logs while it loads may be kept from
            the terminal.

    Returns:
        0 if what was asked was done, 1 if it failed or found nothing, 2 if the request cannot be carried out as it
        stands, 130 if interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if own_process:
            _require_given(options)
            if not options.debug and options.run not in (report.run, compare.run, monitor.run):
                _load_runtimes_quietly()
        _import(options.imports)
        return int(options.run(options))
    except KoptError as error:
        if options.debug:
            raise
        _show(error, as_json=options.json)
        return EXIT_USAGE if isinstance(error, (InputError, LoadError)) else EXIT_FAILED
    except OSError as error:
        if options.debug:
            raise
        where = f" {error.filename}" if error.filename else ""
        _show(OutputError(f"The system refuses{where}: {error.strerror or error}."), as_json=options.json)
        return EXIT_FAILED
    except KeyboardInterrupt:
        kept = "; what was finished is kept, start the same command again to go on"
        resumes = options.run in (demo.run, optimize.run, tune.run)
        print(f"kopt: interrupted{kept if resumes else ''}", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED


def _require_given(options: argparse.Namespace) -> None:
    """Refuse a path that leads nowhere before the runtimes are loaded, which takes seconds."""
    words = [getattr(options, name, None) for name in ("model", "teacher", "student")]
    for path in (*words, *getattr(options, "files", ())):
        if path is not None:
            require_path(path)
    data = getattr(options, "data", None)
    if data is not None and Path(data).suffix in (".npz", ".npy"):
        require_path(data)


def _import(modules: Sequence[str]) -> None:
    """Import modules of the user, which are looked for in the working directory, too.

    Raises:
        ConfigError: there is none of that name, or it cannot be imported.
    """
    if modules and (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # as `python` itself does, and this command does not
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the code of a user raises
            raise ConfigError(
                f"`--import {name}`: {type(error).__name__}: {error}. Name a module, as `import` does, in this "
                f"directory or on PYTHONPATH."
            ) from error


def command() -> int:
    """Run the command line in a process of its own."""
    return main(own_process=True)


def _load_runtimes_quietly() -> None:
    """Load the runtimes without the lines that they log from C++; errors still come as exceptions.

    Most lines are turned off by a variable that is read while TensorFlow loads, some come before it is read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        for runtime in ("tensorflow", "ai_edge_litert.interpreter"):
            importlib.import_module(runtime)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Help(argparse.HelpFormatter):
    """Says the defaults, where there are any and the text does not say them."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = any(action.default is one for one in (None, False, argparse.SUPPRESS)) or action.default in ((), [])
        return text if nothing or not action.option_strings or "default" in text else f"{text} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors end in the way to help, and nothing else."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\nSee `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kopt", description="Take a Keras 3 model from 'it trains' to 'it is small, fast and deployed'."
    )
    parser.add_argument("--version", action="version", version=f"kopt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").strip().splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary, formatter_class=_Help)
        command.add_arguments(sub)
        sub.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE",
            help="Python module of yours to import before: of layers that are registered with Keras; may be repeated",
        )
        sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output, no progress")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def _show(error: KoptError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))  # noqa: T201
    print(f"kopt: error: {error}", file=sys.stderr)  # noqa: T201
