"""Which connections a process keeps: their deadlines, their number, and the bytes they hold.

Under pressure a client loses its connection by how long the process has been waiting for it. A
client that sends and reads promptly, as Meta does, is last. A request that is being served is never
cut off.
"""

import ctypes
import heapq
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Protocol

MAX_CONNECTIONS: Final = 10_000

_RESERVED_DESCRIPTORS: Final = 128
"""For the database, Graph, the log and the listener: at most a quarter of all descriptors."""

_EVICTED_SHARE: Final = 64
"""One in so many connections is evicted at a time: finding the victims looks at all of them."""

_TRIM_SECONDS: Final = 1.0
"""How often free memory is returned to the kernel: some time after a burst, since handlers keep
bodies while they run, and the store keeps pages until the next checkpoint. Takes up to 0.05 ms if
there is little to return, 8 ms after 64 MiB of bodies."""

_M_ARENA_MAX: Final = -8
"""The number of the parameter in glibc's `malloc.h`."""


class State(Enum):
    """What happens on a connection now."""

    IDLE = "no byte of a next request has arrived"
    ARRIVING = "waiting for the rest of a request"
    SERVING = "waiting for the application"
    UNSENT = "waiting for the client to read responses"
    CLOSING = "the last response is sent; further bytes are discarded"


def connection_limit() -> int:
    """Return how many connections the descriptors of this process allow."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    reserved = min(_RESERVED_DESCRIPTORS, descriptors // 4)
    return min(MAX_CONNECTIONS, descriptors - reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of connections.

    Attributes:
        request_seconds: How long a request may take to arrive as a whole.
        keep_alive_seconds: How long a connection may be idle between requests.
        unsent_seconds: How long a client may take to read responses that are waiting for it.
        linger_seconds: How long a client may take to close after its last response.
        max_connections: How many connections a process has at most.
        max_held_bytes: How many bytes of unfinished requests and unread responses all connections
            of a process may hold together.
    """

    request_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    unsent_seconds: float = 30.0
    linger_seconds: float = 2.0
    max_connections: int = field(default_factory=connection_limit)
    max_held_bytes: int = 64 * 1024 * 1024


class Admitted(Protocol):
    """A connection as admission sees it."""

    state: State
    deadline: float
    """When the client must have done its part; infinite while the application is at work."""
    since: float
    """Since when the connection waits for its client."""
    held: int
    """How many bytes it holds."""

    def expire(self) -> None:
        """End the connection: its deadline has passed."""

    def abort(self) -> None:
        """End the connection now, whatever is unsent, and leave the set of connections."""

    def shed(self) -> None:
        """Give up the request that is arriving, or the connection, to free the bytes it holds."""


class Admission:
    """Bounds *connections*, all of one process.

    Args:
        connections: The open ones; they add and remove themselves.
        limits: The bounds.
    """

    def __init__(self, connections: Iterable[Admitted], limits: Limits) -> None:
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
        for connection in sorted(self._waiting(lambda each: each.held > 0), key=_since):
            connection.shed()
            if self._held <= enough:
                return

    def can_add(self, count: int) -> bool:
        """Return whether a connection can be added to *count*, perhaps in the place of another."""
        return count < self._limits.max_connections or any(
            each.deadline < inf for each in self._connections
        )

    def make_room(self, count: int) -> None:
        """Evict connections if *count*, with the one that was just accepted, are too many."""
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

    def _waiting(self, wanted: Callable[[Admitted], bool] = lambda _: True) -> list[Admitted]:
        return [each for each in self._connections if each.deadline < inf and wanted(each)]


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

    Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return int
    library.mallopt(_M_ARENA_MAX, 1)
    trim: Callable[[int], object] = library.malloc_trim
    return trim
