"""Which layer a kernel that ran belongs to, where its name alone does not tell.

TensorFlow names a fused kernel after the last operation that went into it, and sums of gradients after nothing.
"""

import dataclasses
import re

import tensorflow as tf

from kopt.profile.timing.scopes import Place, place_of

_FUSED = re.compile(r"_(?:Mkl)?(?:Native)?Fused(\w+)")
_REACH = 4


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Where a kernel belongs.

    Attributes:
        place: of a fused one that of its first part, which does most of the work, with the names of all parts.
        fused_layers: of the other parts, other than that of the first.
    """

    place: Place
    fused_layers: tuple[str, ...] = ()


def attribute(graph: tf.Graph, name: str, kernel: str, paths: list[str]) -> Attribution:
    """Return the place of a kernel.

    Args:
        graph: as traced inside `layer_scopes`, before TensorFlow optimized it.
        name: of the kernel that ran.
        kernel: its type, e.g. `"_MklNativeFusedConv2D"`.
        paths: of the layers, see `numbered_paths`.
    """
    place = place_of(name, paths)
    try:
        operation = graph.get_operation_by_name(name)
    except KeyError:
        return Attribution(place)  # In the body of a loop, or made by the optimizer.
    if operation.type == "AddN" and place.phase == "other":
        return Attribution(_of_gradients(operation, place, paths))
    parts = [place_of(part, paths) for part in fused_parts(operation, kernel)]
    if not parts:
        return Attribution(place)
    others = dict.fromkeys(one.layer for one in parts[1:] if one.layer and one.layer != parts[0].layer)
    together = " + ".join(one.name for one in parts)
    return Attribution(dataclasses.replace(parts[0], name=together), tuple(others))


def fused_parts(last: tf.Operation, kernel: str) -> list[str]:
    """Return the names of the operations from the one that gave a fused kernel its type to `last`, its namesake.

    Returns:
        Nothing if it is not fused, or no operation of its type stands close before `last`.
    """
    match = _FUSED.fullmatch(kernel)
    if match is None or last.type == match[1]:
        return []
    chains = [[last]]
    for _ in range(_REACH):
        chains = [[tensor.op, *chain] for chain in chains for tensor in chain[0].inputs]
        for chain in chains:
            if chain[0].type == match[1]:
                return [operation.name for operation in chain]
    return []


def _of_gradients(operation: tf.Operation, place: Place, paths: list[str]) -> Place:
    """Return the place of a sum of gradients: the layer that all of them come from, if it is one."""
    sources = [place_of(tensor.op.name, paths) for tensor in operation.inputs]
    if not all(source.phase == "backward" for source in sources):
        return place
    layers = {source.layer for source in sources}
    layer = layers.pop() if len(layers) == 1 else None
    return Place(place.name if layer is None else f"{layer}/{place.name}", layer, "backward")
