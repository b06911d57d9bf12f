"""Model, data, loss and metric checked, and the model traced."""

import dataclasses
from typing import Any

import keras

from kopt.core.errors import UnsupportedModelError
from kopt.core.settings import whole
from kopt.graph import require_built, require_finite
from kopt.profile.layer_sensitivity.examples import Examples
from kopt.profile.layer_sensitivity.kernels import Target, targets_of
from kopt.profile.layer_sensitivity.objective import Objective, objective_of
from kopt.profile.layer_sensitivity.tracing import Trace
from kopt.train import check_inputs
from kopt.train.steps.input_checks import fixed_batch


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What every measurement begins with.

    Attributes:
        trace: of the model, with all `targets`.
        targets: layers that have kernels; `skipped` those that have none, with the reason.
        examples: checked against the model.
        objective: what it is judged by.
    """

    trace: Trace
    targets: list[Target]
    skipped: dict[str, str]
    examples: Examples
    objective: Objective


def prepare(model: keras.Model, data: Any, loss: Any, metric: Any, batch_size: int) -> Prepared:
    """Check everything and trace the model; see `sensitivity` for arguments and errors."""
    require_built(model)
    require_finite(model)
    size = fixed_batch(model)
    if size is not None:
        raise UnsupportedModelError(
            f"Model {model.name!r} takes batches of exactly {size}, and layers are compared on parts of batches. Build "
            f"it with an open batch, `keras.Input(shape)`, and set its weights."
        )
    examples = Examples(data, whole("batch_size", batch_size))
    first = examples.batch
    check_inputs(model, first.x, first.y, loss=loss)
    with keras.StatelessScope():  # What the model assigns is dropped.
        outputs = model(first.rows(0, 1).x, training=False)
    objective = objective_of(model, first.y, outputs, loss, metric)
    targets, skipped = targets_of(model)
    if not targets:
        raise UnsupportedModelError(
            f"Model {model.name!r} has no kernel to perturb (a floating-point variable of two or more axes). Its "
            f"layers: {'; '.join(f'{path}: {reason}' for path, reason in skipped.items()) or 'none has variables'}."
        )
    return Prepared(Trace(model, targets, objective, examples.specs()), targets, skipped, examples, objective)
