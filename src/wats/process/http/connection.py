"""A connection without its requests: states, deadlines, flow control, memory and end."""

import asyncio
from math import inf
from typing import Final, cast

from typing_extensions import override

from wats.process.http.admission import ARRIVING, CLOSING, IDLE, SERVING, UNSENT, State
from wats.process.http.site import Site

READ_AHEAD_BYTES: Final = 64 * 1024
"""The limit of bytes of further requests that are held while one is served."""

UNSENT_BYTES: Final = 16 * 1024
"""The limit of unread bytes of responses, above which no further response is made."""

DISCARDED_BYTES: Final = 4 * 1024 * 1024
"""The limit of bytes read after the last request, so that the client can read the response."""


class Connection(asyncio.Protocol):
    """One connection.

    In every state that waits for the client it has a deadline. A subclass serves its requests, and
    calls `refresh` after every change.

    Attributes:
        state: The current state.
        since: The time since which it waits for the client.
        deadline: The time limit of the client.
        held: The number of bytes that it holds, for the memory budget of the process.
        is_write_paused: Whether too many bytes are waiting for the client to read them.
        is_last: Whether the request that is being served is the last one that is read.
    """

    # With more than 30 attributes in a dictionary, a call of a method is slow (CPython 3.11).
    __slots__ = (
        "_began",
        "_discarded",
        "_ends_with_client",
        "_has_eof",
        "_idle_seconds",
        "_input",
        "_is_reading",
        "_is_stream",
        "_loop",
        "_place",
        "_site",
        "client",
        "deadline",
        "held",
        "is_last",
        "is_write_paused",
        "server",
        "since",
        "state",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._input = b""
        self._place = 0  # where the unread bytes of the input begin
        self._is_reading = True
        self._has_eof = False
        self._discarded = 0
        self._began: float | None = None  # when the first byte of the request arrived
        self._is_stream = False
        self._ends_with_client = False
        self._idle_seconds = site.limits.request_seconds
        self.server: tuple[str, int] | None = None
        self.client: tuple[str, int] | None = None
        self.is_write_paused = False
        self.is_last = False
        self.state = SERVING
        self.since = 0.0
        self.deadline = inf
        self.held = 0

    def _current_state(self) -> State:
        """Return the state by the party that the connection waits for."""
        raise NotImplementedError

    def _held_bytes(self) -> int:
        """Return how many bytes of the request are held, apart from the unread input."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Process the received bytes as far as possible."""
        raise NotImplementedError

    def _release(self) -> None:
        """Give up the request, as the client is gone or has its last response."""
        raise NotImplementedError

    # Called by asyncio

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._site.server.connections.add(self)
        self.refresh()

    @override
    def data_received(self, data: bytes) -> None:
        if self.state is CLOSING:
            self._discard(len(data))
            return
        if self._input:
            data = self._input[self._place :] + data
        self._input, self._place = data, 0
        self._advance()

    @override
    def eof_received(self) -> bool:
        # A client that has sent its requests may close its side and wait for the responses.
        self._has_eof = True
        if self._ends_with_client:
            self.close()
        self.refresh()
        return self.state is not CLOSING

    @override
    def pause_writing(self) -> None:
        self.is_write_paused = True
        self.refresh()

    @override
    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._advance()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._site.server.connections.discard(self)

    # Called by the server

    def shutdown(self) -> None:
        """End the connection once the request that is being served has its response."""
        self.is_last = True
        self.refresh()

    def expire(self) -> None:
        """End the connection: its deadline has passed."""
        is_unsent = self.transport.get_write_buffer_size() > 0
        patience = self.since + self._site.limits.unsent_seconds
        if self.state is CLOSING and is_unsent and self.deadline < patience:
            self.deadline = patience  # the last response is on its way to a slow client
        elif self.state is CLOSING or is_unsent:
            self.abort()
        else:
            self.close()

    # Deadlines, flow control and memory

    def refresh(self) -> None:
        """Adapt deadline, flow control and accounts to what happens on the connection now."""
        if self.state is CLOSING:
            return
        size = len(self._input)
        if size == self._place:
            self._input, self._place, size = b"", 0, 0
        state = self._current_state()
        if (self._has_eof or self.is_last) and (state is IDLE or state is ARRIVING):
            # Nothing more can arrive, or is not waited for: its client could delay without limit.
            self.close()
            return
        if state is not self.state:
            self._enter(state)
        if size > READ_AHEAD_BYTES or not self._is_reading:
            # libuv passes on up to 32 segments before the application can read one.
            waits = (state is IDLE or state is ARRIVING) and not self._is_stream
            self._set_reading(waits or size - self._place <= READ_AHEAD_BYTES)
        held = size + self._held_bytes()
        if held != self.held or self.is_write_paused:
            self._account(held)

    def _enter(self, state: State) -> None:
        self.state = state
        if state is SERVING:
            self.deadline = inf
            return
        limits = self._site.limits
        self.since = self._loop.time()
        if state is IDLE:
            self.deadline = self.since + self._idle_seconds
        elif state is UNSENT:
            self.deadline = self.since + limits.unsent_seconds
        else:
            # A request has one deadline, however often the application waits for its body, unless
            # the application limits the whole body, as that of a file.
            if self._began is None or self._is_stream:
                self._began = self.since
            self.since = self._began
            self.deadline = self._began + limits.request_seconds

    def begin_stream(self) -> None:
        """Give each wait for bytes of the body a deadline of its own."""
        self._is_stream = True

    def watch_hang_up(self) -> None:
        """End the connection when the client closes its side, instead of after the response."""
        self._ends_with_client = True
        if self._has_eof:
            self.close()

    def _wait_anew(self) -> None:
        """Give the next request a deadline of its own."""
        self._ends_with_client = False
        self._began = None
        self._is_stream = False
        self._idle_seconds = self._site.limits.keep_alive_seconds
        self.state = SERVING  # until now

    def _set_reading(self, is_reading: bool) -> None:
        if is_reading is self._is_reading or self._has_eof:
            return
        self._is_reading = is_reading
        if is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _account(self, held: int) -> None:
        if self.is_write_paused:
            held += self.transport.get_write_buffer_size()
        change, self.held = held - self.held, held
        if change:
            self._site.admission.charge(change)

    # Ends

    def _linger(self) -> None:
        """End the connection after its last response.

        Bytes that the client still sends are read and dropped for a moment: otherwise the kernel
        would reset the connection, and the client could lose the response.
        """
        if self._has_eof:
            self.close()
            return
        self._end()
        self._set_reading(True)
        self.transport.write_eof()

    def close(self) -> None:
        """End the connection when everything written has been sent."""
        self._end()
        self.transport.close()

    def abort(self) -> None:
        """End the connection now, without sending the rest."""
        self._end()
        self._site.server.connections.discard(self)
        self.transport.abort()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARDED_BYTES:
            self.abort()

    def _end(self) -> None:
        """Take no further part in the exchange, and release everything that is held."""
        if self.state is CLOSING:
            return
        self.state = CLOSING
        self.since = self._loop.time()
        self.deadline = self.since + self._site.limits.linger_seconds
        self._release()
        self._input, self._place = b"", 0
        change, self.held = -self.held, 0
        self._site.admission.charge(change)


def _address(address: object) -> tuple[str, int] | None:
    return (address[0], address[1]) if isinstance(address, tuple) else None
