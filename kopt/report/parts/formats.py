"""Numbers as people read them: pure functions from a value to its text."""

import math

NOTHING = "-"


def is_counted(metric: str) -> bool:
    """Tell whether a metric is a fraction of examples answered right, to be shown in percent."""
    return "accuracy" in metric.lower() or metric.lower() in ("acc", "agreement")


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits, never in powers of ten: `0.0421`, `4.21`, `1,310`."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    decimals = digits if value == 0 else digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 9)}f}" if value else "0"


def metric_value(value: float | None, metric: str) -> str:
    """Return accuracies in percent, other metrics as they are."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value * 100:.2f}%" if is_counted(metric) else f"{value:.4f}"


def metric_change(value: float | None, metric: str) -> str:
    """Return a difference of metrics: of accuracies in points, of others as it is. Never `-0.00`."""
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{value * 100:.2f}" if is_counted(metric) else f"{value:.4f}"
    return text.removeprefix("-") if float(text) == 0 else text


def change_unit(metric: str) -> str:
    """Return the unit that `metric_change` counts in."""
    return "points" if is_counted(metric) else f"of {metric}"


def kibibytes(value: int | None) -> str:
    """Return bytes in KiB, with one decimal below 100."""
    if value is None:
        return NOTHING
    kib = value / 1024
    return f"{kib:,.1f}" if kib < 99.95 else f"{kib:,.0f}"


def size(value: int | None) -> str:
    """Return bytes with the unit that suits them."""
    if value is None:
        return NOTHING
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(value) >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{value} bytes"


def times(value: float | None) -> str:
    """Return a ratio such as a speedup: `0.42x`, `3.1x`, `12x`."""
    return NOTHING if value is None else f"{number(value, 2)}x"


def share(value: float | None) -> str:
    """Return a fraction in percent with two significant digits: `4.2%`, `26%`."""
    return NOTHING if value is None else f"{number(value * 100, 3 if value >= 1 else 2)}%"


def agreement(value: float | None) -> str:
    """Return an agreement in percent; only a full one is called 100."""
    if value is None:
        return NOTHING
    return f"{min(value * 100, 99.99):.2f}%" if value < 1 else "100%"


def count(value: int | None) -> str:
    """Return a large count with its unit: `950`, `12.3 K`, `1.24 M`."""
    if value is None:
        return "?"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= factor:
            return f"{number(value / factor)} {unit}"
    return str(value)


def duration(seconds: float) -> str:
    """Return a time span: `12 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds, 2)} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shape(dimensions: tuple[int | None, ...]) -> str:
    """Return a shape as `(?, 28, 28, 1)`."""
    return f"({', '.join('?' if size is None else str(size) for size in dimensions)})"


def shortened(name: str, most: int) -> str:
    """Return a name of at most `most` characters: the beginning and the end of recipes tell them apart."""
    if len(name) <= most:
        return name
    end = (most - 1) * 2 // 5
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"
