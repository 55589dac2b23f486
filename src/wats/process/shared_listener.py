"""One listening socket for several processes, with balanced numbers of connections.

The kernel wakes all processes that wait for a connection, and the quickest accepts every pending
one. As connections stay open, it keeps them: of 64 to four processes, one had 18 to 64. Here a
process that has more than another one lets the others go first, and for a moment only, since they
may be busy: then each had 13 to 18.

With SO_REUSEPORT the kernel would distribute connections, but permanently: the connections of a
process that hangs or dies wait for that process, though others are idle.
"""

import asyncio
import mmap
import socket
from collections.abc import Callable, Collection
from typing import Final

from wats.process.http.admission import Admission

SLACK: Final = 4
"""How many connections more than another one a process may have before it lets others go first.

A smaller number costs more pauses than it gains: with short connections, half of the throughput.
"""

MOMENT_SECONDS: Final = 0.002
"""The pause for the others. The loop's timers count milliseconds; one would often be none."""

RETRY_SECONDS: Final = 0.1
"""The pause when no connection can be accepted and none can be closed: all are in use."""

_COUNT_BYTES: Final = 8
_NOBODY: Final = 2**62


class Share:
    """The number of connections of one process, and those of the others."""

    def __init__(self, counts: "memoryview[int]", process: int) -> None:
        self._counts = counts
        self._process = process

    def publish(self, connections: int) -> None:
        """Publish the number of connections of this process."""
        self._counts[self._process] = connections

    def leave(self) -> None:
        """Publish that this process accepts no connections, so that no other waits for it."""
        self._counts[self._process] = _NOBODY

    def least(self) -> int:
        """Return the number of connections of the process with the fewest."""
        return min(self._counts)


def shares_of(processes: int) -> tuple[Share, ...]:
    """Return the shares of *processes*, in memory that is made before they are forked."""
    counts = memoryview(mmap.mmap(-1, processes * _COUNT_BYTES)).cast("q")
    shares = tuple(Share(counts, process) for process in range(processes))
    for share in shares:
        share.leave()
    return shares


class SharedListener:
    """Accepts connections from *listener* as one of several processes.

    Args:
        listener: A listening socket, made before the processes were forked.
        share: The share of this process.
        connections: Its present connections.
        make_protocol: Makes the protocol of a new connection, which adds itself to *connections*.
        admission: Decides whether there is room, and makes room.
        moment_seconds: The pause for the others.
        retry_seconds: The pause while no connection can be accepted.
    """

    def __init__(
        self,
        listener: socket.socket,
        share: Share,
        *,
        connections: Collection[object],
        make_protocol: Callable[[], asyncio.Protocol],
        admission: Admission,
        moment_seconds: float = MOMENT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._listener = listener
        self._share = share
        self._connections = connections
        self._make_protocol = make_protocol
        self._admission = admission
        self._moment_seconds = moment_seconds
        self._retry_seconds = retry_seconds
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._pausing: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self.publish()
        self._listen()

    async def close(self) -> None:
        """Stop accepting. Accepted connections are in the set by then; the socket stays open."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._share.leave()
        await asyncio.gather(*self._arriving)

    def publish(self) -> None:
        """Publish the number of connections. Call it periodically."""
        self._share.publish(self._count())

    def _count(self) -> int:
        return len(self._connections) + len(self._arriving)

    def _listen(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._listener.fileno(), self._take)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        # The socket stays readable, so a loop that watched it would spin.
        self._loop.remove_reader(self._listener.fileno())
        self._pausing = self._loop.call_later(seconds, then)

    def _take(self) -> None:
        room = self._share.least() + SLACK - self._count()
        if room > 0:
            self._accept(room)
        else:
            self.publish()
            self._pause(self._moment_seconds, self._take_one)

    def _take_one(self) -> None:
        """Accept one connection if none of the others has: they are busy."""
        self._listen()
        self._accept(1)

    def _accept(self, most: int) -> None:
        try:
            for _ in range(most):
                if not self._admission.can_add(self._count()):
                    self._pause(self._retry_seconds, self._listen)
                    break
                connection, _address = self._listener.accept()
                connection.setblocking(False)
                task = self._loop.create_task(self._connect(connection))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)
                self._admission.make_room(self._count())
        except (BlockingIOError, ConnectionAbortedError):
            pass  # another process was quicker, or the client changed its mind
        except OSError:
            # Descriptors that are released now can be used in the next turn of the loop.
            is_soon = self._admission.evict()
            self._pause(self._moment_seconds if is_soon else self._retry_seconds, self._listen)
        self.publish()

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # the client is gone already
            connection.close()
