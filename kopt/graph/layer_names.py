"""Which layers a name that a user gives stands for."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from kopt.core import settings
from kopt.core.errors import ConfigError, nearest
from kopt.core.records.actions import LayerAction

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


def all_named(paths: Iterable[str], names: str | Iterable[str], setting: str) -> set[str]:
    """Return the paths that names or patterns stand for, with all layers inside.

    Raises:
        ConfigError: one stands for none.
    """
    return {path for name in settings.names(setting, names) for path in named(paths, name, setting)}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which layers a user asks for with `layers` and `skip`.

    Attributes:
        only: paths of the only layers to treat; `None` for all.
        skipped: paths of layers to leave as they are.
    """

    only: frozenset[str] | None
    skipped: frozenset[str]

    @classmethod
    def of(cls, paths: Sequence[str], layers: Iterable[str] | None, skip: Iterable[str]) -> "Wanted":
        """Return what names or patterns stand for.

        Raises:
            ConfigError: one stands for no layer.
        """
        only = None if layers is None else frozenset(all_named(paths, layers, "layers"))
        return cls(only, frozenset(all_named(paths, skip, "skip")))

    def refusal(self, path: str) -> str:
        """Return why a layer is left as it is; empty if it is wanted."""
        if path in self.skipped:
            return "named in `skip`"
        return "" if self.only is None or path in self.only else "not named in `layers`"


def nothing_chosen(model: str, done: str, left: Sequence[LayerAction]) -> ConfigError:
    """Return the error that says why no layer of a model can be treated.

    Args:
        model: its name.
        done: what cannot be done, `"pruned"`.
        left: what is left as it is, with the reasons.
    """
    reasons = "; ".join(f"{one.layer} ({one.type}): {one.detail}" for one in left[:5]) or "it has no kernels"
    return ConfigError(f"Nothing in the model {model!r} can be {done} with these settings: {reasons}.")
