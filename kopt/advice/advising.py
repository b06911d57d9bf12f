"""The public function: look, judge, put in order."""

import time
from collections.abc import Sequence
from typing import Any

import keras

from kopt.advice.facts import Facts
from kopt.advice.judging import judge
from kopt.advice.looks.history import trends_of
from kopt.advice.looks.subject import Subject, given_data
from kopt.advice.looks.table import LOOKS, Look
from kopt.advice.result import Advice
from kopt.core.environment import machine
from kopt.core.errors import ConfigError, KoptError, nearest
from kopt.core.progress import Progress, Silent
from kopt.core.records.search.advice import DEPTHS, LookTaken
from kopt.core.settings import choice, whole
from kopt.graph import require_built
from kopt.train import AcceleratedModel, preserved

_OF_USERS = 300  # characters of an error that is none of kopt's


def advise(
    model: keras.Model,
    train: Any = None,
    validation: Any = None,
    *,
    history: Any = None,
    depth: str = "quick",
    looks: Sequence[str] | None = None,
    batch_size: int = 32,
    memory_limit_bytes: int | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Look at a model, its training, its data and the machine, and say what to change first and why.

    Use it when something is slow, large, wrong or does not learn, and nobody knows yet which. Each look fills a record
    of this package; each rule is a function of such records and gives the evidence in numbers. What was not looked at,
    and why, is in the result, so that silence means that a rule had what it needs and found nothing.

    Advice is ordered by `weight * share / hours`: the share of the target that is expected to be won, over 1 hour for
    what is a setting or a call (`"basic"`), 4 for what takes a training (`"intermediate"`) and 16 for another
    architecture (`"advanced"`). Where no share is known, half is assumed of the quality of a model, all of its
    correctness, a tenth of time and a twentieth of size; correctness weighs 4 times, memory twice and size half.

    Cost: a quick look reads at most 2,048 examples of each data set, for 10 seconds, traces three steps and times the
    input for 3 seconds; a full one compiles, converts and times as well, a minute or more. `kopt.advice.LOOKS` says it
    look by look. The model comes out as it went in.

    Args:
        model: built; compiled with what it is or will be trained with. Of an accelerated model the one inside is taken,
            which has to be compiled itself.
        train: batched `tf.data.Dataset` that `fit` gets (the only form whose speed can be judged), `(x, y)`,
            `(x, y, sample_weight)`, a `kopt.data.Split`, or inputs alone. A data set is iterated, as by epochs.
        validation: labelled data that the model was not trained on, likewise.
        history: of a training: what `fit` returned, its dict of lists, a `kopt.profile.TrainingProfile` or its trends.
        depth: `"quick"` or `"full"`.
        looks: names of the only ones to take; all of the depth by default.
        batch_size: of arrays.
        memory_limit_bytes: of the device that trains; by default what the system has left, for a CPU.
        progress: told of every look.

    Returns:
        Record of `items`, in order, with `.table()`, `.html(path)` and `.to_json()`; `looks` and `unchecked` say what
        was not looked at.

    Raises:
        InputError: the model is not a built Keras model.
        ConfigError: an unknown depth or look, or a setting out of range.
        DataError: data or a history of a kind that nothing can read.

    Example:
        >>> model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
        >>> found = kopt.advise(model, (x_train, y_train), (x_val, y_val))
        >>> [(item.effort, item.code) for item in found.of("run-eagerly")]
        [('basic', 'model.compile(optimizer, loss, run_eagerly=False)')]
        >>> path = found.html("advice.html")
    """
    start = time.monotonic()
    choice("depth", depth, DEPTHS)
    whole("batch_size", batch_size)
    if memory_limit_bytes is not None:
        whole("memory_limit_bytes", memory_limit_bytes)
    chosen = _chosen(looks)
    model = model.model if isinstance(model, AcceleratedModel) else model
    require_built(model)
    if history is not None:
        trends_of(history, model.name)  # raises for what is none, before any look
    subject = Subject(
        model,
        given_data(train, "train"),
        given_data(validation, "validation"),
        history,
        batch_size,
        memory_limit_bytes,
        depth,
    )
    facts, taken = examine(subject, chosen, progress or Silent())
    judgement = judge(facts, {one.name: one.reason for one in taken})
    return Advice(
        model=model.name,
        depth=depth,
        items=judgement.items,
        looks=taken,
        checked=judgement.checked,
        unchecked=judgement.unchecked,
        notes=facts.data.notes if facts.data else (),
        machine=machine(),
        seconds=time.monotonic() - start,
    )


def examine(subject: Subject, names: Sequence[str], progress: Progress) -> tuple[Facts, tuple[LookTaken, ...]]:
    """Take all looks that can be taken; one that fails leaves its reason and the others alone."""
    found: dict[str, Any] = {}
    taken = []
    progress.start(len(LOOKS))
    try:
        for look in LOOKS:
            progress.step(look.subject)
            record, one = _take(look, subject, look.name in names)
            found[look.name] = record
            taken.append(one)
    finally:
        progress.finish()
    return Facts(**found), tuple(taken)


def _take(look: Look, subject: Subject, wanted: bool) -> tuple[Any, LookTaken]:
    if not wanted:
        return None, LookTaken(look.name, look.subject, None, "It was not asked for.")
    begin = time.monotonic()
    try:
        if obstacle := look.obstacle(subject):
            return None, LookTaken(look.name, look.subject, None, obstacle)
        with preserved(subject.model):
            record = look.take(subject)
    except KoptError as error:
        return None, LookTaken(look.name, look.subject, None, str(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in the user's model or data takes one look, not all
        words = " ".join(str(error).split())[:_OF_USERS]
        return None, LookTaken(look.name, look.subject, None, f"{type(error).__name__}: {words}")
    return record, LookTaken(look.name, look.subject, time.monotonic() - begin)


def _chosen(looks: Sequence[str] | None) -> tuple[str, ...]:
    known = tuple(look.name for look in LOOKS)
    for name in looks or ():
        if name not in known:
            raise ConfigError(f"Unknown look {name!r}.{nearest(name, known)} Accepted: {', '.join(known)}.")
    return known if looks is None else tuple(looks)
