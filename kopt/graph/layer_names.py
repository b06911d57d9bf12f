"""Which layers a name that a user gives stands for."""

import fnmatch
from collections.abc import Iterable
from typing import Any

from kopt.core.errors import ConfigError, nearest

_LISTED = 20


def is_named(path: str, name: str) -> bool:
    """Return whether `name` stands for the layer or variable at `path`, or for a layer around it.

    Args:
        path: names from the outside in, `"backbone/block1/conv"`.
        name: names that follow each other in the path, such as `"conv"`, `"backbone"`, `"block1/conv"` or the whole
            path; or the same with the wildcards of the shell, of which `*` also spans a `/`.
    """
    if f"/{name}/" in f"/{path}/":
        return True
    if not any(mark in name for mark in "*?["):
        return False
    return any(fnmatch.fnmatchcase(path, form) for form in (name, f"{name}/*", f"*/{name}", f"*/{name}/*"))


def named(paths: Iterable[str], name: Any, setting: str) -> tuple[str, ...]:
    """Return the paths that a name stands for, in their order.

    Args:
        paths: of the layers of a model, e.g. by `layer_paths`.
        name: see `is_named`.
        setting: what the user calls the argument, for the message.

    Raises:
        ConfigError: it stands for none.
    """
    paths = tuple(paths)
    found = tuple(path for path in paths if is_named(path, name)) if isinstance(name, str) else ()
    if found:
        return found
    known = dict.fromkeys(part for path in paths for part in (*path.split("/"), path))
    more = ", ..." if len(paths) > _LISTED else ""
    raise ConfigError(
        f"`{setting}`: no layer is called {name!r}.{nearest(str(name), known)} Give the name of a layer, or its path. "
        f"The model's layers: {', '.join(paths[:_LISTED])}{more}."
    )
