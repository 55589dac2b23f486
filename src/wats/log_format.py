"""The form of log events on stderr: which are written, and as which text. No I/O.

JSON is for programs. The console format is for a person at a terminal:

    14:03:27 ERROR wats.handler.failed handler=orders:on_update kind=message errorName=NameError
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec


class LogFormat(StrEnum):
    """The format of log events."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The severity of log events, from the lowest to the highest."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_RANKS: Final = {level: rank for rank, level in enumerate(LogLevel)}

LEVELS: Final[Mapping[str, LogLevel]] = {
    "wats.admin.action": LogLevel.INFO,
    "wats.application.unstarted": LogLevel.ERROR,
    "wats.database.exposed": LogLevel.WARNING,
    "wats.dispatch.interrupted": LogLevel.ERROR,
    "wats.echo.reply": LogLevel.INFO,
    "wats.graph.failure": LogLevel.WARNING,
    "wats.handler.failed": LogLevel.ERROR,
    "wats.handler.warning": LogLevel.WARNING,
    "wats.inbox.dead": LogLevel.ERROR,
    "wats.inbox.orphaned": LogLevel.WARNING,
    "wats.log.dropped": LogLevel.WARNING,
    "wats.loop.blocked": LogLevel.ERROR,
    "wats.loop.resumed": LogLevel.WARNING,
    "wats.message.unrecorded": LogLevel.ERROR,
    "wats.number.unknown": LogLevel.WARNING,
    "wats.outbox.dead": LogLevel.ERROR,
    "wats.outbox.orphaned": LogLevel.WARNING,
    "wats.request.error": LogLevel.ERROR,
    "wats.shutdown.forced": LogLevel.ERROR,
    "wats.signal.ignored": LogLevel.INFO,
    "wats.store.error": LogLevel.ERROR,
    "wats.subscriber.paused": LogLevel.ERROR,
    "wats.subscriber.recovered": LogLevel.INFO,
    "wats.subscriber.unreachable": LogLevel.WARNING,
    "wats.telemetry.error": LogLevel.ERROR,
    "wats.telemetry.sink.error": LogLevel.WARNING,
    "wats.upkeep.error": LogLevel.ERROR,
    "wats.webhook.rejected": LogLevel.WARNING,
    "wats.webhook.update": LogLevel.INFO,
    "wats.worker.replaced": LogLevel.ERROR,
}
"""The level of each event, except `wats.library.log`, which has its own."""


class LogForm:
    """The format and the lowest level of the log of this process. Inherited by its forks."""

    def __init__(self) -> None:
        self._format = LogFormat.JSON
        self._lowest = LogLevel.INFO

    def use(self, log_format: LogFormat, lowest: LogLevel) -> None:
        """Write events of *lowest* and above in *log_format* from now on."""
        self._format, self._lowest = log_format, lowest

    def line(self, event: Mapping[str, object]) -> str | None:
        """Return *event* as one line; `None` if its level is too low."""
        level = level_of(event)
        if _RANKS[level] < _RANKS[self._lowest]:
            return None
        if self._format is LogFormat.CONSOLE:
            return console_line(event, level)
        return msgspec.json.encode(event).decode() + "\n"


LOG_FORM: Final = LogForm()
"""The form of the log of this process."""


def level_of(event: Mapping[str, object]) -> LogLevel:
    """Return the level of *event*."""
    if event.get("event") == "wats.library.log":
        return LogLevel.WARNING if event.get("level") == LogLevel.WARNING else LogLevel.ERROR
    return LEVELS.get(str(event.get("event")), LogLevel.ERROR)


def console_line(event: Mapping[str, object], level: LogLevel) -> str:
    """Return *event* for a person, with the local time, and without values that say nothing."""
    facts = [
        f"{key}={_shown(value)}"
        for key, value in event.items()
        if key not in {"event", "at", "level"} and value is not None and (key, value) != _NO_REPEATS
    ]
    head = [_time_of(event), level.upper(), _shown(event.get("event"))]
    return " ".join(filter(None, [*head, *facts])) + "\n"


_NO_REPEATS: Final = ("suppressed", 0)


def _time_of(event: Mapping[str, object]) -> str:
    try:
        return datetime.fromisoformat(str(event.get("at"))).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return ""


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
