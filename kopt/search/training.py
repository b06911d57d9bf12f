"""How the search may train: a small frozen request."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.serialization import Record
from kopt.core.settings import number, whole
from kopt.data import Augmentation


@dataclasses.dataclass(frozen=True)
class Training(Record):
    """Lets `kopt.optimize` train candidates, and says how long and how.

    Every trained candidate learns from the original model and from the labels: the loss is `(1 - distillation)` of that
    of the labels plus `distillation` of the divergence from what the original says.

    Attributes:
        epochs: over the training data, for each training that is not a first brief look; those take a quarter.
        learning_rate: of Adam, the highest; it rises for a tenth of the updates and falls along a cosine.
        batch_size: examples of an update.
        loss: of the labels, a name of Keras' losses; `None`: that which the model is compiled with, else what labels
            and outputs show.
        temperature: softens the original's answers.
        distillation: share of the original's answers in the loss, in [0, 1]; 0 learns from labels alone.
        augment: random changes of images, drawn anew every epoch.
        trial_seconds: after which the training of one candidate is ended and counts as failed; `None`: never.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> training = kopt.Training(epochs=1)
        >>> result = kopt.optimize(
        ...     model,
        ...     (x_train, y_train),
        ...     (x_val, y_val),
        ...     techniques=("channels", "tflite-int8"),
        ...     training=training,
        ...     trials=2,
        ...     workdir="run",
        ...     progress=None,
        ... )
        >>> result.ended
        '2 trials were made, all that `trials` allows.'
    """

    epochs: int = 4
    learning_rate: float = 2e-3
    batch_size: int = 64
    loss: str | None = None
    temperature: float = 3.0
    distillation: float = 0.7
    augment: Augmentation | None = None
    trial_seconds: float | None = None

    def __post_init__(self) -> None:
        whole("epochs", self.epochs)
        whole("batch_size", self.batch_size)
        number("learning_rate", self.learning_rate, least=0.0, open_below=True)
        number("temperature", self.temperature, least=0.0, open_below=True)
        number("distillation", self.distillation, least=0.0, most=1.0)
        if self.loss is not None and not isinstance(self.loss, str):
            raise ConfigError(
                f"`loss` is the name of a loss of Keras, e.g. 'sparse_categorical_crossentropy'; an object goes into "
                f"`model.compile(loss=...)`. Received: {self.loss!r}."
            )
        if self.augment is not None and not isinstance(self.augment, Augmentation):
            raise ConfigError(
                f"`augment` is a kopt.data.Augmentation, which other processes can read. Received: {self.augment!r}."
            )
        if self.trial_seconds is not None:
            number("trial_seconds", self.trial_seconds, least=0.0, open_below=True)
