"""The machine and the packages a number was made with."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from kopt.core.records.measurements import Machine
from kopt.version import __version__

PACKAGES = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "tf2onnx",
    "keras-tuner",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "onnxruntime",
    "numpy",
)


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the installed versions of `packages` and of kopt; what is not installed is left out."""
    found = {"kopt": __version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Return the commit of the working directory, with `-dirty` where tracked files differ; empty if there is none."""
    command = ("git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


@functools.lru_cache(maxsize=1)
def machine(accelerators: tuple[str, ...] = ()) -> Machine:
    """Describe this machine."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        accelerators=accelerators,
        python=platform.python_version(),
        versions=versions(),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_bytes() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0
