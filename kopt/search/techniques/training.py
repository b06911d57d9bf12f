"""Trainings: back to what was lost, to weights that share values, to weights that are rounded."""

import keras

from kopt import cluster, quantize
from kopt.core.records.changes.post_training import PostTrainingQuantization
from kopt.core.records.search.techniques import (
    AwareConfig,
    ClusterConfig,
    MixedConfig,
    PostTrainingConfig,
    RecoverConfig,
)
from kopt.graph import copy_model
from kopt.search.techniques.outcome import Outcome
from kopt.search.techniques.work import Work


def recover(model: keras.Model, config: RecoverConfig, work: Work) -> Outcome:
    """Train by the original and by labels."""
    copy = copy_model(model)
    return Outcome(copy, work.fit(copy, epochs=config.epochs, rate=config.rate))


def clustered(model: keras.Model, config: ClusterConfig, work: Work) -> Outcome:
    """Train with a few values for each kernel."""
    shared, _ = cluster.weights(model, clusters=config.clusters, seed=work.seed)
    trained = work.fit(shared, epochs=config.epochs, rate=config.rate)
    plain, report = cluster.finalize(shared)
    return Outcome(plain, f"{len(report.variables)} kernel(s) with {config.clusters} values each; {trained}")


def aware(model: keras.Model, config: AwareConfig, work: Work) -> Outcome:
    """Train with the rounding of an integer file, from where rounding without training comes to.

    Where channels are of very different sizes, training alone does not find the way back: on a depthwise network whose
    channels are spread 1,000 times it ended 30 points below.
    """
    copy, report = _rounded(model, config.scheme, "auto", work)
    trained = work.fit(copy, epochs=config.epochs, rate=config.rate)
    return Outcome(copy, f"{len(report.quantization.kernels)} kernel(s) rounded; {trained}")


def post_training(model: keras.Model, config: PostTrainingConfig, work: Work) -> Outcome:
    """Round with ranges and weights that calibration examples choose."""
    copy, report = _rounded(model, config.scheme, config.options, work)
    kept = ", ".join(option.name for option in report.options if option.kept) or "none"
    error = f"the error of the outputs fell from {report.plain_error:.4g} to {report.error:.4g}"
    return Outcome(copy, f"options kept: {kept}; {error}")


def mixed(model: keras.Model, config: MixedConfig, work: Work) -> Outcome:
    """Find the layers that spoil the outputs for calibration examples when they are rounded."""
    calibration = dict(work.calibration)
    plan = quantize.fallback(model, calibration, least_db=config.least_db, samples=work.samples, seed=work.seed)
    layers = f"{len(plan.layers)} layer(s) in float: {', '.join(plan.layers)}" if plan.layers else "no layer in float"
    summary = f"{layers}; {plan.measured_db:.1f} dB, {config.least_db:g} wanted"
    return Outcome(copy_model(model), summary, changed=bool(plan.layers), in_float=plan.layers)


def _rounded(model: keras.Model, scheme: str, options: str, work: Work) -> tuple[keras.Model, PostTrainingQuantization]:
    return quantize.post_training(
        model, dict(work.calibration), scheme=scheme, options=options, samples=work.samples, seed=work.seed
    )
