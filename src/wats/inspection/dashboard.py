"""The state of a service, as lines of text. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from wats.inspection.formatting import (
    Style,
    format_count,
    format_rate,
    format_seconds,
    format_uptime,
)
from wats.inspection.history import History
from wats.inspection.samples import Samples
from wats.inspection.tables import Cell, Fact, Row, Table, Tally, inbox, others, sections
from wats.telemetry.contract.families import WEBHOOK_REJECTIONS
from wats.telemetry.contract.values import RejectionReason
from wats.web.ops.status import Status, StoreView

_NUMBER: Final = 8
_LABEL: Final = 20
_WIDEST_LABEL: Final = 40
_WIDEST_GRAPH: Final = 60
_CELLS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The content of a frame: all counts of a service, or those since it is watched.

    Attributes:
        url: The address of the service.
        status: The last response of `/status`; `None` before the first.
        latest: The last response of `/metrics`.
        history: The observations since the service is watched; `None` for a single look.
        trouble: Why it does not respond now; empty if it does.
        notes: Further remarks, at the end.
    """

    url: str
    status: Status | None
    latest: Samples
    history: History | None = None
    trouble: str = ""
    notes: tuple[str, ...] = ()


def render(view: View, style: Style) -> list[str]:
    """Return *view* as lines within the width and height of *style*.

    If there is too little room, first the empty lines are removed, then the quietest rows.
    """
    page = _Page(view, style)
    head, foot = page.head(), page.foot()
    tables = sections(view.latest)
    blank = [""]
    if style.lines is not None:
        room = style.lines - len(head) - len(foot)
        if _height(tables) + len(tables) + 1 > room:
            blank = []
            tables = _fit(tables, room, page.counted)
    body = [line for table in tables for line in (*blank, *page.table(table))]
    return [*head, *body, *(blank if foot else []), *foot][: style.lines]


def _height(tables: Sequence[Table]) -> int:
    return sum(1 + len(table.rows) for table in tables)


def _fit(tables: Sequence[Table], room: int, counted: Samples) -> list[Table]:
    """Remove the quietest row of the longest table until all tables fit."""
    kept = list(tables)
    while _height(kept) > room:
        place = max(range(len(kept)), key=lambda place: len(kept[place].rows))
        rows = kept[place].rows
        if len(rows) < 2:
            break
        quietest = min(rows, key=lambda row: row.count(counted))
        kept[place] = replace(
            kept[place],
            rows=tuple(row for row in rows if row is not quietest),
            hidden=kept[place].hidden + 1,
        )
    return kept


class _Page:
    """One view in one style."""

    def __init__(self, view: View, style: Style) -> None:
        self._view = view
        self._style = style
        history = view.history
        self._history = history
        self.counted = view.latest if history is None else history.watched
        self._timed = view.latest if history is None else history.recent()
        room = max(style.columns - _NUMBER * (1 + _CELLS), _LABEL)
        self._graph = 0 if history is None else min(room - _LABEL, _WIDEST_GRAPH)
        self._label = min(room - self._graph, _WIDEST_LABEL)

    def head(self) -> list[str]:
        status, style = self._view.status, self._style
        about = [f"wats at {self._view.url}"]
        if status is not None:
            about = [
                f"wats {status.version}",
                f"Graph {status.graph_api_version}",
                f"up {format_uptime(status.uptime_seconds)}",
                status.service_mode,
            ]
        first = style.bold(self._joined(about))
        if self._view.trouble:
            return [first, style.alarm(self._joined([self._view.trouble]))]
        place = [] if status is None else [self._place(status.persistence)]
        return [first, *place, *self._unsigned()]

    def _unsigned(self) -> list[str]:
        count = self.counted.total(
            WEBHOOK_REJECTIONS.name, reason=RejectionReason.SIGNATURE_MISMATCH
        )
        text = f"{format_count(count)} webhooks with a signature of no configured app secret"
        return [self._style.alarm(self._joined([text]))] if count else []

    def _place(self, store: StoreView | None) -> str:
        if store is None:
            return self._joined([self._view.url, "no store"])
        state = "ok" if store.ok else "CANNOT BE READ"
        text = f"{store.backend} {state}, schema {store.current_version}"
        line = self._joined([self._view.url, text])
        return line if store.ok else self._style.alarm(line)

    def _joined(self, parts: Sequence[str]) -> str:
        """Return as many of *parts* as fit, and at least the beginning of the first."""
        between = " · " if self._style.has_unicode else " | "
        text = self._style.shorten("".join(parts[:1]), self._style.columns)
        for part in parts[1:]:
            if len(text) + len(between) + len(part) > self._style.columns:
                break
            text += between + self._style.shorten(part, self._style.columns)
        return text

    def table(self, section: Table) -> list[str]:
        title = section.title + (f" (+{section.hidden})" if section.hidden else "")
        number = "total" if self._history is None else "per s"
        heads = "".join(head.rjust(_NUMBER) for head in section.heads)
        top = f"{title:<{self._label}}{number:>{_NUMBER}}{' ' * self._graph}{heads}"
        return [self._style.bold(top), *map(self._line, section.rows)]

    def _line(self, row: Row) -> str:
        label = self._style.shorten(row.label, self._label - 1).ljust(self._label)
        number, graph = format_count(row.count(self._view.latest)), ""
        if self._history is not None:
            rates = self._history.rates(row.count)
            number = format_rate(rates[-1] if rates else None)
            graph = f" {self._style.graph(rates, self._graph - 1)}" if self._graph > 1 else ""
        return f"{label}{number:>{_NUMBER}}{graph}{''.join(map(self._cell, row.cells))}"

    def _cell(self, cell: Cell) -> str:
        if cell is None:
            return " " * _NUMBER
        if not isinstance(cell, Tally):
            seconds = cell.quantile(self._timed)
            return format_seconds(seconds, bottom=cell.bottom, top=cell.top).rjust(_NUMBER)
        count = cell.count(self.counted)
        text = format_count(count).rjust(_NUMBER)
        if not count:
            return self._style.faint(text)
        return self._style.alarm(text) if cell.alarms else text

    def foot(self) -> list[str]:
        note = self._joined(self._view.notes)
        return [
            *self._facts("Inbox", inbox(self._view.latest)),
            *self._facts("Also", others(self._view.latest, self.counted)),
            *([self._style.faint(note)] if note else []),
        ]

    def _facts(self, title: str, facts: Sequence[Fact]) -> list[str]:
        width = 8
        line = self._style.bold(title.ljust(width))
        for fact in facts:
            number = format_seconds(fact.value) if fact.is_duration else format_count(fact.value)
            text = f"{fact.text} {number}"
            width += len(text) + 2
            if width > self._style.columns:
                break
            line += (self._style.alarm(text) if fact.is_bad and fact.value else text) + "  "
        return [line.rstrip()] if facts else []
