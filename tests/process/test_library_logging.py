import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from wats.process.library_logging import LibraryLog

pytestmark = pytest.mark.long


def record(name: str, text: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord(name, logging.ERROR, "file.py", 1, text, (), info)


def test_a_library_is_named_and_its_message_is_not_logged() -> None:
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


def test_a_logger_with_an_unknown_name_has_the_label_other() -> None:
    lines: list[Mapping[str, object]] = []

    LibraryLog(lines.append).emit(record("15550001111.x", "secret"))

    assert lines[0]["library"] == "other"


def test_repeated_errors_are_counted_and_logged_once_a_minute() -> None:
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


def test_an_unknown_level_is_named_by_the_next_lower_one() -> None:
    lines: list[Mapping[str, object]] = []
    unknown = logging.LogRecord("uvicorn", 45, "file.py", 1, "secret", (), None)
    unknown.levelname = "15550001111"

    LibraryLog(lines.append).emit(unknown)

    assert lines[0]["level"] == "error"


def test_a_log_that_cannot_be_written_fails_no_caller() -> None:
    def refuse(_: object) -> None:
        raise BrokenPipeError

    LibraryLog(refuse).emit(record("uvicorn.error", "secret"))


UNCAUGHT = {
    "warning": ("import warnings; warnings.warn('secret')", "warning", None),
    "thread": (
        "import threading\n"
        "def fail(): raise KeyError('secret')\n"
        "threading.Thread(target=fail, name='secret').start()",
        "error",
        "KeyError",
    ),
    "finalizer": (
        "class Dying:\n    def __del__(self): raise KeyError('secret')\nDying()",
        "error",
        "KeyError",
    ),
    "end": ("hide_tracebacks(); raise KeyError('secret')", "error", "KeyError"),
    "false": (
        "class Empty(KeyError):\n    def __bool__(self): raise KeyError('secret')\n"
        "hide_tracebacks(); raise Empty('secret')",
        "error",
        "Error",
    ),
}


@pytest.mark.parametrize(("code", "level", "name"), UNCAUGHT.values(), ids=UNCAUGHT)
def test_an_uncaught_exception_is_logged_without_its_text(
    code: str, level: str, name: str | None
) -> None:
    capture = (
        "from wats.process.library_logging import capture_library_logs, hide_tracebacks\n"
        "capture_library_logs()"
    )

    done = subprocess.run(
        [sys.executable, "-c", f"{capture}\n{code}"], capture_output=True, text=True, check=False
    )

    line = json.loads(done.stderr)
    assert (line["library"], line["level"], line["errorName"]) == ("python", level, name)
    assert "secret" not in done.stderr


WARNED = {
    "coroutine": ("async def reply(): ...\n\n\ndef handle():\n    reply()\n", "RuntimeWarning", 5),
    "call": (
        "import warnings\n\n\ndef handle():\n    warnings.warn('secret', UserWarning)\n",
        "UserWarning",
        5,
    ),
    "own-class": (
        "import warnings\n\n\nclass Jane(Warning): ...\n\n\ndef handle():\n"
        "    warnings.warn('secret', Jane)\n",
        "Error",
        8,
    ),
}


@pytest.mark.parametrize(("code", "name", "line"), WARNED.values(), ids=WARNED)
def test_a_warning_about_a_handler_has_its_class_and_position(
    code: str, name: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(code)
    run = (
        "from wats.process.library_logging import capture_library_logs\n"
        "capture_library_logs()\nimport shop\nshop.handle()\nshop.handle()"
    )

    done = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    found = json.loads(done.stderr)
    assert (found["event"], found["errorName"]) == ("wats.handler.warning", name)
    assert (found["file"], found["line"]) == ("shop.py", line)
    assert "secret" not in done.stderr


LAZY = (
    "import sys\n"
    "class Lazy:\n"
    "    def __getattr__(self, name): raise ImportError('secret')\n"
    "sys.modules['lazy'] = Lazy()\n"
)


@pytest.mark.parametrize("imported", ["", LAZY], ids=["usual", "lazy"])
def test_a_warning_about_a_file_that_is_no_module_has_no_position(imported: str) -> None:
    run = (
        f"{imported}import warnings\n"
        "from wats.process.library_logging import capture_library_logs\n"
        "capture_library_logs()\n"
        "warnings.warn_explicit('secret', UserWarning, '/secret/jane.py', 1)"
    )

    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)

    assert json.loads(done.stderr)["event"] == "wats.library.log"
    assert "jane" not in done.stderr


def test_a_start_that_fails_has_its_traceback() -> None:
    code = (
        "from wats.process.library_logging import capture_library_logs\n"
        "capture_library_logs()\n"
        "import nowhere\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "No module named 'nowhere'" in done.stderr


OWN_LOGGING = {
    "configured-before": (
        "logging.basicConfig(format='%(name)s said %(message)s')\n{capture}\n",
        "shop said hello\n",
    ),
    "configured-after": (
        "{capture}\nlogging.basicConfig(format='%(name)s said %(message)s')\n",
        "shop said hello\n",
    ),
    "configured-after-without-options": (
        "{capture}\nlogging.basicConfig()\n",
        "ERROR:shop:hello\n",
    ),
    "a-handler-of-its-own": (
        "shop = logging.getLogger('shop')\nshop.addHandler(logging.StreamHandler())\n{capture}\n",
        "hello\n",
    ),
}


@pytest.mark.parametrize(("code", "expected"), OWN_LOGGING.values(), ids=OWN_LOGGING)
def test_logging_that_a_handler_configures_is_left_alone(code: str, expected: str) -> None:
    capture = "from wats.process.library_logging import *; capture_library_logs()"
    code = f"import logging\n{code.format(capture=capture)}logging.getLogger('shop').error('hello')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr == expected


@pytest.mark.parametrize(
    "logger", ["aiohttp.client", "asyncio", "uvicorn.error", "concurrent.futures"]
)
@pytest.mark.parametrize("configured", ["", "logging.basicConfig(level=0, force=True)\n"])
def test_a_library_never_logs_its_text_however_the_root_is_configured(
    logger: str, configured: str
) -> None:
    code = (
        "import logging\n"
        "from wats.process.library_logging import capture_library_logs\n"
        f"capture_library_logs()\n{configured}"
        f"logging.getLogger({logger!r}).error('secret')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert json.loads(done.stderr)["event"] == "wats.library.log"
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "logs",
    [
        "logging.getLogger('shop').error('secret')",
        "logging.error('secret')",
        "logging.info('secret')\nlogging.getLogger('shop').error('secret')",
    ],
)
def test_a_logger_that_nothing_configured_logs_no_text(logs: str) -> None:
    code = (
        "import logging\n"
        "from wats.process.library_logging import capture_library_logs\n"
        f"capture_library_logs()\n{logs}"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert json.loads(done.stderr)["library"] == "other"
    assert "secret" not in done.stderr
