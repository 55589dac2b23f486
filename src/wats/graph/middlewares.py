"""Middlewares of requests to Graph: no header of a trace, and each write is written once."""

from typing import Final

import aiohttp

_TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")


async def _without_trace(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep traces from Meta: an instrumented process adds its own to the headers of any request."""
    for name in _TRACE_HEADERS:
        request.headers.popall(name, None)
    return await handler(request)


async def _write_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep traces from Meta, and aiohttp from retrying a request after a connection broke.

    It does that for PUT and DELETE, which HTTP calls idempotent, when a kept connection turns out
    to be closed. We promise one write, and one record in telemetry for each. It tries again only on
    subclasses of the error that is raised here.
    """
    try:
        return await _without_trace(request, handler)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientConnectionError(type(exc).__name__) from exc


READING: Final = (_without_trace,)
WRITING: Final = (_write_once,)
