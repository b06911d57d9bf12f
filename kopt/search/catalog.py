"""The ways to ship a model that a search tries: one row each."""

import dataclasses
from collections.abc import Sequence

from kopt.core.errors import ConfigError, nearest
from kopt.core.records import ExportConfig
from kopt.core.schemes import SCHEMES


@dataclasses.dataclass(frozen=True)
class Technique:
    """A row of the catalog.

    Attributes:
        name: what tables and the command line call it.
        config: what is asked of the exporter.
        suffix: of the file.
        summary: one line.
    """

    name: str
    config: ExportConfig
    suffix: str
    summary: str


CATALOG: dict[str, Technique] = {
    row.name: row
    for row in (
        Technique("saved_model", ExportConfig("saved_model"), "", "TensorFlow and TF Serving, float32"),
        Technique("onnx", ExportConfig("onnx"), ".onnx", "ONNX Runtime, float32"),
        *(
            Technique(f"tflite-{name}", ExportConfig("tflite", name), ".tflite", f"LiteRT, {scheme.summary}")
            for name, scheme in SCHEMES.items()
        ),
    )
}
"""The ways to ship a model that `kopt.optimize` tries, by the names that `techniques=` takes.

Example:
    >>> list(kopt.search.CATALOG)[-3:]
    ['tflite-int8', 'tflite-int16x8', 'tflite-int4']
"""


def select(names: Sequence[str] | None) -> tuple[Technique, ...]:
    """Return the rows called `names`, or all of them.

    Raises:
        ConfigError: no such row.
    """
    if isinstance(names, str):
        raise ConfigError(f"`techniques` is a sequence of names, e.g. [{names!r}]. Received the string {names!r}.")
    for name in names or ():
        if name not in CATALOG:
            raise ConfigError(f"Unknown technique {name!r}.{nearest(name, CATALOG)} Accepted: {', '.join(CATALOG)}.")
    if names is not None and not names:
        raise ConfigError(f"`techniques` is empty. Accepted: {', '.join(CATALOG)}, or None for all.")
    return tuple(CATALOG[name] for name in names or CATALOG)
