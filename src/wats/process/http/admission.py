"""The admission of connections to a process: deadlines, number, and bytes held.

Under pressure a client loses its connection by how long the process has been waiting for it. A
client that sends and reads promptly, as Meta does, is last. A request that is being served is never
cut off.
"""

import ctypes
import heapq
import resource
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Protocol

MAX_CONNECTIONS: Final = 10_000

_RESERVED_DESCRIPTORS: Final = 128
"""For the database, Graph, the log and the listener: at most a quarter of all descriptors."""

_EVICTED_SHARE: Final = 64
"""One in this many connections is evicted at a time: finding the victims inspects them all."""

_TRIM_SECONDS: Final = 1.0
"""How often free memory is returned to the kernel: some time after a burst, since handlers keep
bodies while they run, and the store keeps pages until the next checkpoint. Takes up to 0.05 ms if
there is little to return, 8 ms after 64 MiB of bodies."""

_M_ARENA_MAX: Final = -8
"""The number of the parameter in glibc's `malloc.h`."""


class State(Enum):
    """The current state of a connection."""

    IDLE = "no byte of a next request has arrived"
    ARRIVING = "waiting for the rest of a request"
    SERVING = "waiting for the application"
    UNSENT = "waiting for the client to read responses"
    CLOSING = "the last response is sent; further bytes are discarded"


# For code that runs for every request: Python 3.11 looks up a member of an Enum in a slow way.
IDLE, ARRIVING, SERVING, UNSENT, CLOSING = State


def connection_limit() -> int:
    """Return the number of connections that the file descriptors of this process permit."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    reserved = min(_RESERVED_DESCRIPTORS, descriptors // 4)
    return min(MAX_CONNECTIONS, descriptors - reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The bounds of connections.

    Attributes:
        request_seconds: The time limit for the arrival of a request.
        keep_alive_seconds: How long a connection may be idle between requests.
        unsent_seconds: How long a client may take to read responses that are waiting for it.
        linger_seconds: How long a client may take to close after its last response.
        max_connections: The limit of connections of a process.
        max_held_bytes: The limit of bytes of unfinished requests and unread responses of all
            connections of a process together.
    """

    request_seconds: float = 30.0
    keep_alive_seconds: float = 620.0
    unsent_seconds: float = 30.0
    linger_seconds: float = 2.0
    max_connections: int = field(default_factory=connection_limit)
    max_held_bytes: int = 64 * 1024 * 1024


class Admitted(Protocol):
    """A connection in the view of admission."""

    state: State
    deadline: float
    """The time limit of its client; infinite while the application is working."""
    since: float
    """The time since which the connection waits for its client."""
    held: int
    """The number of bytes that it holds."""

    def expire(self) -> None:
        """End the connection: its deadline has passed."""

    def abort(self) -> None:
        """End the connection now, without sending the rest, and leave the set of connections."""

    def shed(self) -> None:
        """Give up the request that is arriving, or the connection, to free the bytes it holds."""


class Admission:
    """Bounds *connections*, all of one process.

    Args:
        connections: The open ones; they add and remove themselves.
        limits: The bounds.
    """

    def __init__(self, connections: Collection[Admitted], limits: ConnectionLimits) -> None:
        self._connections = connections
        self._limits = limits
        self._held = 0
        self._trim_at = 0.0
        self._return_memory = _trimmer()

    def charge(self, size: int) -> None:
        """Count *size* further bytes that a connection holds, and shed some if there are too many.

        The connections that have been waiting longest for their clients are shed first.
        """
        self._held += size
        if size <= 0 or self._held <= self._limits.max_held_bytes:
            return
        enough = self._limits.max_held_bytes * 3 // 4
        for connection in sorted((each for each in self._waiting() if each.held), key=_since):
            connection.shed()
            if self._held <= enough:
                return

    def is_crowded(self) -> bool:
        """Return whether further requests must leave the remaining connections to webhooks.

        Three quarters of the connections wait for the application, and none of them can be evicted.
        """
        most = self._limits.max_connections * 3 // 4
        if len(self._connections) <= most:
            return False
        return sum(each.deadline == inf for each in self._connections) > most

    def can_add(self, count: int) -> bool:
        """Return whether a connection can be added to *count*, perhaps by evicting another."""
        return count < self._limits.max_connections or any(
            each.deadline < inf for each in self._connections
        )

    def make_room(self, count: int) -> None:
        """Evict connections if *count*, including the one just accepted, exceeds the limit."""
        if count > self._limits.max_connections:
            self.evict()

    def evict(self) -> bool:
        """Close the idle connections, then those that have waited longest for their clients.

        A few at a time.

        Returns:
            Whether there was one.
        """
        few = max(1, self._limits.max_connections // _EVICTED_SHARE)
        victims = heapq.nsmallest(few, self._waiting(), key=_patience)
        for connection in victims:
            connection.abort()
        return bool(victims)

    def sweep(self, now: float) -> None:
        """End the connections whose deadline has passed."""
        for connection in [each for each in self._connections if each.deadline < now]:
            connection.expire()
        if now >= self._trim_at:
            self._return_memory(0)
            self._trim_at = now + _TRIM_SECONDS

    def _waiting(self) -> list[Admitted]:
        return [each for each in self._connections if each.deadline < inf]


def _since(connection: Admitted) -> float:
    return connection.since


def _patience(connection: Admitted) -> tuple[bool, float]:
    return connection.state not in (State.IDLE, State.CLOSING), connection.since


def _trimmer() -> Callable[[int], object]:
    """Return the function of the C library that returns free memory, and let it return all.

    glibc returns the free end of its main heap only. The threads of the store, which start later,
    would have heaps of their own: after 64 bodies of 3 MB, 8 MB stayed in that of the writer, and
    the peak of the next burst was 250 instead of 195 MiB. So all threads share one heap. Lower
    thresholds of `mallopt` return memory too, but cost 2 to 6 ms for each body of 3 MB.

    Other C libraries are not changed.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return int
    library.mallopt(_M_ARENA_MAX, 1)
    trim: Callable[[int], object] = library.malloc_trim
    return trim
