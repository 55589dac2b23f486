"""The ceiling of the load generator: every read is one request, with a constant response."""

import asyncio
from typing import cast

import uvloop
from typing_extensions import override

from bench.announce import listen

_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"status":"ok"}'


class Constant(asyncio.Protocol):
    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._write = cast(asyncio.WriteTransport, transport).write

    @override
    def data_received(self, data: bytes) -> None:
        self._write(_ANSWER)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Constant, sock=listen())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
