import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from fcntl import F_SETPIPE_SZ, fcntl
from typing import Any

import pytest

from wats.log import MAX_LINES, LineWriter

PIPE_BYTES = 4096
LINE = "x" * 99 + "\n"
ENOUGH = MAX_LINES + PIPE_BYTES // len(LINE) + 50
"""More lines than buffer and pipe can take."""


class Pipe:
    """A pipe in the position of stderr, and its reader."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
        self.stderr = os.fdopen(writer, "w")

    def read(self) -> list[str]:
        """Read everything until the writer is closed."""
        with os.fdopen(self.reader) as reader:
            return reader.read().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.stderr.close()


def drained(writer: LineWriter, pipe: Pipe) -> list[str]:
    """Read the pipe while *writer* writes the rest, and return all lines."""
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(pipe.read()))
    reading.start()
    writer.drain(20)
    pipe.stderr.close()
    reading.join(20)
    return lines


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = LineWriter(lambda: pipe.stderr)

    for number in range(500):
        writer.write(f"{number}\n")

    assert drained(writer, pipe) == [str(number) for number in range(500)]


def test_a_pipe_that_is_not_read_does_not_block_and_its_dropped_lines_are_counted(
    pipe: Pipe,
) -> None:
    writer = LineWriter(lambda: pipe.stderr)

    for _ in range(ENOUGH):
        writer.write(LINE)

    lines = drained(writer, pipe)
    dropped: dict[str, Any] = json.loads(lines.pop())
    assert dropped.pop("at").endswith("Z")
    assert dropped == {"event": "wats.log.dropped", "count": ENOUGH - len(lines)}
    assert MAX_LINES <= len(lines) < ENOUGH


def test_the_end_of_the_process_waits_for_lines_within_bounds(pipe: Pipe) -> None:
    writer = LineWriter(lambda: pipe.stderr)
    for _ in range(ENOUGH):
        writer.write(LINE)

    writer.drain(0.01)

    assert len(drained(writer, pipe)) > MAX_LINES


def test_a_pipe_that_was_made_non_blocking_loses_no_line(pipe: Pipe) -> None:
    os.set_blocking(pipe.stderr.fileno(), False)
    writer = LineWriter(lambda: pipe.stderr)

    for _ in range(MAX_LINES):
        writer.write(LINE)

    assert drained(writer, pipe) == [LINE.strip()] * MAX_LINES


def test_a_broken_pipe_loses_its_lines_alone(pipe: Pipe) -> None:
    os.close(pipe.reader)
    second = io.StringIO()
    streams = iter([pipe.stderr])
    writer = LineWriter(lambda: next(streams, second))

    writer.write("lost\n")
    writer.write("kept\n")
    writer.drain()

    kept, dropped = second.getvalue().splitlines()
    assert kept == "kept"
    assert json.loads(dropped)["count"] == 1


def test_a_process_without_a_stream_writes_nothing() -> None:
    writer = LineWriter(lambda: None)

    writer.write("nowhere\n")
    writer.drain()


FORKING = """
import os
from wats.log import write_json_line

write_json_line({"process": "parent"})
if os.fork() == 0:
    write_json_line({"process": "child"})
else:
    os.wait()
"""


def test_a_forked_process_writes_lines_of_its_own_only() -> None:
    # The parent has a thread, which the child does not use: Python 3.12 warns of that in a script.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert sorted(ended.stderr.splitlines()) == ['{"process":"child"}', '{"process":"parent"}']


def test_a_line_at_the_end_of_the_interpreter_does_not_keep_the_process() -> None:
    code = """
from wats.log import write_json_line

class Late:
    def __init__(self):
        self.write, self.me = write_json_line, self

    def __del__(self):
        self.write({"event": "wats.library.log"})

late = Late()
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)

    assert done.stderr == b""
