"""Products that sum over axes: dense layers, matrix products, Einstein sums."""

from kopt.profile.cost.shapes import Config, Cost, Shape, activation, known, product


def dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """Entries of the output x features of the input."""
    if config.get("lora_rank"):
        return None  # The kernel is put together in every call.
    return Cost(product(output) * known(inputs[0][-1]), _after(config, output, bool(config["use_bias"])))


def einsum_dense(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """The size of the index space of the equation, every index once."""
    if config.get("lora_rank"):
        return None
    left, result = _terms(config["equation"])
    sizes = {**_index_sizes(result, output), **_index_sizes(left[0], inputs[0])}
    return Cost(product(sizes.values()), _after(config, output, config["bias_axes"] is not None))


def einsum_dense_output(config: Config, given: Shape, output: Shape) -> Shape:
    """Return the shape of the output with the sizes that Keras leaves open and takes over from the input."""
    left, result = _terms(config["equation"])
    if "..." in result:
        return output
    sizes = dict(zip(left[0], given, strict=True))
    return tuple(sizes.get(index) if size is None else size for index, size in zip(result, output, strict=True))


def dot_layer(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Entries of the output x length of the axis that is summed over; a norm takes three operations an entry."""
    axes = config["axes"]
    length = known(inputs[0][axes if isinstance(axes, int) else axes[0]])
    return Cost(product(output) * length, 3 * sum(map(product, inputs)) if config["normalize"] else 0)


def _after(config: Config, output: Shape, bias: bool) -> int:
    each = bias + activation(config)
    return each * product(output) if each else 0


def matrix_product(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """`keras.ops.matmul`, `dot`, `inner`: entries of the output x last axis of the first operand."""
    if not all(inputs[:2]):
        return None  # A number: nothing is summed over.
    return Cost(product(output) * known(inputs[0][-1]))


def outer_product(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.outer`: a multiplication an entry, and no addition."""
    return Cost(0, product(output))


def inner_product_of_all(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.vdot`: one for an entry."""
    return Cost(product(inputs[0]))


def tensordot(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.tensordot`: entries of the output x lengths of the axes that are summed over."""
    axes, first = config["axes"], inputs[0]
    if isinstance(axes, int):
        summed = first[len(first) - axes :]
    else:
        summed = tuple(first[axis] for axis in ([axes[0]] if isinstance(axes[0], int) else axes[0]))
    return Cost(product(output) * product(summed))


def einsum(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """`keras.ops.einsum` of one or two operands: the size of the index space, every index once."""
    operands, _ = _terms(config["subscripts"])
    if len(operands) != len(inputs) or len(inputs) > 2:
        return None  # The order in which more operands are multiplied decides what it takes.
    sizes: dict[str, int] = {}
    for term, shape in zip(operands, inputs, strict=True):
        for index, size in _index_sizes(term, shape).items():
            sizes[index] = max(known(size), sizes.get(index, 1))  # An axis of 1 is broadcast.
    entries = product(sizes.values())
    return Cost(entries) if len(operands) == 2 else Cost(0, entries)


def _terms(equation: str) -> tuple[list[str], str]:
    left, _, result = equation.replace(" ", "").partition("->")
    return left.split(","), result


def _index_sizes(term: str, shape: Shape) -> dict[str, int | None]:
    if "..." not in term:
        return dict(zip(term, shape, strict=True))
    head, tail = term.split("...")
    split = len(shape) - len(tail)
    middle = shape[len(head) : split]
    return {
        **dict(zip(head, shape, strict=False)),
        "...": None if None in middle else product(middle),
        **dict(zip(tail, shape[split:], strict=True)),
    }
