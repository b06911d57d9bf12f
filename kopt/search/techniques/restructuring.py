"""Another architecture from the same weights, and normalizations that go into kernels."""

import keras

from kopt import restructure
from kopt.core.records.search.techniques import FoldConfig, LowRankConfig, SeparableConfig
from kopt.restructure.accounting import Restructuring
from kopt.search.techniques.outcome import Outcome
from kopt.search.techniques.work import Work


def depthwise_separable(model: keras.Model, config: SeparableConfig, work: Work) -> Outcome:
    """Replace convolutions by a depthwise and a pointwise one."""
    del work
    return _outcome(*restructure.depthwise_separable(model, form="depthwise", max_error=config.max_error))


def low_rank(model: keras.Model, config: LowRankConfig, work: Work) -> Outcome:
    """Replace dense and convolution layers by products of smaller ones."""
    del work
    return _outcome(*restructure.low_rank(model, target_macs=config.target_macs))


def fold_batch_norm(model: keras.Model, config: FoldConfig, work: Work) -> Outcome:
    """Fold batch normalizations into the kernels beside them."""
    del config, work
    return _outcome(*restructure.fold_batch_norm(model))


def _outcome(model: keras.Model, report: Restructuring) -> Outcome:
    layers = f"{len(report.applied)} layer(s) replaced"
    return Outcome(model, f"{layers}, {report.macs_before:,} multiply-accumulates became {report.macs_after:,}")
