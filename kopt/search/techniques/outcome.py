"""What a technique made of a model."""

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model, and what was done.

    Attributes:
        model: built, not the one that went in.
        summary: what was done, in a sentence.
        changed: false where there was nothing to do, so that the model is as it was.
        in_float: layers that stay in float when the model becomes an integer file.
    """

    model: keras.Model
    summary: str
    changed: bool = True
    in_float: tuple[str, ...] = ()
