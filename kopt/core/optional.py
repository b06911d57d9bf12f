"""Optional packages, with the command that adds them."""

import importlib
from types import ModuleType

from kopt.core.errors import MissingDependencyError

EXTRAS = {
    "fsspec": "backup",
    "ai_edge_quantizer": "int4",
    "codecarbon": "energy",
    "pynvml": "energy",
    "tensorboard": "tensorboard",
    "grpc": "serve",
    "nbclient": "notebooks",
    "tensorflow_serving": "serve",
    "tensorrt": "tensorrt",
    "tornado": "serve",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: import name, one of `EXTRAS` or a submodule of one.
        purpose: what needs it, for the message, e.g. `"int4 export"`.

    Raises:
        MissingDependencyError: it is not installed; the message carries the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRAS[module.partition(".")[0]]
        raise MissingDependencyError(
            f"{purpose} needs the package {module!r}, which cannot be imported ({error}). "
            f"Add it with: pip install 'keras-kopt[{extra}]'"
        ) from error
