"""Models that neither carry masks nor penalties."""

import keras

from kopt.core.errors import InputError
from kopt.prune.penalties import PenalizedModel
from kopt.prune.pruned_model import is_pruned


def require_plain(model: keras.Model) -> None:
    """Raise for a model that carries masks or penalties, which a copy would lose.

    Raises:
        InputError: it does.
    """
    name = model.name
    if is_pruned(model):
        raise InputError(f"The model {name!r} is pruned already: `kopt.prune.finalize` it first.")
    if isinstance(model, PenalizedModel):
        raise InputError(f"The model {name!r} has penalties: `kopt.prune.finalize` takes them off.")
