import logging
from collections.abc import Mapping

from wats.cli.logs import LibraryLog


def record(name: str, text: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord(name, logging.ERROR, "file.py", 1, text, (), info)


def test_a_library_is_named_and_its_words_are_not() -> None:
    lines: list[Mapping[str, object]] = []

    LibraryLog(lines.append).emit(record("uvicorn.error", "secret", ValueError("secret")))

    assert [{**line, "at": ""} for line in lines] == [
        {
            "event": "wats.library.log",
            "library": "uvicorn",
            "level": "error",
            "errorName": "ValueError",
            "suppressed": 0,
            "at": "",
        }
    ]


def test_a_logger_of_an_unknown_name_is_another() -> None:
    lines: list[Mapping[str, object]] = []

    LibraryLog(lines.append).emit(record("15550001111.x", "secret"))

    assert lines[0]["library"] == "other"


def test_what_repeats_is_counted_and_told_once_a_minute() -> None:
    lines: list[Mapping[str, object]] = []
    now = 0.0
    log = LibraryLog(lines.append, lambda: now)

    for _ in range(1000):
        log.emit(record("uvicorn.error", "Invalid HTTP request received."))
    log.emit(record("asyncio", "something else"))
    now = 61.0
    log.emit(record("uvicorn.error", "Invalid HTTP request received."))

    assert [(line["library"], line["suppressed"]) for line in lines] == [
        ("uvicorn", 0),
        ("asyncio", 0),
        ("uvicorn", 999),
    ]
