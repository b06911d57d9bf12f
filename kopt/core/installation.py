"""What is installed, against what kopt was tested with."""

import importlib.metadata
import os
import platform

from packaging.requirements import Requirement

from kopt.core.records.checks import Check

DISTRIBUTION = "keras-kopt"


def check_installation() -> list[Check]:
    """Return a check for the Python version, for every requirement and extra of kopt, and for known clashes."""
    checks = [Check("python", "ok", platform.python_version())]
    for text in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        extra = _extra(requirement)
        if requirement.name != DISTRIBUTION and extra != "dev":
            checks.append(_check(requirement, extra))
    return [*checks, *_clashes()]


def _extra(requirement: Requirement) -> str | None:
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return None
    return next((name for name in names if marker.evaluate({"extra": name})), None)


def _check(requirement: Requirement, extra: str | None) -> Check:
    wanted = f"{DISTRIBUTION}[{extra}]" if extra else f"{requirement.name}{requirement.specifier}"
    remedy = f"pip install '{wanted}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        needed_by = f"not installed; needed by the extra {extra!r}" if extra else "not installed; kopt requires it"
        return Check(requirement.name, "missing" if extra else "warning", needed_by, remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "warning", f"{version}; tested with {requirement.specifier}", remedy)
    return Check(requirement.name, "ok", version)


def _clashes() -> list[Check]:
    """Combinations that are known to break something, each seen to do so."""
    found = []
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        found.append(
            Check(
                "TF_USE_LEGACY_KERAS",
                "warning",
                "set: tf.keras is Keras 2 in this process, and its models are no Keras 3 models",
                "unset TF_USE_LEGACY_KERAS",
            )
        )
    if _installed("hgq2") and _installed("qkeras"):
        found.append(
            Check("hgq2 and qkeras", "warning", "both install a package called qkeras", "pip uninstall hgq2 or qkeras")
        )
    if _installed("tensorflow-cpu"):
        found.append(
            Check("tensorflow-cpu", "warning", "installs the same files as tensorflow", "pip uninstall tensorflow-cpu")
        )
    return found


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
