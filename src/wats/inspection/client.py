"""A client of a running service: one host, no proxy, no redirect. Blocking."""

import http.client
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import click

from wats.inspection.answer import Answer
from wats.privacy import Secret

TIMEOUT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 2 * 1_048_576
"""Several times the largest response of a service."""

MAX_EXCHANGE_BYTES: Final = 262_144
"""The part of a response to an unauthenticated request that is kept: there are some hundred."""


class NoAnswer(click.ClickException):
    """The service cannot be queried; the message holds the reason, in words of ours."""


class Remote:
    """The service at *url*, the part before the paths of its routes.

    Args:
        url: Its URL.
        timeout_seconds: The time limit of connecting and, after that, of a complete exchange.
        total_seconds: The time limit of all exchanges together, from now on; none by default.
        max_answer_bytes: The size above which a response is refused.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        total_seconds: float = math.inf,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.is_encrypted = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self.is_encrypted else 80)
        self._path = parts.path
        self._timeout_seconds = timeout_seconds
        self._until = time.monotonic() + total_seconds
        self._max_answer_bytes = max_answer_bytes
        self._tls = ssl.create_default_context() if self.is_encrypted else None

    def get(self, path: str, token: Secret | None = None) -> Answer:
        """Ask for *path*.

        Raises:
            NoAnswer: There was no response, or it is too large.
        """
        return self._request("GET", path, token)

    def post(self, path: str, token: Secret, body: bytes) -> Answer:
        """Post the JSON *body* to *path*.

        Raises:
            NoAnswer: There was no response, or it is too large. The request may have been served.
        """
        return self._request("POST", path, token, body)

    def _request(
        self, method: str, path: str, token: Secret | None, body: bytes | None = None
    ) -> Answer:
        headers = {"accept-encoding": "identity", "connection": "close", **_bearer(token)}
        with self._explained(), self._connected() as connection:
            connection.request(method, self._path + path, body, headers)
            response = connection.getresponse()
            content = response.read(self._max_answer_bytes + 1)
        if len(content) > self._max_answer_bytes:
            msg = f"The response of {self.url} is too large to be from wats."
            raise NoAnswer(msg)
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, content)

    def exchange(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """Return the bytes of the response to a request with *headers* and no others but `Host`.

        Bytes beyond `MAX_EXCHANGE_BYTES` are not read.

        Raises:
            NoAnswer: There was none.
        """
        sent = {"host": self._authority(), "connection": "close", **headers}
        lines = [f"{method} {self._path}{path} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items())]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        with self._explained(), self._connected() as connection:
            connection.sock.sendall(request)
            answer = bytearray()
            while len(answer) < MAX_EXCHANGE_BYTES and (part := connection.sock.recv(65536)):
                answer += part
        return bytes(answer[:MAX_EXCHANGE_BYTES])

    def address(self) -> str:
        """Return the IP address of the service.

        Raises:
            NoAnswer: The service is not reachable.
        """
        with self._explained(), self._connected() as connection:
            address: str = connection.sock.getpeername()[0]
        return address

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        timeout = min(self._timeout_seconds, self._until - time.monotonic())
        if timeout <= 0:
            raise TimeoutError
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=timeout)
            if self._tls is None
            else http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._tls
            )
        )
        try:
            connection.connect()
            with _ending_after(timeout, connection.sock):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
            msg = f"{self.url} does not respond: {reason}."
            raise NoAnswer(msg) from None

    def _authority(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"


@contextmanager
def _ending_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Shut *connection* down after *seconds*, as each of its reads has that time for itself.

    Raises:
        TimeoutError: It was shut down.
    """
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True
        with suppress(OSError):  # closed by the peer
            # Not the method of a TLS socket, which would change it during a read.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if is_over:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
    if is_over:
        raise TimeoutError


def _bearer(token: Secret | None) -> Mapping[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token.reveal()}"}


_REASONS: Final[Mapping[type[Exception], str]] = {
    ssl.SSLCertVerificationError: "its TLS certificate is not trusted",
    ssl.SSLError: "the TLS handshake failed",
    socket.gaierror: "the host name cannot be resolved",
    TimeoutError: "the request timed out",
    ConnectionRefusedError: "the connection was refused",
    ConnectionError: "the connection was closed",
    http.client.HTTPException: "the response is not valid HTTP",
    OSError: "the host cannot be reached",
}
