"""Models that carry neither masks nor codebooks nor penalties."""

import keras

from kopt.core.errors import InputError
from kopt.graph.additions import require_unrounded
from kopt.prune.sparse_learning.penalties import PenalizedModel
from kopt.prune.weight_masks.masks import Masks
from kopt.train.weight_constraints import constraints_of, masked_inside


def require_unmasked(model: keras.Model) -> None:
    """Raise for a model that carries masks, codebooks or rounding, itself or inside, which a copy would not have.

    Raises:
        InputError: it does.
    """
    require_unrounded(model)
    for inner in masked_inside(model):
        made = "pruned" if isinstance(constraints_of(inner)[0], Masks) else "clustered, which comes after pruning,"
        where = "" if inner is model else f", a part of {model.name!r},"
        raise InputError(f"The model {inner.name!r}{where} is {made} already: `finalize` it first.")


def require_plain(model: keras.Model) -> None:
    """Raise for a model that carries masks or penalties, which a copy would lose.

    Raises:
        InputError: it does.
    """
    require_unmasked(model)
    name = model.name
    if isinstance(model, PenalizedModel):
        raise InputError(f"The model {name!r} has penalties: `kopt.prune.finalize` takes them off.")
