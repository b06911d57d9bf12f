"""Are all weights of a model finite?"""

import keras

from kopt.graph import require_built, require_finite


def check(model: keras.Model) -> None:
    """Raise if a weight of `model` is NaN or infinite, and return nothing if all are finite.

    Use it after loading a checkpoint, and before long work on a model. Every entry is read, piece by piece and without
    a copy of the weights; it takes about a second for a thousand million of them.

    Args:
        model: built Keras 3 model.

    Raises:
        InputError: not a Keras 3 model, or one that is not built.
        NonFiniteError: names the variables with their layers, how many entries are NaN and infinite, and the indices
            of the first ones.

    Example:
        >>> kopt.profile.check(model)
        >>> kernel, bias = model.get_layer("classes").get_weights()
        >>> model.get_layer("classes").set_weights([kernel, np.full(10, np.nan)])
        >>> kopt.profile.check(model)
        Traceback (most recent call last):
            ...
        kopt.core.errors.NonFiniteError: ...classes/bias...
    """
    require_built(model)
    require_finite(model)
