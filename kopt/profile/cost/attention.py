"""Attention: projections, scores of every pair of positions, and weighted sums.

Counted besides: a softmax on every score (three operations), the scale of the queries, and biases. Masks are not.
"""

from collections.abc import Sequence

from kopt.profile.cost.shapes import Config, Cost, Shape, known, product

SOFTMAX = 3


def multi_head(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`MultiHeadAttention`; inputs are query, value and key. Attention is along `attention_axes` only."""
    query, value, key = (*inputs, inputs[1])[:3]
    heads, key_size = int(config["num_heads"]), int(config["key_dim"])
    value_size = int(config["value_dim"] or key_size)
    axes = config["attention_axes"] or range(1, len(query) - 1)
    attended = (axes,) if isinstance(axes, int) else tuple(axes)
    pairs = product(query[:-1]) * product(value[axis] for axis in attended)
    made = (
        (query, heads * key_size),
        (key, heads * key_size),
        (value, heads * value_size),
        ((*query[:-1], heads * value_size), product(output[len(query) - 1 :])),
    )
    return _sum(made, pairs, heads, (key_size, value_size), product(query[:-1]) * heads * key_size, config["use_bias"])


def grouped(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`GroupQueryAttention`: keys and values have fewer heads than queries."""
    query, value, key = (*inputs, inputs[1])[:3]
    heads, groups = int(config["num_query_heads"]), int(config["num_key_value_heads"])
    size = int(config["head_dim"])
    made = (
        (query, heads * size),
        (key, groups * size),
        (value, groups * size),
        ((*query[:-1], heads * size), known(output[-1])),
    )
    pairs = product(query[:-1]) * known(value[1])
    return _sum(made, pairs, heads, (size, size), product(query[:-1]) * heads * size, config["use_bias"])


def _sum(
    projections: Sequence[tuple[Shape, int]],
    pairs: int,
    heads: int,
    sizes: tuple[int, int],
    scaled: int,
    bias: bool,
) -> Cost:
    """Add up projections (of a shape to so many features), scores of `pairs`, and weighted sums."""
    macs = sum(product(shape) * features for shape, features in projections)
    biases = sum(product(shape[:-1]) * features for shape, features in projections) if bias else 0
    return Cost(macs + pairs * heads * sum(sizes), SOFTMAX * pairs * heads + scaled + biases)


def plain(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """`Attention` with dot products: nothing is projected."""
    if config["score_mode"] != "dot":
        return None
    query, value = inputs[0], inputs[1]
    pairs = product(query[:-1]) * known(value[1])
    each = SOFTMAX + bool(config["use_scale"])
    return Cost(pairs * (known(query[-1]) + known(value[-1])), each * pairs)


def additive(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`AdditiveAttention`: `sum(scale * tanh(query + key))` on each pair, and the weighted sums."""
    query, value = inputs[0], inputs[1]
    pairs, features = product(query[:-1]) * known(value[1]), known(query[-1])
    scaled = features if config["use_scale"] else 0
    return Cost(pairs * (scaled + known(value[-1])), pairs * (2 * features + (features - scaled) + SOFTMAX))


def operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.dot_product_attention` of (batch, positions, heads, size)."""
    query, key, value = inputs[:3]
    pairs = product(query[:3]) * known(key[1])
    return Cost(pairs * (known(query[3]) + known(value[3])), (SOFTMAX + 1) * pairs)
