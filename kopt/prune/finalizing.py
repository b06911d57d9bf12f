"""A plain model of one that was trained under masks or a penalty."""

import keras

from kopt.core.errors import InputError
from kopt.core.records.actions import LayerAction
from kopt.graph import copy_model, owned_variables
from kopt.graph.naming import is_kernel
from kopt.prune.channel_removal.pruning import ChannelPruning
from kopt.prune.gradual_removal.channel_masks import ChannelMasks
from kopt.prune.gradual_removal.gradual_channels import without_masked_channels
from kopt.prune.sparse_learning.group_lasso import GroupLasso, penalty_report
from kopt.prune.sparse_learning.penalties import PenalizedModel
from kopt.prune.weight_masks.by_magnitude import Magnitude, masks_of, record_of, report_of
from kopt.prune.weight_masks.by_tfmot import stripped, twin_pruning_of
from kopt.train.weight_constraints import masked_inside, plain_copy


def finalize(model: keras.Model) -> tuple[keras.Model, Magnitude | ChannelPruning | GroupLasso]:
    """Return a plain model with the weights of a pruned one, and what became of them.

    Zeros of `magnitude` stay in place. Channels that `channels_gradually` masked are taken out: the plain model is
    smaller and computes the same. The penalty of `group_lasso` is taken off, and the report says what it has done.

    Args:
        model: of `magnitude`, `gradient`, `channels_gradually` or `group_lasso`, or loaded from its `.keras` file; not
            changed but for masked weights that are not zero, such as those an average of weights has brought back.

    Raises:
        InputError: the model has neither masks nor a penalty.

    Example:
        >>> pruned, _ = kopt.prune.magnitude(model, 0.8)
        >>> plain, report = kopt.prune.finalize(pruned)
        >>> round(report.sparsity, 2), float(np.mean(plain.get_layer("classes").kernel.numpy() == 0))
        (0.8, 0.8)
    """
    origin = twin_pruning_of(model)
    if origin is not None:
        plain, rows = stripped(origin)
        left = _without_mask(plain, {row.path for row in rows})
        return plain, record_of(plain, origin.method.pattern, origin.method.schedule, rows, left)
    if isinstance(model, PenalizedModel):
        return copy_model(model), penalty_report(model)
    if not isinstance(model, keras.Model):
        raise InputError(f"`finalize` takes a model of `magnitude` and the like. Received: {model!r}.")
    masks = masks_of(model)
    inside = [one for one in masked_inside(model) if one is not model]
    if masks is None and inside:
        raise InputError(
            f"Of the model {model.name!r} the part {inside[0].name!r} has masks or codebooks: `finalize` that one, and "
            f"put what it gives in its place."
        )
    if masks is None:
        raise InputError(f"The model {model.name!r} has no masks. Received a {type(model).__name__}; see `magnitude`.")
    if isinstance(masks, ChannelMasks):
        return without_masked_channels(model)
    plain = plain_copy(model)
    return plain, report_of(model, _without_mask(model, set(masks.paths)))


def _without_mask(model: keras.Model, masked: set[str]) -> list[LayerAction]:
    dense = [one for one in owned_variables(model) if one.path not in masked and is_kernel(one.variable)]
    return [LayerAction(one.layer_path, type(one.layer).__name__, "it had no mask") for one in dense]
