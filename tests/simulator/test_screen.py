import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wats.simulator.screen import Screen

PIPE_BYTES = 65_536


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)


def read_all(reader: int) -> str:
    with os.fdopen(reader, "rb") as stream:
        return stream.read().decode()


def test_lines_are_written_in_order_until_the_end() -> None:
    reader, writer = os.pipe()
    screen = Screen(writer)

    for number in range(100):
        screen.write(f"{number} é")
    screen.close()

    os.close(writer)
    assert read_all(reader) == "".join(f"{number} é\n" for number in range(100))


def test_a_slow_reader_delays_nothing_and_learns_how_much_it_missed() -> None:
    reader, writer = os.pipe()
    screen = Screen(writer, capacity=2)
    for _ in range(5):
        screen.write("x" * PIPE_BYTES)

    received = os.read(reader, PIPE_BYTES)
    while len(received) < 3 * (PIPE_BYTES + 1):  # one in the pipe, two in the queue
        received += os.read(reader, PIPE_BYTES)
        if received.count(b"\n") == 2:
            break
    screen.write("later")
    screen.close()

    os.close(writer)
    rest = read_all(reader)
    assert "lines were dropped)\nlater\n" in rest


def test_a_reader_that_is_gone_is_harmless() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    screen = Screen(writer, capacity=2)

    for _ in range(9):
        screen.write("Hi")
    screen.close()

    os.close(writer)


def test_a_process_ends_although_its_reader_has_stopped() -> None:
    code = (
        "from wats.simulator.screen import screen_on_stdout\n"
        "with screen_on_stdout() as screen:\n"
        "    for _ in range(9): screen.write('x' * 65_536)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    with process:
        assert process.wait(30) == 0
