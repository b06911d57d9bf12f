"""`kopt.export.verify`: an exported file opened again, wherever it is, and held against what was written with it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kopt.core.errors import KoptError, LoadError, ParityError
from kopt.core.records.artifacts import Artifact
from kopt.core.records.shipping.safekeeping import Verdict, Verification
from kopt.core.schemes import get_scheme
from kopt.export.file_parameters import parameters_sha256
from kopt.export.manifest import is_sealed, read_manifest, require_intact, require_reference
from kopt.export.reference import answers, read_reference
from kopt.measure import Runner, compare_outputs, load
from kopt.measure.runner import in_order_of

# Another machine has other kernels, whose sums have another order. A tenth of what tells a broken file from a coarse
# one.
_SHARE_OF_BOUND = 0.1


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check that an exported file is what its manifest says and still computes what it computed when it was written.

    The hash of the file is compared before anything opens it, so that a damaged file never reaches a runtime.

    | checked | held against |
    |---|---|
    | manifest | its own seal |
    | content | SHA-256 in the manifest |
    | reference | SHA-256 in the manifest |
    | signature | inputs and outputs in the manifest |
    | parameters | their SHA-256 when the file was written |
    | outputs | those stored beside it, on the inputs stored beside it |

    Args:
        path: of a `.tflite`, `.onnx` or SavedModel that kopt exported, with `<path>.json` beside it.

    Returns:
        A verdict for each; `ok` if none failed. What an older version did not write is `"absent"`.

    Raises:
        LoadError: there is no such file and no manifest.

    Example:
        >>> kopt.export.verify("model.tflite").ok
        True
        >>> with open("model.tflite", "ab") as file:
        ...     size = file.write(b"a byte more")
        >>> checked = kopt.export.verify("model.tflite")
        >>> [verdict.checked for verdict in checked.verdicts if verdict.status == "failed"]
        ['content']
    """
    path = Path(path)
    if not path.exists() and not Path(f"{path}.json").exists() and not Path(f"{path}.dvc").exists():
        raise LoadError(f"There is neither {path} nor {path}.json. Check the path; it is looked up from {Path.cwd()}.")
    try:
        artifact = read_manifest(path)
    except LoadError as error:
        return Verification(str(path), (Verdict("manifest", "its seal", "failed", str(error)),))
    verdicts = [_seal(path), *(_checked(artifact, *check) for check in _BEFORE_OPENING)]
    if all(verdict.status != "failed" for verdict in verdicts):
        verdicts += _opened(artifact)
    return Verification(str(path), tuple(verdicts), artifact)


def _seal(path: Path) -> Verdict:
    if is_sealed(path):
        return Verdict("manifest", "its seal", "ok", "it fits")
    return Verdict("manifest", "its seal", "absent", "written before manifests were sealed")


def _opened(artifact: Artifact) -> list[Verdict]:
    try:
        runner = load(artifact.path)
    except KoptError as error:
        if artifact.parity is None:  # nor did it run when it was written, as its notes say
            return [Verdict("runtime", "the file", "absent", f"no runtime here runs it, which its notes say: {error}")]
        return [Verdict("runtime", "the file", "failed", str(error))]
    return [
        Verdict("runtime", "the file", "ok", runner.runtime),
        _checked(artifact, "signature", "the manifest", lambda one: _signature(one, runner)),
        _checked(artifact, "parameters", "those written", _parameters),
        _checked(artifact, "outputs", "the reference", lambda one: _replayed(one, runner)),
    ]


def _checked(artifact: Artifact, checked: str, against: str, check: Callable[[Artifact], str | None]) -> Verdict:
    """Turn what a check says, `None` if there is nothing to hold against, or its error, into a verdict."""
    try:
        found = check(artifact)
    except KoptError as error:
        return Verdict(checked, against, "failed", str(error))
    if found is None:
        return Verdict(checked, against, "absent", "the manifest has nothing to hold it against")
    return Verdict(checked, against, "ok", found)


def _content(artifact: Artifact) -> str:
    require_intact(artifact.path)
    return f"{artifact.size_bytes:,} bytes, SHA-256 {artifact.sha256[:12]}"


def _reference(artifact: Artifact) -> str | None:
    if artifact.reference is None:
        return None
    require_reference(artifact)
    return f"{artifact.reference.size_bytes:,} bytes"


def _signature(artifact: Artifact, runner: Runner) -> str:
    for kind, found, expected in (
        ("inputs", runner.inputs, artifact.inputs),
        ("outputs", runner.outputs, artifact.outputs),
    ):
        if in_order_of(expected, found) != expected:
            raise LoadError(f"The runtime finds other {kind} than the manifest has: {found}, expected {expected}.")
    return f"{len(runner.inputs)} input(s), {len(runner.outputs)} output(s)"


def _parameters(artifact: Artifact) -> str | None:
    if not artifact.parameters_sha256:
        return None
    found = parameters_sha256(Path(artifact.path), artifact.format)
    if found != artifact.parameters_sha256:
        raise LoadError(
            f"The parameters that the reader finds are not those that were written: SHA-256 {found}, expected "
            f"{artifact.parameters_sha256}."
        )
    return f"the same after loading, SHA-256 {found[:12]}"


def _replayed(artifact: Artifact, runner: Runner) -> str | None:
    if artifact.reference is None:
        return None
    inputs, expected = read_reference(artifact.reference_path)
    found = answers(runner, inputs)
    if found.keys() != expected.keys():
        raise ParityError(f"The file answers {', '.join(found)}; the reference has {', '.join(expected)}.")
    if all(np.array_equal(found[name], expected[name], equal_nan=True) for name in found):
        return "the same bit for bit"
    share = get_scheme(artifact.scheme).relative_error * _SHARE_OF_BOUND
    steps = {info.name: info.scale or 0.0 for info in artifact.outputs}
    return ", ".join(_within(name, found[name], expected[name], share, steps[name]) for name in found)


def _within(name: str, found: np.ndarray, expected: np.ndarray, share: float, step: float) -> str:
    """Return how far an output is from its reference, which must be less than `share` of it and a step."""
    parity = compare_outputs(name, found, expected)
    bound = share * parity.reference_rms + step
    if parity.nonfinite_a != parity.nonfinite_b or not parity.rmse <= bound:
        raise ParityError(
            f"Output {name!r} is off by {parity.rmse:.3g} (root mean square; {bound:.3g} is accepted), with "
            f"{parity.nonfinite_a} NaN or infinite numbers where the reference has {parity.nonfinite_b}. The runtime "
            f"computes something else than the one that the file was written with."
        )
    return f"{name} off by {parity.rmse:.3g}, accepted {bound:.3g}"


_BEFORE_OPENING: tuple[tuple[str, str, Callable[[Artifact], str | None]], ...] = (
    ("content", "SHA-256 in the manifest", _content),
    ("reference", "SHA-256 in the manifest", _reference),
)
