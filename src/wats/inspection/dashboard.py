"""The state of a service, as lines for a terminal. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from wats.inspection.formatting import (
    format_count,
    format_rate,
    format_seconds,
    format_uptime,
    graph,
    printable,
    shorten,
)
from wats.inspection.history import History
from wats.inspection.samples import Samples
from wats.inspection.tables import Cell, Fact, Row, Table, Tally, inbox, others, outbox, sections
from wats.telemetry.contract.families import WEBHOOK_REJECTIONS
from wats.telemetry.contract.values import RejectionReason
from wats.web.ops.status import ServiceStatus, StoreView

_NUMBER: Final = 8
_LABEL: Final = 20
_WIDEST_LABEL: Final = 40
_WIDEST_GRAPH: Final = 60
_CELLS: Final = 4

_BOLD: Final = "bold"
_FAINT: Final = "dim"
_ALARM: Final = "bold red"
_GRAPH: Final = "cyan"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A frame for rich: all counts of a service, or those since it is watched.

    If the height is limited, first the empty lines are removed, then the quietest rows.

    Attributes:
        url: The address of the service.
        status: The last response of `/status`; `None` before the first.
        latest: The last response of `/metrics`.
        history: The observations since the service is watched; `None` for a single look.
        trouble: Why it does not respond now; empty if it does.
        notes: Further remarks, at the end.
    """

    url: str
    status: ServiceStatus | None
    latest: Samples
    history: History | None = None
    trouble: str = ""
    notes: tuple[str, ...] = ()

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        page = _Page(self, options)
        head, foot = page.head(), page.foot()
        tables = sections(self.latest)
        is_tight = False
        if options.height is not None:
            room = options.height - len(head) - len(foot)
            is_tight = _height(tables) + len(tables) + 1 > room
            tables = _fit(tables, room, page.counted) if is_tight else tables
        yield from head
        yield page.body(tables, is_tight=is_tight)
        if foot and not is_tight:
            yield Text()
        yield from foot


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
    """One view in the width and the characters of one terminal."""

    def __init__(self, view: View, options: ConsoleOptions) -> None:
        self._view = view
        self._columns = options.max_width
        self._is_ascii = options.ascii_only
        # The ellipsis of rich is not ASCII.
        self._overflow: OverflowMethod = "crop" if self._is_ascii else "ellipsis"
        self._history = history = view.history
        self.counted = view.latest if history is None else history.watched
        self._timed = view.latest if history is None else history.recent()
        self._cells = max(0, min(_CELLS, (self._columns - _LABEL) // _NUMBER - 1))
        room = max(_NUMBER, self._columns - _NUMBER * (1 + self._cells))
        spare = 0 if history is None else min(room - _LABEL, _WIDEST_GRAPH)
        self._graph = spare if spare > 1 else 0  # its first column is a gap
        self._label = min(room - self._graph, _WIDEST_LABEL)

    def head(self) -> list[Text]:
        status = self._view.status
        about = [f"wats at {self._view.url}"]
        if status is not None:
            about = [
                f"wats {status.version}",
                f"Graph {status.graph_api_version}",
                f"up {format_uptime(status.uptime_seconds)}",
                status.service_mode,
            ]
        first = self._line(about, _BOLD)
        if self._view.trouble:
            return [first, self._line([self._view.trouble], _ALARM)]
        place = [] if status is None else [self._place(status.persistence)]
        return [first, *place, *self._unsigned()]

    def _unsigned(self) -> list[Text]:
        count = self.counted.total(
            WEBHOOK_REJECTIONS.name, reason=RejectionReason.SIGNATURE_MISMATCH
        )
        text = f"{format_count(count)} webhooks with a signature of no configured app secret"
        return [self._line([text], _ALARM)] if count else []

    def _place(self, store: StoreView | None) -> Text:
        if store is None:
            return self._line([self._view.url, "no store"])
        state = "ok" if store.ok else "CANNOT BE READ"
        text = f"{store.backend} {state}, schema {store.current_version}"
        return self._line([self._view.url, text], "" if store.ok else _ALARM)

    def body(self, tables: Sequence[Table], *, is_tight: bool) -> Grid:
        """Return all tables as one grid, so that their columns are aligned."""
        grid = Grid.grid()
        self._add_column(grid, self._label, "left")
        self._add_column(grid, _NUMBER)
        if self._graph:
            self._add_column(grid, self._graph, style=_GRAPH)
        for _ in range(self._cells):
            self._add_column(grid, _NUMBER)
        for table in tables:
            if not is_tight:
                grid.add_row()
            grid.add_row(*self._heads(table), style=_BOLD)
            for row in table.rows:
                grid.add_row(*self._row(row))
        return grid

    def _add_column(
        self, grid: Grid, width: int, justify: JustifyMethod = "right", style: str = ""
    ) -> None:
        grid.add_column(
            width=width, justify=justify, style=style, no_wrap=True, overflow=self._overflow
        )

    def _heads(self, table: Table) -> list[Text]:
        title = table.title + (f" (+{table.hidden})" if table.hidden else "")
        number = "total" if self._history is None else "per s"
        gap = [""] if self._graph else []
        return [Text(each) for each in (title, number, *gap, *table.heads[: self._cells])]

    def _row(self, row: Row) -> list[Text]:
        label = shorten(self._printable(row.label), self._label - 1, is_ascii=self._is_ascii)
        cells = [self._cell(cell) for cell in row.cells[: self._cells]]
        if self._history is None:
            return [Text(label), Text(format_count(row.count(self._view.latest))), *cells]
        rates = self._history.rates(row.count)
        bars = [graph(rates, self._graph - 1, is_ascii=self._is_ascii)] if self._graph else []
        number = format_rate(rates[-1] if rates else None)
        return [Text(label), Text(number), *map(Text, bars), *cells]

    def _cell(self, cell: Cell) -> Text:
        if cell is None:
            return Text()
        if not isinstance(cell, Tally):
            seconds = cell.quantile(self._timed)
            return Text(format_seconds(seconds, bottom=cell.bottom, top=cell.top))
        count = cell.count(self.counted)
        if not count:
            return Text(format_count(count), _FAINT)
        return Text(format_count(count), _ALARM if cell.alarms else "")

    def foot(self) -> list[Text]:
        status = self._view.status
        note = [self._line(self._view.notes, _FAINT)] if self._view.notes else []
        return [
            *self._facts("Inbox", inbox(self._view.latest, status.inbox if status else None)),
            *self._facts("Outbox", outbox(status.outbox if status else None)),
            *self._facts("Also", others(self._view.latest, self.counted)),
            *note,
        ]

    def _facts(self, title: str, facts: Sequence[Fact]) -> list[Text]:
        shown = [Text(f"{title:<6}", _BOLD), *map(self._fact, facts)]
        return [self._joined(shown, "  ")] if facts else []

    def _fact(self, fact: Fact) -> Text:
        number = format_seconds(fact.value) if fact.is_duration else format_count(fact.value)
        style = _ALARM if fact.is_bad and fact.value else ""
        return Text(f"{self._printable(fact.text)} {number}", style)

    def _line(self, parts: Sequence[str], style: str = "") -> Text:
        between = " | " if self._is_ascii else " · "
        line = self._joined([Text(self._printable(part)) for part in parts], between)
        line.stylize(style)
        return line

    def _joined(self, parts: Sequence[Text], between: str) -> Text:
        """Return as many of *parts* as fit, and at least the beginning of the first."""
        line = Text(no_wrap=True, overflow=self._overflow)
        for part in parts:
            if line and line.cell_len + len(between) + part.cell_len > self._columns:
                break
            line.append(between if line else "").append_text(part)
        return line

    def _printable(self, text: str) -> str:
        return printable(text, is_ascii=self._is_ascii)
