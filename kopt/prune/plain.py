"""Models that neither carry masks nor penalties."""

import keras

from kopt.core.errors import InputError
from kopt.prune.penalties import PenalizedModel
from kopt.prune.pruned_model import is_pruned


def require_unmasked(model: keras.Model) -> None:
    """Raise for a model that carries masks, which would not hold in a copy.

    Raises:
        InputError: it does.
    """
    if is_pruned(model):
        raise InputError(f"The model {model.name!r} is pruned already: `kopt.prune.finalize` it first.")


def require_plain(model: keras.Model) -> None:
    """Raise for a model that carries masks or penalties, which a copy would lose.

    Raises:
        InputError: it does.
    """
    require_unmasked(model)
    name = model.name
    if isinstance(model, PenalizedModel):
        raise InputError(f"The model {name!r} has penalties: `kopt.prune.finalize` takes them off.")
