"""Middlewares of aiohttp: no trace leaves for Meta, and a request is written at most once."""

from typing import Final

import aiohttp

_TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")


async def _without_trace(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    _remove_trace(request)
    return await handler(request)


async def _write_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep traces from Meta, and aiohttp from retrying a request after a connection broke.

    It does that for PUT and DELETE, which HTTP calls idempotent, when a kept connection turns out
    to be closed. We promise one write, and one record in telemetry for each. It tries again only on
    subclasses of the error that is raised here.
    """
    _remove_trace(request)
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientConnectionError(type(exc).__name__) from exc


def _remove_trace(request: aiohttp.ClientRequest) -> None:
    """Keep traces from Meta: an instrumented process adds its own to the headers of any request."""
    for name in _TRACE_HEADERS:
        request.headers.popall(name, None)


READING: Final = (_without_trace,)
"""For requests that may be repeated."""

WRITING: Final = (_write_once,)
"""For requests that may not be repeated."""
