"""The numeric schemes a model can be exported in, as data."""

import dataclasses

from kopt.core.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How numbers are stored and computed in an exported file.

    Attributes:
        name: what users write.
        weights: storage type of the large weights.
        activations: type in which activations are computed.
        needs_calibration: activation ranges must be measured on real samples.
        io_dtypes: input and output types a caller may choose; the first is the default.
        relative_error: largest accepted root-mean-square difference from the Keras model, as a fraction of the root
            mean square of the Keras output. Wide on purpose: it tells a broken file from a coarse one; how much
            accuracy a coarse file costs is measured on data.
        summary: one line for tables.
    """

    name: str
    weights: str
    activations: str
    needs_calibration: bool
    io_dtypes: tuple[str, ...]
    relative_error: float
    summary: str


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32", "float32", False, ("float32",), 1e-3, "reference precision"),
        Scheme("float16", "float16", "float32", False, ("float32",), 2e-2, "half the size, float32 arithmetic"),
        Scheme(
            "dynamic",
            "int8",
            "float32",
            False,
            ("float32",),
            0.3,
            "int8 weights, activations quantized on the fly",
        ),
        Scheme("weight_only", "int8", "float32", False, ("float32",), 0.3, "8-bit weights, float32 arithmetic"),
        Scheme("int8", "int8", "int8", True, ("float32", "int8", "uint8"), 0.5, "integer arithmetic throughout"),
        Scheme("int16x8", "int8", "int16", True, ("float32", "int16"), 0.3, "int8 weights, 16-bit activations"),
        Scheme("int4", "int4", "float32", False, ("float32",), 0.9, "4-bit weights, float32 arithmetic"),
    )
}


def get_scheme(name: str) -> Scheme:
    """Return the scheme called `name`.

    Raises:
        ConfigError: no such scheme; the nearest name is suggested.
    """
    try:
        return SCHEMES[name]
    except (KeyError, TypeError):
        raise ConfigError(
            f"Unknown scheme {name!r}.{nearest(str(name), SCHEMES)} Accepted: {', '.join(SCHEMES)}."
        ) from None
