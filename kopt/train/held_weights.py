"""What models have in common whose weights keep a form as they are trained: masks, codebooks, kernels on a grid."""

from typing import Any

import keras

from kopt.core.errors import OutputError
from kopt.train.interception import with_own_callbacks


class HoldsWeights:
    """Mixin of a `keras.Model`: weights have their form after every `fit`, and files that would lose it are refused."""

    def hold_weights(self) -> None:
        """Give weights their form that were changed past the optimizer, e.g. by an average."""
        raise NotImplementedError

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that any `fit` of this model should have."""
        return [_AfterTraining(self)]

    def fit(self, *args: Any, callbacks: Any = None, **settings: Any) -> Any:
        """See `keras.Model.fit`; what is wrong with the training for this model is an error before it."""
        model: Any = self
        return super().fit(*args, callbacks=with_own_callbacks(model, callbacks), **settings)  # type: ignore[misc]

    def save(self, filepath: Any, *args: Any, **settings: Any) -> Any:
        """See `keras.Model.save`.

        Raises:
            OutputError: the path is that of an HDF5 file, which holds the layers of a Functional model and no more.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise OutputError(
                f"{filepath}: an HDF5 file does not hold what kopt adds to a model, and could not be opened. Save a "
                f"{type(self).__name__} to a `.keras` file."
            )
        return super().save(filepath, *args, **settings)  # type: ignore[misc]


class _AfterTraining(keras.callbacks.Callback):
    """Holds weights once more: optimizers that average put averages into the model when `fit` ends."""

    def __init__(self, held: HoldsWeights):
        super().__init__()
        self._held = held

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._held.hold_weights()
