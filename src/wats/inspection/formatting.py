"""Numbers in few characters, and small graphs. No I/O."""

import math
from collections.abc import Sequence


def graph(values: Sequence[float | None], width: int, *, is_ascii: bool = False) -> str:
    """Return the last *width* of *values* as bars from 0 to the highest; a gap for `None`."""
    shown = values[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    bars = "_.-:=+*#" if is_ascii else "▁▂▃▄▅▆▇█"
    return "".join(_bar(value, top, bars) for value in shown).rjust(width)


def printable(text: str, *, is_ascii: bool = False) -> str:
    """Return *text* with a `?` for each character that could control a terminal."""
    return "".join(
        each if each.isprintable() and (each.isascii() or not is_ascii) else "?" for each in text
    )


def shorten(text: str, width: int, *, is_ascii: bool = False) -> str:
    """Return *text*, shortened in its middle: names often have a long beginning in common."""
    if len(text) <= width:
        return text
    mark = "~" if is_ascii else "…"
    end = (width - len(mark)) // 2
    return f"{text[: width - len(mark) - end]}{mark}{text[len(text) - end :]}"


def _bar(value: float | None, top: float, bars: str) -> str:
    if value is None:
        return " "
    # A value above zero is visible, however small.
    return bars[max(1, round(value / top * 7))] if value > 0 else bars[0]


def format_count(count: float) -> str:
    """Return a whole number in at most six characters."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= max(size, 100_000):
            digits = 0 if count >= size * 100 else 1
            return f"{count / size:.{digits}f}{unit}"
    return f"{count:.0f}"


def format_rate(rate: float | None) -> str:
    """Return a rate per second, in at most six characters."""
    if rate is None:
        return "-"
    if rate == 0 or rate >= 100:
        return format_count(rate)
    return f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def format_seconds(seconds: float | None, *, bottom: float = 0.0, top: float = math.inf) -> str:
    """Return a duration in at most six characters.

    Durations up to *bottom*, or above *top*, were not distinguished by the buckets.
    """
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return f">{format_seconds(top)}"
    if seconds <= bottom and bottom > 0:
        return f"<{format_seconds(bottom)}"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.1f}ms" if seconds < 0.01 else f"{seconds * 1000:.0f}ms"
    if seconds < 120:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.0f}h"


def format_uptime(seconds: int) -> str:
    """Return a time span, in its two largest units."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
