"""The verdicts for the tests of replicas, and the network that they slow down."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HANDLERS = """
import asyncio
import os

FILE = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(step, update):
    os.write(FILE, f"{step} {os.getpgrp()} {update.raw['id']}\\n".encode())


async def careful(update):
    note("started", update)
    await asyncio.sleep(0.002)
    note("completed", update)
"""


class Step(NamedTuple):
    """One line of the journal: of a handler, or of the test after it killed a replica."""

    step: str
    replica: int
    wa_message_id: str

    @property
    def place(self) -> tuple[int, int]:
        """The customer, and the number of the message among the messages of that customer."""
        _, customer, number = self.wa_message_id.split(".")
        return int(customer), int(number)


@dataclass
class Journal:
    """Records the calls of all handlers and the kills, in their order."""

    path: Path
    settled: list[tuple[int, set[str]]] = field(default_factory=list)

    def steps(self) -> list[Step]:
        lines = self.path.read_text().splitlines()
        return [Step(step, int(pid), id_) for step, pid, id_ in map(str.split, lines)]

    def note_kill(self, replica: int) -> None:
        with self.path.open("a") as file:
            file.write(f"killed {replica} -\n")

    def note_settled(self, wa_message_ids: set[str]) -> None:
        """Note messages that were settled before the next step."""
        self.settled.append((len(self.steps()), wa_message_ids))

    def completed(self) -> set[str]:
        return {each.wa_message_id for each in self.steps() if each.step == "completed"}

    def check(self) -> int:
        """Check the order in each conversation; return how many calls were repeated.

        At any time one update of a conversation is handled, in order of arrival. The last call is
        repeated only if its replica was killed, and if it was not settled before.
        """
        last: dict[int, Step] = {}
        running: set[int] = set()
        killed: set[int] = set()
        repeated = 0
        for each in self.steps():
            if each.step == "killed":
                killed.add(each.replica)
                continue
            customer, number = each.place
            if each.step == "completed":
                running.remove(customer)
                continue
            before = last.get(customer)
            assert customer not in running or (before and before.replica in killed)
            if before is not None and number == before.place[1]:
                assert before.replica in killed
                repeated += 1
            else:
                assert number == (0 if before is None else before.place[1] + 1)
            last[customer] = each
            running.add(customer)
        for position, settled in self.settled:
            later = {step.wa_message_id for step in self.steps()[position:] if step[0] == "started"}
            assert not later & settled
        return repeated


class SlowNetwork:
    """Passes bytes on between replicas and the server, each after some time."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(self._socket)
        for pair in ((reader, ours), (theirs, writer)):
            task = asyncio.create_task(self._pass_on(*pair))
            self._tasks.add(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_seconds)
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
