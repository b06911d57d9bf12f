"""Arguments that let a search train."""

import argparse
import dataclasses
from typing import Any

import kopt
from kopt.core.errors import ConfigError

# The option, the field of `kopt.Training`, its type and what it says.
_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("--train-epochs", "epochs", int, "train candidates for so many epochs; without it nothing is trained"),
    ("--learning-rate", "learning_rate", float, "highest learning rate of a training"),
    ("--batch-size", "batch_size", int, "examples of an update"),
    ("--loss", "loss", str, "of the labels, a name of Keras' losses; found out by default"),
    ("--distillation", "distillation", float, "share of the original's answers in the loss, in [0, 1]"),
    ("--trial-seconds", "trial_seconds", float, "after which the training of one candidate is ended"),
)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add what `training_from` reads."""
    group = parser.add_argument_group("training")
    for option, _, kind, text in _OPTIONS:
        group.add_argument(option, type=kind, help=text)


def training_from(options: argparse.Namespace) -> Any:
    """Return the training that the options ask for; `None` without `--train-epochs`.

    Raises:
        ConfigError: a value out of range, or another option of training without `--train-epochs`.
    """
    given = {field: value for option, field, _, _ in _OPTIONS if (value := _value(options, option)) is not None}
    if not given:
        return None
    if "epochs" not in given:
        asked = ", ".join(option for option, field, _, _ in _OPTIONS if field in given)
        raise ConfigError(f"{asked} needs --train-epochs, which lets the search train, e.g. --train-epochs 4.")
    return dataclasses.replace(kopt.Training(), **given)


def training_words(options: argparse.Namespace) -> list[str]:
    """Return the options as they were given, as words of a command line."""
    pairs = [(option, _value(options, option)) for option, *_ in _OPTIONS]
    return [word for option, value in pairs if value is not None for word in (option, _text(value))]


def _value(options: argparse.Namespace, option: str) -> Any:
    return getattr(options, option.removeprefix("--").replace("-", "_"))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
