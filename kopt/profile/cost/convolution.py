"""Convolutions. Counted are also the products with padded zeros, as published numbers do."""

from kopt.profile.cost.shapes import Config, Cost, Shape, activation, channels_of, product


def convolution(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Entries of the output x kernel size x input channels of a group."""
    read = product(config["kernel_size"]) * channels_of(inputs[0], config) // int(config["groups"])
    return Cost(product(output) * read, _after(config, output))


def depthwise(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Entries of the output x kernel size: an output channel reads one input channel."""
    return Cost(product(output) * product(config["kernel_size"]), _after(config, output))


def separable(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """A depthwise convolution and a 1x1 convolution on each of its outputs."""
    filters = channels_of(output, config)
    middle = product(output) // filters * channels_of(inputs[0], config) * int(config["depth_multiplier"])
    return Cost(middle * (product(config["kernel_size"]) + filters), _after(config, output))


def transposed(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Entries of the input x kernel size x filters: an input is spread over one kernel a filter."""
    spread = product(config["kernel_size"]) * int(config["filters"]) // int(config.get("groups", 1))
    return Cost(product(inputs[0]) * spread, _after(config, output))


def _after(config: Config, output: Shape) -> int:
    """Bias and activation of every entry."""
    each = bool(config["use_bias"]) + activation(config)
    return each * product(output) if each else 0


def convolution_operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.conv(inputs, kernel)` with a kernel of (*size, channels of a group, filters)."""
    return Cost(product(output) * product(inputs[1][:-1]))


def depthwise_operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.depthwise_conv(inputs, kernel)` with a kernel of (*size, channels, multiplier)."""
    return Cost(product(output) * product(inputs[1][:-2]))


def separable_operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.separable_conv(inputs, depthwise_kernel, pointwise_kernel)`."""
    kernel, pointwise = inputs[1], inputs[2]
    positions = product(output) // product(pointwise[-1:])
    return Cost(positions * (product(kernel) + product(pointwise)))


def transposed_operation(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`keras.ops.conv_transpose(inputs, kernel)` with a kernel of (*size, filters, channels)."""
    return Cost(product(inputs[0]) * product(inputs[1][:-1]))
