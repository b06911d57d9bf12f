"""A model that is too big for one device, spread over several: consecutive layers a device."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kopt.core.errors import ConfigError, nearest
from kopt.core.randomness import preserved_random_state
from kopt.core.records.training.distribution import PlacementReport, Stage
from kopt.graph import Call, GraphView, clone_layer, copy_weights, rewrite
from kopt.train.distribution.device_scope import on_device
from kopt.train.distribution.devices import known_devices

_COSTS = ("parameters", "activations")


@preserved_random_state()
def place_layers(
    model: keras.Model, devices: Sequence[str], *, by: str | Mapping[str, str] = "parameters"
) -> tuple[keras.Model, PlacementReport]:
    """Return a copy of a model whose layers live and run on several devices, one after the other.

    For a model whose weights, gradients and optimizer state do not fit on one device. The devices work in turn, not at
    the same time: it saves memory, not time. Each layer's variables, forward and backward pass are on its device; only
    the tensors between stages are copied. Compile with `kopt.train.placed_optimizer`, or all of the optimizer's state
    goes to the first device. XLA compiles for one device, so `jit_compile` is off.

    The layers are cut into as many runs as there are devices, so that the largest run is as small as it can be.

    Args:
        model: Functional or Sequential, built; not changed. A model that fits on none of the devices is built inside
            `tf.device("CPU:0")`.
        devices: names such as `"GPU:0"`, at least two, in the order in which data passes them.
        by: `"parameters"` balances bytes of variables, `"activations"` bytes of the layers' outputs for one example. Or
            devices by name or path of a layer; a layer that is not named goes where the one before it is.

    Returns:
        A plain uncompiled model and what is where. A saved file of it knows nothing of devices: it opens anywhere, and
        is placed again with this function.

    Raises:
        ConfigError: fewer than two devices, one that does not exist, fewer layers than devices, or a name in `by` that
            no layer has.
        UnsupportedModelError: a subclassed model, or a layer that does not rebuild from its config.

    Example:
        >>> kopt.train.place_layers(model, ["CPU:0", "CPU:1"])  # `kopt.train.logical_cpus(2)` makes two to try it
        Traceback (most recent call last):
            ...
        kopt.core.errors.ConfigError: `devices`: 'CPU:1' does not exist. ...
    """
    view = GraphView.of(model)
    names = known_devices(devices)
    if len(names) < 2:
        raise ConfigError(f"`devices` needs two or more to share the layers. Received: {list(devices)}.")
    layers = [(path, one) for path, one in view.walk() if isinstance(one, keras.layers.Layer)]
    where = _mapped(layers, by, names) if isinstance(by, Mapping) else _balanced(layers, by, names)
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
    paths = {id(layer): path for path, layer in layers}

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        twin = on_device(clone_layer(layer, paths[id(layer)]), where[id(layer)])
        pairs.append((layer, twin))
        return twin

    placed, _ = rewrite(model, replace)
    for layer, twin in pairs:
        copy_weights(layer, twin)
    return placed, _report(view, layers, where)


def placed_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return an optimizer of the same settings that keeps its state, and computes its updates, where each variable is.

    Keras makes all of an optimizer's state on the first device, which for Adam is twice the size of the weights.

    Args:
        optimizer: any Keras optimizer, not built yet; not changed.

    Raises:
        ConfigError: the optimizer has state already.

    Example:
        >>> optimizer = kopt.train.placed_optimizer(keras.optimizers.Adam(0.5))
        >>> optimizer.built, float(optimizer.learning_rate)
        (False, 0.5)
    """
    if optimizer.built:
        raise ConfigError(
            f"The optimizer {optimizer.name!r} is built: its state is on a device already. Pass a fresh one, e.g. "
            f"`{type(optimizer).__name__}.from_config(optimizer.get_config())`."
        )
    twin = type(optimizer).from_config(optimizer.get_config())
    inner = getattr(twin, "inner_optimizer", twin)
    add, update = inner.add_variable_from_reference, inner.update_step

    def add_beside(reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        with tf.device(_device_of(reference_variable)):
            return add(reference_variable, *args, **kwargs)

    def update_there(gradient: Any, variable: Any, learning_rate: Any) -> None:
        with tf.device(_device_of(variable)):
            update(gradient, variable, learning_rate)

    # Past `__setattr__`: TensorFlow would look for variables in them.
    object.__setattr__(inner, "add_variable_from_reference", add_beside)
    object.__setattr__(inner, "update_step", update_there)
    return twin


def balanced_runs(costs: Sequence[int], runs: int) -> list[int]:
    """Cut costs into consecutive runs so that the largest sum of a run is as small as possible.

    Args:
        costs: non-negative, in order.
        runs: how many, at least 1 and at most the number of costs.

    Returns:
        For every cost the number of its run, from 0. All runs have an entry.
    """
    low, high = max(costs), sum(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _filled(costs, runs, middle)[-1] < runs else (middle + 1, high)
    return _filled(costs, runs, low)


def _filled(costs: Sequence[int], runs: int, bound: int) -> list[int]:
    """Fill run after run up to `bound`, but leave an entry for every run that is still empty."""
    numbers, total = [0], costs[0]
    for position, cost in enumerate(costs[1:], start=1):
        must_open = runs - 1 - numbers[-1] >= len(costs) - position
        if total + cost > bound or must_open:
            numbers.append(numbers[-1] + 1)
            total = cost
        else:
            numbers.append(numbers[-1])
            total += cost
    return numbers


def _balanced(layers: list[tuple[str, Any]], by: str, devices: tuple[str, ...]) -> dict[int, str]:
    if by not in _COSTS:
        raise ConfigError(
            f"Unknown `by` {by!r}.{nearest(by, _COSTS)} Accepted: {', '.join(_COSTS)}, or devices by layer name."
        )
    if len(layers) < len(devices):
        raise ConfigError(f"{len(layers)} layer(s) cannot be spread over {len(devices)} devices.")
    cost = _parameter_bytes if by == "parameters" else _output_bytes
    numbers = balanced_runs([cost(layer) for _, layer in layers], len(devices))
    return {id(layer): devices[number] for (_, layer), number in zip(layers, numbers, strict=True)}


def _mapped(layers: list[tuple[str, Any]], by: Mapping[str, str], devices: tuple[str, ...]) -> dict[int, str]:
    known = {name for path, layer in layers for name in (path, layer.name)}
    for name, device in by.items():
        if name not in known:
            raise ConfigError(f"`by` names {name!r}, which is no layer of the model.{nearest(name, known)}")
        if known_devices([device])[0] not in devices:
            raise ConfigError(f"`by` puts {name!r} on {device!r}, which is not in `devices`: {', '.join(devices)}.")
    where: dict[int, str] = {}
    current = devices[0]
    for path, layer in layers:
        named = by.get(path, by.get(layer.name))
        current = known_devices([named])[0] if named is not None else current
        where[id(layer)] = current
    return where


def _report(view: GraphView, layers: list[tuple[str, Any]], where: dict[int, str]) -> PlacementReport:
    stages: list[Stage] = []
    for path, layer in layers:
        device, size = where[id(layer)], _parameter_bytes(layer)
        if stages and stages[-1].device == device:
            last = stages.pop()
            stages.append(Stage(device, (*last.layers, path), last.parameter_bytes + size))
        else:
            stages.append(Stage(device, (path,), size))
    placed = {path for path, _ in layers}
    others = [path for path, _ in view.walk() if path not in placed]
    skipped = tuple((path, "a `keras.ops` operation runs where TensorFlow puts it") for path in others)
    return PlacementReport(tuple(stages), len(set(_crossings(view, where, {}))), skipped)


def _crossings(view: GraphView, where: dict[int, str], origin: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Yield (tensor, device) for tensors that one device makes and another takes.

    Args:
        view: of a model.
        where: device by the `id` of a layer.
        origin: device of known tensors by their `id`; filled in.
    """
    for call in view.calls:
        if call.nested is not None:
            pairs = list(zip(call.nested.inputs, _data_inputs(call), strict=False))
            origin.update({id(mine): origin[id(outer)] for mine, outer in pairs if id(outer) in origin})
            yield from _crossings(call.nested, where, origin)
            inside = zip(call.nested.outputs, call.outputs, strict=True)
            origin.update({id(outer): origin[id(mine)] for mine, outer in inside if id(mine) in origin})
            continue
        device = where.get(id(call.operation))
        if device is None:
            continue
        for tensor in call.inputs:
            if origin.get(id(tensor), device) != device:
                yield id(tensor), device
        origin.update(dict.fromkeys(map(id, call.outputs), device))


def _data_inputs(call: Call) -> list[Any]:
    return keras.tree.flatten(call.arguments[0])


def _parameter_bytes(layer: keras.layers.Layer) -> int:
    return sum(_bytes(variable.shape, variable.dtype) for variable in layer.variables)


def _output_bytes(layer: keras.layers.Layer) -> int:
    return sum(_bytes(tensor.shape[1:], tensor.dtype) for tensor in keras.tree.flatten(layer.output))


def _bytes(shape: Any, dtype: str) -> int:
    count = 1
    for size in shape:
        count *= size or 1
    return count * (1 if dtype == "string" else tf.as_dtype(dtype).size)


def _device_of(variable: Any) -> str:
    return (variable.value if isinstance(variable, keras.Variable) else variable).device
