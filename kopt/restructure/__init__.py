"""Another architecture from the same weights; each function returns a new plain Keras model and a report."""

from kopt.restructure.batch_norm_folding import fold_batch_norm
from kopt.restructure.compound_scaling import scale, scaled_channels, scaled_repeats
from kopt.restructure.factorization import low_rank
from kopt.restructure.reinitialization import reinitialize
from kopt.restructure.separable_convolutions import depthwise_separable
from kopt.restructure.sharing import share_layers

__all__ = [
    "depthwise_separable",
    "fold_batch_norm",
    "low_rank",
    "reinitialize",
    "scale",
    "scaled_channels",
    "scaled_repeats",
    "share_layers",
]
