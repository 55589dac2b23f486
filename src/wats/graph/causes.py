"""The classes of causes of Graph failures, from aiohttp's exceptions. No I/O."""

import errno
import ssl
from typing import Final

import aiohttp

from wats.errors import GraphCause, GraphError, GraphOutcomeUnknown, GraphUnreachable

_CAUSES: Final = (
    (aiohttp.ClientProxyConnectionError, GraphCause.PROXY),
    (aiohttp.ClientHttpProxyError, GraphCause.PROXY),
    (aiohttp.ClientConnectorDNSError, GraphCause.DNS),
    (ssl.SSLError, GraphCause.TLS),
    (aiohttp.ClientConnectorCertificateError, GraphCause.TLS),
    (aiohttp.ServerFingerprintMismatch, GraphCause.TLS),
    (TimeoutError, GraphCause.TIMEOUT),
)
"""The causes of exceptions, of which the first that matches counts."""

_ERRNO_CAUSES: Final = {
    errno.ECONNREFUSED: GraphCause.REFUSED,
    errno.ECONNRESET: GraphCause.RESET,
    errno.ECONNABORTED: GraphCause.RESET,
    errno.EPIPE: GraphCause.RESET,
    errno.ETIMEDOUT: GraphCause.TIMEOUT,
}


NEVER_WRITTEN: Final = (
    aiohttp.ClientConnectorError,  # DNS, a refused connection, TLS
    aiohttp.ConnectionTimeoutError,  # no connection in time, waiting for a free one included
    aiohttp.ClientHttpProxyError,  # the proxy refused the tunnel
    aiohttp.InvalidURL,
)
"""The exceptions that precede the first byte of a request."""


def caused(error: GraphError, exc: BaseException) -> GraphError:
    """Record the class of the cause of *exc* on *error*; its text holds the URL."""
    error.cause = _cause_of(exc)
    return error


def without_response(method: str, exc: BaseException, *, was_written: bool) -> GraphError:
    """Return the error of a request by *method* that *exc* ended: a read can be repeated."""
    is_unknown = was_written and method != "GET"
    return caused(GraphOutcomeUnknown() if is_unknown else GraphUnreachable(), exc)


def _cause_of(exc: BaseException) -> GraphCause:
    if exc.__cause__ is not None and type(exc) is aiohttp.ClientConnectionError:
        exc = exc.__cause__  # see `_write_once` in middlewares.py
    for kind, cause in _CAUSES:
        if isinstance(exc, kind):
            return cause
    if isinstance(exc, OSError) and exc.errno in _ERRNO_CAUSES:
        return _ERRNO_CAUSES[exc.errno]
    is_lost = isinstance(exc, aiohttp.ClientConnectionError) and not isinstance(
        exc, aiohttp.ClientConnectorError
    )
    return GraphCause.RESET if is_lost else GraphCause.OTHER
