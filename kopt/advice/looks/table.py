"""The table of looks: what each needs, costs and returns. Each is a field of `Facts`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kopt import profile
from kopt.advice.looks.answers import channel_activity, fit_scores, inference
from kopt.advice.looks.batches import data_facts, memory_needs
from kopt.advice.looks.files import deployment
from kopt.advice.looks.history import trends_of
from kopt.advice.looks.settings import runtime_settings, training_settings
from kopt.advice.looks.step_speeds import step_speeds
from kopt.advice.looks.subject import Subject
from kopt.core.installation import check_installation
from kopt.data import diagnose as diagnose_input
from kopt.quantize import diagnose as diagnose_rounding
from kopt.train import choose_precision, find_learning_rate, plan_distribution

_GRADIENT_BATCHES = 4
_RATE_STEPS = 60
_SENSITIVITY_EXAMPLES, _ROUNDED_EXAMPLES = 512, 64
# What single looks can need beside the model, and what is missing without it.
NEEDS = {
    "data": "It needs data: pass `train`.",
    "labels": "It needs targets: pass `train` as (x, y).",
    "validation": "It needs labelled data of its own: pass `validation`.",
    "history": "It needs a training that was seen: pass `history`, what `fit` returned or a `TrainingProfile`.",
    "pipeline": "It needs an input pipeline: pass `train` as the batched tf.data.Dataset that `fit` gets.",
    "compiled": "The model is not compiled: call `model.compile(optimizer, loss)` first.",
}


@dataclasses.dataclass(frozen=True)
class Look:
    """One thing to look at.

    Attributes:
        name: field of `Facts` that it fills.
        subject: what it looks at, in words.
        cost: that it has, about, in words.
        take: makes the record.
        needs: keys of `NEEDS`.
        depth: least depth at which it is taken.
    """

    name: str
    subject: str
    cost: str
    take: Callable[[Subject], Any]
    needs: tuple[str, ...] = ()
    depth: str = "quick"

    def obstacle(self, subject: Subject) -> str:
        """Return why it cannot be taken of this subject; empty if it can."""
        if self.depth == "full" and subject.depth != "full":
            return 'It is taken with `depth="full"` only.'
        return next((NEEDS[need] for need in self.needs if not _HAS[need](subject)), "")


_HAS: dict[str, Callable[[Subject], bool]] = {
    "data": lambda subject: subject.train is not None,
    "labels": lambda subject: subject.has_labels,  # which reads
    "validation": lambda subject: subject.validation is not None,
    "history": lambda subject: subject.history is not None,
    "pipeline": lambda subject: subject.dataset is not None,
    "compiled": lambda subject: subject.model.compiled,
}


def _pipeline(subject: Subject) -> Any:
    return diagnose_input(subject.dataset, subject.model, seconds=3.0 if subject.depth == "quick" else 10.0)


def _gradients(subject: Subject) -> Any:
    return profile.gradients(
        subject.model, subject.examples[:2], batches=_GRADIENT_BATCHES, batch_size=_batch_size(subject)
    )


def _sensitivity(subject: Subject) -> Any:
    data = subject.examples[:2] if subject.validation is None else subject.judged[:2]
    some = tf.nest.map_structure(lambda leaf: leaf[:_SENSITIVITY_EXAMPLES], data)
    return profile.sensitivity(subject.model, some, perturbations=("int8", "pruned_50"), estimate_examples=0)


def _rates(subject: Subject) -> Any:
    data = subject.dataset or subject.examples[:2]
    return find_learning_rate(subject.model, data, steps=_RATE_STEPS, batch_size=_batch_size(subject))


def _layer_times(subject: Subject) -> Any:
    return profile.layer_times(subject.model, subject.examples[:2], batch_size=_batch_size(subject))


def _batch_size(subject: Subject) -> int:
    """Return the size of the first batch, but no more than half of what was read: gradients need two batches."""
    size, read = len(tf.nest.flatten(subject.batches[0])[0]), len(tf.nest.flatten(subject.examples)[0])
    return max(1, min(size, read // 2))


def _trends(subject: Subject) -> Any:
    return trends_of(subject.history, subject.model.name)


def _cost(subject: Subject) -> Any:
    return profile.model(subject.model, subject.inputs if subject.train is not None else None)


def _roofline(subject: Subject) -> Any:
    return profile.roofline(subject.model, subject.inputs if subject.train is not None else None)


def _rounding(subject: Subject) -> Any:
    return diagnose_rounding(subject.model, subject.inputs, samples=_ROUNDED_EXAMPLES)


LOOKS = (
    Look("installation", "versions of packages and known clashes", "nothing", lambda _: tuple(check_installation())),
    Look("runtime", "threads, devices and replicas", "nothing", runtime_settings),
    Look("precision", "the precision that suits this hardware", "nothing", lambda _: choose_precision()),
    Look("distribution", "the strategy that suits the devices", "nothing", lambda _: plan_distribution()),
    Look("settings", "how the model is compiled", "nothing", training_settings),
    Look("cost", "parameters, operations and memory by layer", "less than a second", _cost),
    Look(
        "parameters",
        "every weight, once",
        "about a second for 10 million weights",
        lambda subject: profile.parameters(subject.model, exact_rank_side=512),
    ),
    Look("data", "up to 2,048 examples against the model and its loss", "reading them", data_facts, ("data",)),
    Look("inference", "eight answers, twice and alone", "three calls", inference, ("data",)),
    Look("activity", "channels of activations on 256 examples", "one call", channel_activity, ("data",)),
    Look(
        "fit",
        "up to 1,024 training and validation examples",
        "two evaluations",
        fit_scores,
        ("compiled", "labels", "validation"),
    ),
    Look(
        "memory",
        "the graph of a training step",
        "tracing it; where it does not fit, once more with recomputation",
        memory_needs,
        ("compiled",),
    ),
    Look(
        "gradients", "gradients of four batches", "tracing a step, and four of them", _gradients, ("compiled", "labels")
    ),
    Look("trends", "losses and gradients of a training", "nothing", _trends, ("history",)),
    Look(
        "pipeline",
        "the input, stage by stage, and a training step",
        '3 seconds, 10 with depth="full"',
        _pipeline,
        ("compiled", "pipeline", "labels"),
    ),
    Look(
        "steps",
        "a training step in five settings",
        "tracing it five times, compiling it once, 3 seconds of steps",
        step_speeds,
        ("compiled", "labels"),
        "full",
    ),
    Look(
        "rates",
        "losses of 60 steps with a growing learning rate",
        "60 training steps, forgotten",
        _rates,
        ("compiled", "labels"),
        "full",
    ),
    Look(
        "layer_times",
        "a training step by layer",
        "a profile of ten steps",
        _layer_times,
        ("compiled", "labels"),
        "full",
    ),
    Look(
        "roofline",
        "what this machine can do, against each layer",
        "a second or two of products and copies",
        _roofline,
        (),
        "full",
    ),
    Look(
        "sensitivity",
        "each layer rounded and pruned, on 512 examples",
        "a forward pass a layer, about",
        _sensitivity,
        ("compiled", "labels"),
        "full",
    ),
    Look(
        "quantization",
        "rounding error by layer, on 64 examples",
        "a forward pass a layer, about",
        _rounding,
        ("data",),
        "full",
    ),
    Look(
        "deployment",
        "four files, made, and timed in turn with the model",
        "four conversions, 3 seconds of calls",
        deployment,
        ("data",),
        "full",
    ),
)
"""What can be looked at, in the order in which it is; `looks=` of `kopt.advise` takes their names.

Example:
    >>> [look.name for look in kopt.advice.LOOKS][:3]
    ['installation', 'runtime', 'precision']
"""
