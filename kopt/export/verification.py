"""Holding an exported file against the model it came from, before it is called done.

Converters fail silently: files that answer NaN, graphs with captured constants among their inputs, operators that no
runtime knows. Opening the file in its own runtime and comparing numbers finds all of these.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.core.errors import KoptError, ParityError
from kopt.core.records.artifacts import Parity, TensorInfo
from kopt.core.schemes import Scheme
from kopt.data import calibration
from kopt.export.source import Source
from kopt.measure import Runner, compare_outputs, feeding, load, random_inputs

_EXAMPLES = 16


def examples(data: Any, inputs: tuple[TensorInfo, ...], seed: int, *, name: str = "data") -> Mapping[str, np.ndarray]:
    """Return the inputs on which file and model are compared: some of `data`, or seeded random ones if it is `None`."""
    if data is None:
        return random_inputs(inputs, _EXAMPLES, seed=seed, name=name)
    return calibration(data, samples=_EXAMPLES, seed=seed, inputs=inputs, name=name)


_ALL_ZERO = (
    " Integers of a layer whose outputs are 0 for all of the calibration do this: `kopt.quantize.post_training` gives "
    "it a range, `kopt.profile.gradients` names it."
)


def require_same_signature(runner: Runner, source: Source) -> None:
    """Raise unless the file has exactly the inputs and outputs of its source.

    Raises:
        ParityError: a name is missing or an extra one is there.
    """
    for kind, found, expected in (
        ("inputs", runner.inputs, source.inputs),
        ("outputs", runner.outputs, source.outputs),
    ):
        if {info.name for info in found} != {info.name for info in expected}:
            raise ParityError(
                f"The converter changed the {kind}: the model has {_names(expected)}, the file has {_names(found)}."
            )


def open_exported(path: Path) -> Runner:
    """Open an exported file in its own runtime.

    Raises:
        ParityError: the runtime refuses what the converter wrote.
    """
    try:
        return load(path)
    except KoptError as error:
        # A range of no width, from calibration with integers, is what XNNPACK refuses a file for.
        hint = _ALL_ZERO if "XNNPACK" in str(error) else ""
        raise ParityError(f"The converter reported success, but the runtime refuses the file: {error}{hint}") from error


def parity_with_source(runner: Runner, source: Source, arrays: Mapping[str, np.ndarray]) -> Parity:
    """Compare the file with the traced model on `arrays` (by input name)."""
    found = _by_name(runner.predict(dict(arrays)), runner)
    expected = source.compute(arrays)
    return Parity(
        a=runner.runtime,
        b=f"Keras model {source.name}" if source.model is not None else f"SavedModel {source.name}",
        examples=feeding.examples(source.inputs, arrays),
        outputs=tuple(compare_outputs(info.name, found[info.name], expected[info.name]) for info in source.outputs),
    )


# What may come out where the model gives nothing but 0; elsewhere the scheme's own bound holds.
_ZERO = 1e-6


def require_parity(parity: Parity, scheme: Scheme, step: float) -> None:
    """Raise if a file is broken rather than coarse.

    Args:
        parity: file against model.
        scheme: says how coarse a file of its kind may be.
        step: largest quantization step of the outputs: no quantized file can come closer than that.

    Raises:
        ParityError: non-finite numbers that the model does not give, or a difference beyond the scheme's bound.
    """
    for output in parity.outputs:
        if output.nonfinite_a > output.nonfinite_b:
            raise ParityError(
                f"Output {output.name!r} of the {scheme.name} file holds {output.nonfinite_a} NaN or infinite numbers "
                f"on {parity.examples} examples; the model gives {output.nonfinite_b}."
            )
        bound = scheme.relative_error * output.reference_rms + step
        if not output.rmse <= (bound if output.reference_rms > 0 else bound + _ZERO):
            raise ParityError(
                f"Output {output.name!r} of the {scheme.name} file is off by {output.rmse:.3g} (root mean square over "
                f"{parity.examples} examples); the model's output has root mean square {output.reference_rms:.3g}, and "
                f"{bound:.3g} is the most that {scheme.name} explains. Calibrate on data as it will come, "
                f"export what `kopt.quantize.post_training` makes, let `kopt.quantize.fallback` (`kopt quantize "
                f"--fallback float32`) find the layers of a .tflite that have to stay in float, such as one that "
                f"scales raw features, or choose a finer scheme."
            )


def _by_name(outputs: np.ndarray | dict[str, np.ndarray], runner: Runner) -> dict[str, np.ndarray]:
    return outputs if isinstance(outputs, dict) else {runner.outputs[0].name: outputs}


def _names(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(repr(info.name) for info in infos)
