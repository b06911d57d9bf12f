"""`kopt.tune`: keras-tuner proposes recipes, each becomes a file, and the file is what counts."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kopt import export
from kopt.core.errors import ConfigError, WorkerLostError
from kopt.core.files import check_output
from kopt.core.progress import Progress
from kopt.core.randomness import preserved_random_state
from kopt.core.records.search.budget import Budget
from kopt.core.settings import whole
from kopt.report import write_report
from kopt.report.run.run_directory import with_earlier_kept
from kopt.search.given import Given, read
from kopt.search.loop import reporter_of, result_of
from kopt.search.result import SearchResult
from kopt.search.searching import Search, prepared
from kopt.search.settings import Settings, budget_text, changed
from kopt.search.training import Training
from kopt.search.trials.lock import held
from kopt.search.tuning import job as jobs
from kopt.search.tuning.cluster import ANY_PORT, Workers, run_chief
from kopt.search.tuning.course import Tuning, run_here, tuning_of
from kopt.search.tuning.desk import Desk
from kopt.search.tuning.environment import Role, check_free, role_of
from kopt.search.tuning.request import Request, request
from kopt.search.tuning.worker import OVER, work

# Steps beside the trials: the model as given, latencies, memory and energy, sensitivity.
_OTHER_STEPS = 4
_CHIEF_SECONDS, _LOOK_SECONDS = 600.0, 1.0


@preserved_random_state()
def tune(
    model: Any,
    train: Any,
    validation: Any,
    *,
    techniques: Sequence[str] | None = None,
    ways: Sequence[str] | None = None,
    tuner: str = "random",
    max_trials: int = 20,
    builder: Any = None,
    training: Training | None = None,
    budget: Budget | None = None,
    test: Any = None,
    workers: int = 0,
    workdir: str | os.PathLike[str] = "kopt-run",
    seconds: float | None = None,
    samples: int = 100,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | str | None = "auto",
    description: str = "arrays",
    command: str = "",
) -> SearchResult | None:
    """Tune techniques, their settings and architectures with keras-tuner, by what the exported file is worth.

    Use it where `kopt.optimize` is too orderly: that goes from what promises most to what follows from it, this looks
    through all settings of the catalog, and through architectures of yours. A recipe is a way to ship, the techniques
    that take part, and their settings under that condition; only legal ones are proposed. Of each the model is made in
    a child process, exported, opened in its own runtime, and evaluated on `validation` there. The tuner minimizes

    - inside the budget `x / (1 + x)`, where `x` is the fourth root of the objective over that of the model as given,
    - outside `1 + e / (1 + e)`, where `e` is the sum of the shares by which the file misses each demand,
    - 3 where there is no file,

    so that a file outside the budget is worse than every one inside. At the end all files are timed together and ranked
    as `kopt.optimize` ranks them.

    Everything is kept in `workdir`: the same call goes on after a kill, and with more `max_trials` after its end.
    `workers=2` starts a chief and two workers on this machine; a worker that dies costs nothing but time, because its
    trial is given out again, and one that costs two workers their lives is reported as failed. Machines that share
    `workdir` join by the environment variables of keras-tuner: `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`
    of the chief, and `KERASTUNER_TUNER_ID`, `"chief"` for it and a name of its own for each worker, which runs the
    same call.

    Args:
        model: a built Keras model, or the path of a `.keras`, `.h5` or SavedModel: what files are held against, and
            what trained ones learn from.
        train: see `kopt.optimize`.
        validation: likewise.
        techniques: names of rows of `kopt.search.CATALOG` that may take part; all that find something to do if `None`.
        ways: names of the ways to ship; LiteRT in float32 and int8 if neither these nor `techniques` name any.
        tuner: `"random"`, `"bayesian"` or `"hyperband"` of keras-tuner, or `"pareto"`, see `kopt.search.ParetoOracle`,
            whose axes are the drop and each objective. Hyperband gives more epochs to recipes that are promising:
            recoveries go on from the model of the round before, other trainings begin anew.
        max_trials: most recipes to try. Of Hyperband, too: its brackets follow each other until then.
        builder: a function `build(hp)` that returns a Keras model of the same inputs and outputs, a
            `keras_tuner.HyperModel` class, or an instance with a name in its module, so that architecture and
            compression are tuned together. Inputs take the names of the model's, in the same order. All architectures
            are trained alike, as `training` says and by the model as given: what they are compiled with, and a `fit` of
            the class, is not used. Other processes import it: it must not be of the script itself.
        training: lets models be trained, and says how; `epochs` is the most of one training.
        budget: see `kopt.optimize`.
        test: likewise.
        workers: processes that run trials, beside this one, which then proposes; 0: this one does both. Latencies that
            steer the search are less sure where several share the processor; those of the result are not.
        workdir: directory for everything the run makes.
        seconds: of this call, after which no trial begins and none that trains goes on; the files at hand are judged.
        samples: calibration examples.
        threads: threads that LiteRT and ONNX Runtime get; their own choice if `None`.
        seed: of what is proposed, of the choice of examples and of training.
        progress: see `kopt.optimize`.
        description: likewise.
        command: likewise.

    Returns:
        What was found, as `kopt.optimize` returns it; `None` on a machine that joined, whose chief has it.

    Raises:
        ConfigError: an unknown name, no legal recipe, training that was not asked for, an objective that cannot be
            measured, a port in use, or environment variables of which some are missing; nothing was tried.
        InputError: the model or the data cannot be used.
        OutputError: `workdir` cannot be written, or another run works there.
        WorkerLostError: all workers died again and again, or there is no chief.

    Example:
        >>> found = kopt.tune(
        ...     model,
        ...     (x_train, y_train),
        ...     (x_val, y_val),
        ...     techniques=["tflite-float32", "tflite-float16", "tflite-int8"],
        ...     tuner="pareto",
        ...     max_trials=3,
        ...     budget=kopt.Budget(max_drop=0.05, objective="size"),
        ...     workdir="tuned",
        ...     progress=None,
        ... )
        >>> sorted(one.name for one in found.candidates)
        ['tflite-float16', 'tflite-float32', 'tflite-int8']
        >>> found.best_name, found.ended
        ('tflite-int8', '3 trials were made, all that `max_trials` allows.')
    """
    started = time.monotonic()
    asked = request(techniques, ways, tuner=tuner, max_trials=max_trials, training=training, builder=builder)
    role = _checked_role(role_of(os.environ), workers)
    reporter = reporter_of(progress)
    settings = Settings(asked.names, samples, threads, seed, training, seconds)
    given = read(model, train, validation, test, budget, settings, asked.more)
    workdir = Path(workdir)
    if role is not None and not role.is_chief:
        _join(given, settings, workdir, asked, role, reporter)
        return None
    check_output(workdir / "report.html", overwrite=True)
    with export.traced(given.model) as source, held(workdir):
        given = given.with_first_drawn(workdir, settings)
        search = prepared(given, settings, workdir, source, reporter)
        tuning = _checked(search, asked, seed)
        reporter.start(max_trials + _OTHER_STEPS + (test is not None))
        try:
            found = search.run(_course(tuning, settings, workers, role), expected=max_trials)
        finally:
            reporter.finish()
        words = command or _call_text(
            asked, settings, budget or given.budget, workdir, workers, has_test=test is not None
        )
        result = result_of(given, found, description, words, time.monotonic() - started)
        result = with_earlier_kept(result, workdir)
        write_report(result, workdir)
    return result


def _checked_role(role: Role | None, workers: int) -> Role | None:
    whole("workers", workers, least=0)
    if role is not None and not role.is_chief and workers:
        raise ConfigError(
            f"`workers` goes with the chief, and the environment makes this process the worker {role.name!r}. "
            f"Received: workers={workers}."
        )
    if role is not None and role.is_chief:
        check_free(role)
    return role


def _checked(search: Search, asked: Request, seed: int) -> Tuning:
    """Return the tuning, once it is known that its objective can be measured."""
    tuning = tuning_of(search, asked, jobs.place_of(search.workdir, search, asked, seed), seed)
    Desk(search, tuning.trials, "").check_measurable()
    return tuning


def _course(tuning: Tuning, settings: Settings, workers: int, role: Role | None) -> Any:
    """Return what runs the trials: this process, or a chief with workers."""
    if not workers and role is None:
        return functools.partial(run_here, tuning)
    job = jobs.write(tuning.place, tuning.search, tuning.request, settings)
    address = ANY_PORT if role is None else role.address
    return functools.partial(run_chief, tuning, Workers(job, workers, address))


def _join(given: Given, settings: Settings, workdir: Path, asked: Request, role: Role, reporter: Progress) -> None:
    """Work for a chief, which prepares the directory that both share."""
    reporter.start(1)
    reporter.step(f"{role.name} works for the chief at {role.address}")
    with export.traced(given.model) as source:
        until, identity = time.monotonic() + _CHIEF_SECONDS, given.identity
        _wait(
            lambda: any(_is_same(path, identity) for path in workdir.glob("tuning-*/job.json")),
            until,
            WorkerLostError(
                f"No chief has begun to tune this model on this data in {workdir.absolute()} within "
                f"{_CHIEF_SECONDS:g} s. All machines share the directory and make the same call; one has the name "
                f"'chief'."
            ),
        )
        search = prepared(given, settings, workdir, source, reporter)
        place = jobs.place_of(workdir, search, asked, settings.seed)
        _wait(
            jobs.path_of(place).is_file,  # what was seen may be another tuning, of before
            until,
            ConfigError(
                f"This model is tuned on this data in {workdir.absolute()}, but not as this call asks for: all "
                f"machines make the same call, with the same budget, tuner, techniques, ways, training, builder, "
                f"threads and seed, and the same version of kopt."
            ),
        )
        tuning = tuning_of(search, asked, place, settings.seed)
        if work(tuning, role) != OVER:
            reporter.step("the time that `seconds` allows was used up")
    reporter.finish()


def _wait(ready: Callable[[], bool], until: float, error: Exception) -> None:
    """Look until something is there, and raise the error where it is too late for that."""
    while not ready():
        if time.monotonic() > until:
            raise error
        time.sleep(_LOOK_SECONDS)


def _is_same(path: Path, identity: dict[str, str]) -> bool:
    try:
        return jobs.Job.from_json(path.read_text()).identity == identity
    except (ConfigError, OSError):  # of another version, or removed meanwhile
        return False


@dataclasses.dataclass(frozen=True)
class _Arguments:
    """Those of `kopt.tune` that change what it finds, with their defaults."""

    techniques: tuple[str, ...] | None = None
    ways: tuple[str, ...] | None = None
    tuner: str = "random"
    max_trials: int = 20
    training: Training | None = None
    workers: int = 0
    seconds: float | None = None
    samples: int = 100
    threads: int | None = None
    seed: int = 0


def _call_text(
    asked: Request, settings: Settings, budget: Budget, workdir: Path, workers: int, *, has_test: bool
) -> str:
    arguments = _Arguments(
        asked.techniques, asked.ways, asked.tuner, asked.max_trials, asked.training, workers,
        settings.seconds, settings.samples, settings.threads, settings.seed,
    )  # fmt: skip
    words = ["model", "train", "validation", *(["test=test"] if has_test else []), f"budget={budget_text(budget)}"]
    words += changed(arguments) + ([f"builder={asked.builder.replace(':', '.')}"] if asked.builder else [])
    return f"kopt.tune({', '.join(words)}, workdir={str(workdir)!r})"
