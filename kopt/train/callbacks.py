"""Callbacks for `fit`: averaged weights, momentum of batch normalization, plateaus, early stopping."""

from kopt.train.averaging import AveragedWeights
from kopt.train.batch_norm_momentum import AdaptBatchNormMomentum
from kopt.train.optimizers.plateau import ReduceOnPlateau, early_stopping

__all__ = ["AdaptBatchNormMomentum", "AveragedWeights", "ReduceOnPlateau", "early_stopping"]
