"""Pairs of layers that belong together, found by resolution and depth."""

import keras

from kopt.core.errors import ConfigError
from kopt.distill.features import Feature
from kopt.distill.losses import FeatureLoss
from kopt.graph import GraphView

# Layers that change the size of a map only for the next one: none is the end of a stage.
_PREPARING = ("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D")
# What ends a block in networks of one resolution.
_ENDS = {
    3: ("Add", "LayerNormalization", "RMSNormalization", "LSTM", "GRU", "Bidirectional", "Conv1D"),
    2: ("Dense", "LSTM", "GRU", "Bidirectional"),
}


def matched(student: keras.Model, teacher: keras.Model, loss: FeatureLoss | str = "fitnet") -> tuple[Feature, ...]:
    """Return pairs of layers, of the student and of the teacher.

    Of networks on images: the last layer of each resolution that both have; where they have none in common, resolutions
    belong together by their order. Of networks without maps the ends of blocks: number i of n in the student belongs to
    the one at the same part of the depth of the teacher.

    Args:
        student: Functional or Sequential.
        teacher: Functional or Sequential.
        loss: of each pair.

    Raises:
        UnsupportedModelError: a subclassed model, whose layers are not known.
        ConfigError: no layers that belong together.

    Example:
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> [(pair.student, pair.teacher) for pair in kopt.distill.matched(student, model)]
        [('relu1', 'relu1'), ('conv2', 'conv2')]
    """
    ours, theirs = (_by_resolution(GraphView.of(model)) for model in (student, teacher))
    pairs = [(ours[size], theirs[size]) for size in ours if size in theirs]
    pairs = pairs or _by_depth(list(ours.values()), list(theirs.values()))
    for rank in () if pairs else (3, 2):
        pairs = _by_depth(_ends(GraphView.of(student), rank), _ends(GraphView.of(teacher), rank))
        if pairs:
            break
    if not pairs:
        raise ConfigError(
            f"No layers of {student.name!r} and {teacher.name!r} belong together by resolution or depth. Name them: "
            f"`features=[(student layer, teacher layer), ...]`."
        )
    return tuple(Feature(one, other, loss, automatic=True) for one, other in pairs)


def _by_resolution(view: GraphView) -> dict[tuple[int, ...], str]:
    """Return the last layer that gives maps of each size, the sizes in order."""
    found: dict[tuple[int, ...], str] = {}
    for call in view.calls:
        shape = call.outputs[0].shape
        is_layer = isinstance(call.operation, keras.layers.Layer) and len(call.outputs) == 1
        if len(shape) in (4, 5) and is_layer and None not in shape[1:-1] and _may_end(call.operation):
            found[tuple(shape[1:-1])] = call.operation.name
    return {size: name for size, name in found.items() if any(one > 1 for one in size)}


def _may_end(operation: keras.Operation) -> bool:
    return type(operation).__name__ not in _PREPARING


def _ends(view: GraphView, rank: int) -> list[str]:
    last = {id(tensor) for tensor in view.outputs}
    return [
        call.operation.name
        for call in view.calls
        if type(call.operation).__name__ in _ENDS[rank]
        and len(call.outputs[0].shape) == rank
        and id(call.outputs[0]) not in last
    ]


def _by_depth(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    if not ours or not theirs:
        return []
    count = min(len(ours), len(theirs))
    return [(_at(ours, i, count), _at(theirs, i, count)) for i in range(count)]


def _at(names: list[str], index: int, count: int) -> str:
    """Return the name at the end of part `index` of `count` equal parts."""
    return names[-(-(index + 1) * len(names) // count) - 1]
