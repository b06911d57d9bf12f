"""Recurrent layers: what a cell does in a step, times the steps."""

from collections.abc import Callable, Mapping
from typing import Any

from kopt.profile.cost.shapes import Config, Cost, Shape, channels_of, known, product

# Operations on a unit in a step of a cell with biases, besides products:
# LSTM, 4 gates: sum of both products and bias, 8; functions of the gates and of the state, 5; new state and output, 4.
# GRU, 3 gates: bias, 3; sums, 3; functions, 3; reset, 1; new state, 4. With `reset_after` the state's product has a
# bias of its own, 3.
# SimpleRNN: sum of both products and bias, 2; function, 1.
_BIAS = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_WITHOUT_BIAS = {"LSTM": 13, "GRU": 11, "SimpleRNN": 2}
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def _cell(kind: str, config: Config, features: int) -> Cost:
    """Return the cost of one step of one example: gates x units x (features + units)."""
    units, biases = int(config["units"]), 0
    if config["use_bias"]:
        biases = _BIAS[kind] * (2 if kind == "GRU" and config["reset_after"] else 1)
    return Cost(_GATES[kind] * units * (features + units), units * (_WITHOUT_BIAS[kind] + biases))


def layer(kind: str) -> Callable[[Config, tuple[Shape, ...], Shape], Cost]:
    """Return the formula of `LSTM`, `GRU` or `SimpleRNN`."""

    def count(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return _cell(kind, config, known(inputs[0][-1])).times(product(inputs[0][:2]))

    return count


def cell(kind: str) -> Callable[[Config, tuple[Shape, ...], Shape], Cost]:
    """Return the formula of a cell that is called by itself."""

    def count(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return _cell(kind, config, known(inputs[0][-1])).times(known(inputs[0][0]))

    return count


def rnn(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost | None:
    """`RNN` of one or several of Keras' cells, each of which takes the outputs of the one before."""
    cells = [config["cell"]]
    if cells[0]["class_name"] == "StackedRNNCells":
        cells = cells[0]["config"]["cells"]
    total, features = Cost(), known(inputs[0][-1])
    for one in cells:
        kind = _kind(one)
        if kind is None:
            return None
        total = total.plus(_cell(kind, one["config"], features))
        features = int(one["config"]["units"])
    return total.times(product(inputs[0][:2]))


def _kind(serialized: Mapping[str, Any]) -> str | None:
    kind = serialized["class_name"].removesuffix("Cell")
    return kind if serialized["module"] == "keras.layers" and kind in _GATES else None


def convolutional(config: Config, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """`ConvLSTM`: steps x four gates x entries of the state x kernel size x (channels + filters)."""
    state = (output[0], *(output[2:] if config["return_sequences"] else output[1:]))
    filters, entries = channels_of(state, config), product(state)
    channels = channels_of((None, *inputs[0][2:]), config)
    window = product(config["kernel_size"]) * (channels + filters)
    on_entry = _WITHOUT_BIAS["LSTM"] + (_BIAS["LSTM"] if config["use_bias"] else 0)
    return Cost(4 * entries * window, entries * on_entry).times(known(inputs[0][1]))
