"""Requests to Graph whose bodies, or those of their responses, pass in pieces."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from wats.errors import GraphOutcomeUnknown
from wats.graph.causes import NEVER_WRITTEN, without_response
from wats.graph.middlewares import READING, WRITING
from wats.graph.responses import is_success
from wats.graph.transfers import TransferLimits, UploadBody, UploadProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedRequest:
    """A request to Graph: its method, address and headers, and its body, if it has one."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: UploadBody | None


async def relayed(
    session: aiohttp.ClientSession,
    request: RelayedRequest,
    *,
    limits: TransferLimits,
    **options: Any,
) -> aiohttp.ClientResponse:
    """Send *request* once, as its body arrives, and return the response, of which the head is read.

    Args:
        session: The connections.
        request: The request.
        limits: The time limits of the body and of the head of the response.
        options: Options of aiohttp: the time limits and the proxy.

    Raises:
        GraphUnreachable: Graph did not get the whole request, or the request was a read.
        GraphOutcomeUnknown: The request was written, and there was no response to it.
        Exception: Any exception of `body.chunks`.
    """
    body = request.body
    clock = asyncio.timeout(limits.response_seconds if body is None else None)
    progress = UploadProgress(body, clock, limits) if body is not None else None
    try:
        async with clock:
            response = await session.request(
                request.method,
                request.url,
                data=progress.pieces() if progress is not None else None,
                headers=_headers_of(request),
                skip_auto_headers=("content-type",),
                allow_redirects=False,
                raise_for_status=False,
                middlewares=READING if request.method == "GET" else WRITING,
                **options,
            )
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise _failure(request, progress, exc) from None
    if is_success(response.status) and progress is not None and not progress.is_whole:
        response.close()
        raise GraphOutcomeUnknown  # not from Graph, which waits for the whole body
    return response


def _headers_of(request: RelayedRequest) -> dict[str, str]:
    # The bytes of the response are searched for the access token, so they must not be compressed.
    headers = {**request.headers, "accept-encoding": "identity"}
    if request.body is not None:
        headers["content-type"] = request.body.content_type
        headers["content-length"] = str(request.body.length)
    return headers


def _failure(request: RelayedRequest, progress: UploadProgress | None, exc: Exception) -> Exception:
    if progress is not None and progress.failure is not None:
        return progress.failure
    was_written = not isinstance(exc, NEVER_WRITTEN) if progress is None else progress.is_whole
    return without_response(request.method, exc, was_written=was_written)
