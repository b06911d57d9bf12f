"""The main job: measure the model, try every way to ship it, judge the exported files, name the best."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kopt import export
from kopt.core.environment import machine
from kopt.core.errors import ConfigError
from kopt.core.files import check_output
from kopt.core.progress import Progress, Silent
from kopt.core.randomness import preserved_random_state
from kopt.core.records.search.budget import Budget
from kopt.report import make_progress, write_report
from kopt.report.run.run_directory import with_earlier_kept
from kopt.search.given import Given, read
from kopt.search.result import SearchResult
from kopt.search.searching import Found, prepared
from kopt.search.settings import Settings, call_text
from kopt.search.training import Training
from kopt.search.trials.lock import held


@preserved_random_state()
def optimize(
    model: Any,
    train: Any,
    validation: Any,
    *,
    test: Any = None,
    budget: Budget | None = None,
    workdir: str | os.PathLike[str] = "kopt-run",
    techniques: Sequence[str] | None = None,
    samples: int = 100,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | str | None = "auto",
    description: str = "arrays",
    command: str = "",
    training: Training | None = None,
    seconds: float | None = None,
    trials: int | None = None,
) -> SearchResult:
    """Find the best file to ship: best in the objective among those that keep the budget.

    Every candidate is exported, opened in its own runtime and evaluated there on `validation`; latencies are taken
    together, interleaved. What a file lost is judged example by example, with an interval: it is inside the budget,
    outside, or so many examples cannot tell, for which `Budget.undecided` has the rule. A candidate that fails is
    reported with its reason.

    First all ways to ship the model as it is are tried, then what needs calibration examples alone, and with `training`
    smaller models: of each technique that reaches enough of the model several strengths are trained briefly, the
    promising half to the end, and then strengths between the strongest inside the budget and the next one. Techniques
    that hold the budget alone are then tried together, by what each of them gave. Models change and train in child
    processes, one a trial, so that a crash, or too little memory, costs one candidate. With `Budget.target` the search
    ends at the first file that has it and is surely inside the budget.

    Finished candidates, and models on the way to them, are kept in `workdir`: a run that was killed and is started
    again with the same arguments goes on where it stopped, and finds what it would have found. One run at a time works
    in a directory.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel.
        train: what models learn from and where calibration samples come from: arrays, `(x, y)`, `(x, y,
            sample_weight)`, `kopt.data.Split` or a batched `tf.data.Dataset` of these; inputs may be a dict by name. A
            data set may be larger than memory: for training it is read once, a batch at a time, into files in `workdir`
            that take the room of its examples. Of it a tenth, at most 1,000 examples, is held out to choose the best
            epoch. Without labels models learn what the original says.
        validation: data that judges the files, `(x, y)`, `Split` or a batched `tf.data.Dataset`; it is held in memory.
            Without labels (`x` alone) the agreement with the model as given is guarded in place of the accuracy. Every
            example counts once, so that sample weights are refused.
        test: such data, which the search never touches: only the model as given and the chosen file are evaluated on
            it, at the end. The best of many is flattered by the examples it was chosen on; on these it is not.
        budget: what may be lost, what is to improve and what must hold; by default at most 0.01 of accuracy, for
            latency.
        workdir: directory for everything the run makes, `report.html`, `report.md` and `report.json` among it.
        techniques: names of catalog rows to try, ways to ship and techniques; all if `None`. Of ways to ship all are
            tried where none is named. Models that lose accuracy are trained on, whether `recover` is named or not.
        samples: calibration examples.
        threads: threads that LiteRT and ONNX Runtime get; their own choice if `None`.
        seed: of the choice of examples and of training.
        progress: `"auto"` shows a bar on a terminal and lines elsewhere, `None` nothing.
        description: what the report calls the data.
        command: what the report gives as the way to reproduce the run.
        training: lets the search train, and says how; without it nothing is trained, and the result says what was not
            tried.
        seconds: after which the search ends and judges what it has; earlier runs in `workdir` count with what they
            took. Files of what is trained by then, and the latencies at the end, take their time beyond that.
        trials: most files and models to look at, beside the files of the model as it is; files of what is trained by
            then are made beyond that.

    Returns:
        The candidates with their evidence; `best` is `None` if none is inside the budget, and `nearest` then is the
        one that misses it by least.

    Raises:
        InputError: the model, the data or a setting cannot be used; nothing was written.
        LoadError: the model's path cannot be opened.
        OutputError: `workdir` cannot be written, or another run works there; the message names it.

    Example:
        >>> found = kopt.optimize(
        ...     model,
        ...     (x_train, y_train),
        ...     (x_val, y_val),
        ...     budget=kopt.Budget(max_drop=0.05, objective="size"),
        ...     techniques=["tflite-int8"],
        ...     workdir="again",
        ...     progress=None,
        ... )
        >>> found.best_name, found.best.drop <= 0.05
        ('tflite-int8', True)
    """
    started = time.monotonic()
    settings = Settings(techniques, samples, threads, seed, training, seconds, trials)
    reporter = reporter_of(progress)
    given = read(model, train, validation, test, budget, settings)
    workdir = Path(workdir)
    check_output(workdir / "report.html", overwrite=True)
    # The trace comes first: it refuses weights that are not finite, before anything is written.
    with export.traced(given.model) as source, held(workdir) as dead:
        given = given.with_first_drawn(workdir, settings)
        reporter.start(len(given.plan.ways) + 4 + (test is not None) + (dead is not None))
        try:
            if dead is not None:
                reporter.step(f"{workdir}: go on where {dead} was ended")
            found = prepared(given, settings, workdir, source, reporter).run()
        finally:
            reporter.finish()
        words = command or call_text(budget or given.budget, workdir, settings, has_test=test is not None)
        result = result_of(given, found, description, words, time.monotonic() - started)
        result = with_earlier_kept(result, workdir)
        write_report(result, workdir)
    return result


def result_of(given: Given, found: Found, description: str, command: str, seconds: float) -> SearchResult:
    """Return what a search found, as callers get it.

    Args:
        given: what it worked with.
        found: what it found.
        description: what the report calls the data.
        command: that repeats the run.
        seconds: that it took; those of what it kept of earlier runs come on top.
    """
    return SearchResult(
        model=given.runner.name,
        data=f"{description}, {given.examiner.count} validation examples",
        budget=given.budget,
        baseline=found.baseline,
        candidates=found.candidates,
        best_name=found.best,
        profile=found.profile,
        machine=machine(),
        command=command,
        seconds=seconds + given.limits.seconds_of_earlier_runs,
        nearest_name=found.nearest,
        test=found.test,
        target_reached=found.target_reached,
        identity=found.identity | given.test_identity,
        reference_bytes=found.reference[0],
        reference_gzip_bytes=found.reference[1],
        decisions=found.decisions,
        ended=found.ended,
        notes=found.notes,
        sensitivity=found.sensed.profile,
        no_sensitivity=found.sensed.reason,
    )


def reporter_of(progress: Progress | str | None) -> Progress:
    """Return the display that `progress=` asks for.

    Raises:
        ConfigError: another word than `"auto"`.
    """
    if progress is None:
        return Silent()
    if progress == "auto":
        return make_progress()
    if isinstance(progress, str):
        raise ConfigError(f"`progress` is 'auto', None or has start, step and finish. Received: {progress!r}.")
    return progress
