"""Bodies of Graph's responses that are passed on while they arrive."""

from collections.abc import AsyncIterator

from wats.errors import GraphError
from wats.graph.transfers import Download
from wats.outbound.failures import report_graph_failure
from wats.web.exchange import ResponseBroken
from wats.web.parts import Parts


class RelayedBody:
    """The body of a response of Graph, passed on as it arrives; its failure is reported.

    Its first piece is read before the response begins, so that an earlier failure is an error
    response; after that, the connection of the client is closed.

    Args:
        parts: The parts of the application.
        opened: The response.
        chunks: The body; by default that of *opened*, unchanged.
    """

    def __init__(
        self, parts: Parts, opened: Download, chunks: AsyncIterator[bytes] | None = None
    ) -> None:
        self._parts = parts
        self._opened = opened
        self._rest = opened.chunks() if chunks is None else chunks
        self._first = b""

    async def begin(self) -> None:
        """Read the first piece.

        Raises:
            GraphError: There is none.
        """
        try:
            self._first = await anext(self._rest, b"")
        except BaseException as error:
            self._opened.close()
            if isinstance(error, GraphError):
                self._report(error)
            raise

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body.

        Raises:
            ResponseBroken: It ended before its end.
        """
        first, self._first = self._first, b""
        try:
            if first:
                yield first
            async for chunk in self._rest:
                yield chunk
        except GraphError as error:
            self._report(error)
            raise ResponseBroken from None

    def close(self) -> None:
        """Release the response. May be called twice."""
        self._opened.close()

    def _report(self, error: GraphError) -> None:
        report_graph_failure(error, telemetry=self._parts.telemetry, log=self._parts.log)
