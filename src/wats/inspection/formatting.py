"""Numbers in few characters, and small graphs. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_RED: Final = "31"
_CYAN: Final = "36"
_BOLD: Final = "1"
_FAINT: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The abilities of the output of a frame.

    Attributes:
        columns: The width of a line.
        lines: The number of lines; `None` for any number.
        has_colors: Whether the terminal interprets escape sequences.
        has_unicode: Whether characters beyond ASCII can be written.
    """

    columns: int = 80
    lines: int | None = None
    has_colors: bool = False
    has_unicode: bool = True

    def bold(self, text: str) -> str:
        """Return *text* as a heading."""
        return self._paint(text, _BOLD)

    def faint(self, text: str) -> str:
        """Return *text* in a subdued style."""
        return self._paint(text, _FAINT)

    def alarm(self, text: str) -> str:
        """Return *text* in a prominent style."""
        return self._paint(text, f"{_BOLD};{_RED}")

    def graph(self, values: Sequence[float | None], width: int) -> str:
        """Return the last *width* of *values* as bars from 0 to the highest; a gap for `None`."""
        shown = values[-width:]
        top = max((value for value in shown if value is not None), default=0.0)
        bars = "".join(self._bar(value, top) for value in shown)
        return self._paint(bars.rjust(width), _CYAN)

    def shorten(self, text: str, width: int) -> str:
        """Return *text* without characters that control a terminal, and shortened in its middle."""
        plain = "".join(each if self._can_show(each) else "?" for each in text)
        if len(plain) <= width:
            return plain
        mark = "…" if self.has_unicode else "~"
        end = (width - len(mark)) // 2
        return f"{plain[: width - len(mark) - end]}{mark}{plain[len(plain) - end :]}"

    def _bar(self, value: float | None, top: float) -> str:
        if value is None:
            return " "
        bars = "▁▂▃▄▅▆▇█" if self.has_unicode else "_.-:=+*#"
        # A value above zero is visible, however small.
        return bars[max(1, round(value / top * 7))] if value > 0 else bars[0]

    def _can_show(self, character: str) -> bool:
        return character.isprintable() and (self.has_unicode or character.isascii())

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colors and text.strip() else text


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
