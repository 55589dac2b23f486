"""The only client of Graph: calls, and transfers of bodies that are not held in memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import aiohttp
from yarl import URL

from wats.errors import (
    GraphError,
    GraphUnreachable,
    MediaUnusable,
)
from wats.graph.calls import GraphCalls
from wats.graph.errors import classify
from wats.graph.redaction import response_substitution
from wats.graph.relay import RelayedRequest, relayed
from wats.graph.responses import (
    GraphResponse,
    RawResponse,
    failure_of,
    is_success,
    read_body,
)
from wats.graph.transfers import (
    MAX_DOWNLOAD_BYTES,
    Download,
    UploadBody,
    may_have_token,
)
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome


class GraphClient(GraphCalls):
    """Calls Graph, and transfers files and the bodies of relayed requests in pieces."""

    async def upload(
        self, family: EndpointFamily, segments: Sequence[str], body: UploadBody
    ) -> GraphResponse:
        """Send *body* in one POST as it is read, and return Graph's response.

        An upload that ends before its last piece was not carried out: Graph knows the length.

        Raises:
            Overloaded: Too many transfers are running; nothing was sent.
            GraphRefused: Graph responded and did not carry the request out.
            GraphUnreachable: Graph did not get the whole body, so the upload can be repeated.
            GraphOutcomeUnknown: The body was written, and no response proves a refusal.
            Exception: Any exception of `body.chunks`; Graph did not get the whole body.
        """
        url, session = self._url(segments, None), self._session.get()
        request = RelayedRequest(method="POST", url=url, headers=self._headers, body=body)
        with self._transfers.taken():
            return await self._recorded(family, "POST", self._uploaded(session, request))

    async def download(self, family: EndpointFamily, url: str, size: int | None = None) -> Download:
        """Begin to read the file at *url*, which a response of Graph named.

        Args:
            family: The endpoint family of the call, for telemetry.
            url: The address of the file.
            size: The size of the file, if it is known, for a response that does not state it.

        Raises:
            Overloaded: Too many transfers are running.
            GraphRefused: The host of the file responded without the file.
            GraphUnreachable: There was no response.
            MediaUnusable: The token must not be sent to *url*, or the file is too large.
        """
        if not may_have_token(url, self._root):
            raise MediaUnusable("Meta named a host that the access token is not sent to.")
        request = RelayedRequest(
            method="GET", url=URL(url, encoded=True), headers=self._headers, body=None
        )
        # The bytes of the file as they are: a compression would hide its size.
        sending = partial(self._relayed, self._session.get(), request, auto_decompress=False)
        return await self._transfer(family, sending, partial(self._length_of, size=size))

    async def relay(
        self,
        family: EndpointFamily,
        method: str,
        segments: Sequence[str],
        *,
        query: Sequence[tuple[str, str]] = (),
        body: UploadBody | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        own_root: str = "",
    ) -> Download:
        """Pass a request on as its body arrives, and begin to read the response.

        The access token, its proof and the address of Graph do not occur in the response: the
        address, with its version, becomes *own_root*, which ends with a slash.

        Raises:
            Overloaded: Too many transfers are running; nothing was sent.
            MalformedRequest: The path cannot be sent; nothing was sent.
            GraphRefused: Graph responded and did not carry the request out.
            GraphUnreachable: Graph did not get the whole request, so it can be sent again.
            GraphOutcomeUnknown: The request was written, and no response proves a refusal.
            Exception: Any exception of `body.chunks`; Graph did not get the whole request.
        """
        url, session = self._url(segments, query), self._session.get()
        request = RelayedRequest(
            method=method, url=url, headers={**self._headers, **headers}, body=body
        )
        sending = partial(self._relayed, session, request)
        opened = await self._transfer(family, sending, partial(self._accepted, method))
        opened.rewrite = response_substitution(self._hidden, self._roots, own_root)
        return opened

    async def _transfer(
        self,
        family: EndpointFamily,
        send: Callable[[], Awaitable[aiohttp.ClientResponse]],
        length_of: Callable[[aiohttp.ClientResponse], Awaitable[int | None]],
    ) -> Download:
        """Begin to read a response, which holds a slot and is recorded when it has been read."""
        self._transfers.take()
        began = time.perf_counter()
        status = 0

        def ended(error: GraphError | None) -> None:
            outcome = Outcome.SUCCESS if error is None else Outcome.ERROR
            # A file that was cut off had no useful status.
            shown = 0 if error is not None and is_success(status) else status
            self._telemetry.operation(family, shown, outcome, time.perf_counter() - began)
            self._transfers.release()

        try:
            response = await send()
            status = response.status
            return Download(response, ended, await length_of(response))
        except GraphError as error:
            ended(error)
            raise
        except Exception:
            self._transfers.release()  # the client gave its own request up
            raise
        except BaseException:
            ended(GraphUnreachable())
            raise

    async def _uploaded(
        self, session: aiohttp.ClientSession, request: RelayedRequest
    ) -> RawResponse:
        response = await self._relayed(session, request)
        try:
            return await self._short(response)
        finally:
            if is_success(response.status):
                response.release()
            else:
                response.close()  # the body of the request may not be written to its end

    async def _relayed(
        self, session: aiohttp.ClientSession, request: RelayedRequest, **options: Any
    ) -> aiohttp.ClientResponse:
        options |= {"timeout": self._transfer_timeout, "proxy": self._proxy}
        return await relayed(session, request, limits=self._limits, **options)

    async def _accepted(self, method: str, response: aiohttp.ClientResponse) -> None:
        """Raise the error of *response*, and release it, unless Graph carried the request out."""
        if is_success(response.status):
            return
        try:
            reply = await self._short(response)
        finally:
            response.close()  # also if the body of the request has not been written to its end
        failure = failure_of(method, reply)
        if failure.is_reported:
            self._telemetry.error(ErrorCategory(failure.diagnostics.category))
        raise failure

    async def _length_of(self, response: aiohttp.ClientResponse, size: int | None) -> int | None:
        """Return the length of the file in *response*, which is released if it has no file."""
        if response.status != HTTPStatus.OK:
            async with response:
                reply = await self._short(response)
            raise classify(reply.status, reply.headers, reply.body)
        length = response.content_length if response.content_length is not None else size
        is_encoded = response.headers.get("content-encoding", "identity").lower() != "identity"
        if is_encoded or (length or 0) > MAX_DOWNLOAD_BYTES:
            response.close()
            raise MediaUnusable("The file is too large, or was not sent as it is.")
        return length

    async def _short(self, response: aiohttp.ClientResponse) -> RawResponse:
        """Read a short body, for which the time limit of a transfer is too long."""
        body = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.response_seconds):
                body = await read_body(response, self._max_answer_bytes)
        return self._redacted(RawResponse(response.status, response.headers, body))
