"""A fake Graph of minimal cost: a constant response, except for the id of the message."""

import asyncio
from itertools import count
from typing import cast

import uvloop
from typing_extensions import override

from bench.announce import listen

_BODY = (
    b'{"messaging_product":"whatsapp","contacts":[{"input":"15550001111","wa_id":"15550001111"}],'
    b'"messages":[{"id":"wamid.HBgLMTU1NTAwMDExMTEVAgARGBI%024d"}]}'
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(_BODY % 0)
) + _BODY
_LENGTH = b"content-length: "
_numbers = count()


class Graph(asyncio.Protocol):
    """One connection; requests may arrive in any pieces, one after the other."""

    def __init__(self) -> None:
        self._rest = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._write = cast(asyncio.WriteTransport, transport).write

    @override
    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        head = data.find(b"\r\n\r\n")
        if head >= 0:
            start = data.lower().index(_LENGTH, 0, head) + len(_LENGTH)
            end = head + 4 + int(data[start : data.index(b"\r", start)])
            if len(data) >= end:
                data = data[end:]
                self._write(_ANSWER % next(_numbers))
        self._rest = data


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Graph, sock=listen())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
