"""What each file of a run showed, kept on disk beside it, and the judgement that follows from it."""

import dataclasses
from pathlib import Path

from kopt.core.errors import LoadError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.candidates import Candidate
from kopt.core.records.measurements import Evaluation
from kopt.core.records.search.budget import Budget
from kopt.core.records.search.judgement import Judgement
from kopt.search.judging import outcomes
from kopt.search.judging.examining import Examiner, opened
from kopt.search.judging.examples import check_reachable
from kopt.search.judging.judgement import judge
from kopt.search.trials.records import Trials


def baseline_evaluation(examiner: Examiner, trials: Trials, budget: Budget) -> Evaluation:
    """Return the evaluation of the model as given; it answers only if that was not kept from an earlier run.

    Raises:
        ConfigError: the budget contradicts it, or a metric has no meaning for these labels; nothing was written.
    """
    known, path = trials.baseline(), trials.outcomes_path()
    if known is not None and _covers(examiner, known) and outcomes.load(path) is not None:
        check_reachable(budget, known.metrics[budget.metric])
        return known
    found = examiner.examine(examiner.given)
    check_reachable(budget, found.evaluation.metrics[budget.metric])
    trials.finish_baseline(found.evaluation)
    outcomes.save(path, found.outcomes)
    return found.evaluation


def examine_file(
    examiner: Examiner, artifact: Artifact, path: Path, threads: int | None
) -> tuple[Evaluation, Artifact]:
    """Let a file answer in its own runtime, and keep what it scored.

    Args:
        examiner: the examples.
        artifact: the file.
        path: where its outcomes are kept.
        threads: see `kopt.measure.load`.

    Returns:
        Its evaluation, and the artefact with its agreement on all of the examples: the exporter compared a few.
    """
    found = examiner.examine(opened(artifact.path, threads))
    outcomes.save(path, found.outcomes)
    return found.evaluation, dataclasses.replace(artifact, parity=found.parity)


def kept(examiner: Examiner, candidate: Candidate, path: Path, threads: int | None) -> Candidate:
    """Return a candidate of an earlier run with all that is asked now; its file answers again only if that was lost.

    Args:
        examiner: the examples.
        candidate: finished.
        path: where its outcomes should be.
        threads: see `kopt.measure.load`.
    """
    assert candidate.artifact is not None
    if candidate.evaluation is not None and _covers(examiner, candidate.evaluation) and outcomes.load(path) is not None:
        return candidate
    evaluation, artifact = examine_file(examiner, candidate.artifact, path, threads)
    return dataclasses.replace(candidate, evaluation=evaluation, artifact=artifact)


def judged(candidate: Candidate, path: Path, baseline_path: Path, examiner: Examiner, budget: Budget) -> Candidate:
    """Return a candidate with its judgement, from outcomes on disk.

    Raises:
        LoadError: they are gone.
    """
    before, after = outcomes.load(baseline_path), outcomes.load(path)
    if before is None or after is None:
        raise LoadError(f"{path if after is None else baseline_path} is gone or damaged. Start the same run again.")
    return dataclasses.replace(candidate, judgement=judge(before, after, budget, examiner.classes))


def final_judgement(test: Examiner, candidate: Candidate, threads: int | None, budget: Budget) -> Judgement:
    """Judge the chosen file, and nothing else, on examples that the search never saw."""
    assert candidate.artifact is not None
    before = test.examine(test.given)
    after = test.examine(opened(candidate.artifact.path, threads))
    return judge(before.outcomes, after.outcomes, budget, test.classes)


def _covers(examiner: Examiner, evaluation: Evaluation) -> bool:
    return set(examiner.metrics) <= set(evaluation.metrics)
