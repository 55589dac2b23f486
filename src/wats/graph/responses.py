"""Responses of Graph as values: a success, or the error that its status and body mean."""

from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from wats.errors import GraphError, GraphOutcomeUnknown
from wats.graph.errors import classify, decode_json
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome


class OperationRecorder(Protocol):
    """The recorder of `Telemetry` that the client needs."""

    def operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float, /
    ) -> None:
        """Record a call that left the process; *status* is Graph's, 0 without a response."""

    def error(self, category: ErrorCategory, /) -> None:
        """Record that Graph refused, and why."""


class GraphResponse(msgspec.Struct, frozen=True):
    """A response of 2xx: Graph carried the request out.

    Attributes:
        status: The HTTP status.
        payload: The decoded JSON, or the text if the response is not JSON and does not claim to be.
            `None` when the body is empty, cut off, too long or broken: the request was carried out,
            only its result is unknown.
        body: The received bytes; empty when the body is incomplete.
    """

    status: int
    payload: Any
    body: bytes


class RawResponse(msgspec.Struct, frozen=True):
    """A response with its body; the body is empty if it was cut off or too long."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body; empty if it is cut off or too long, since the status suffices."""
    body = bytearray()
    try:
        while not response.content.at_eof():
            body += await response.content.readany()
            if len(body) > max_bytes:
                response.close()
                return b""
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return bytes(body)


def is_success(status: int) -> bool:
    """Return whether *status* is 2xx."""
    return 200 <= status < 300  # members of `HTTPStatus` are slow properties in Python 3.11


def failure_of(method: str, reply: RawResponse) -> GraphError:
    """Return the error of *reply*, which is not 2xx, to a request by *method*."""
    refused = classify(reply.status, reply.headers, reply.body)
    if method == "GET" or refused.is_certain:
        return refused
    unknown = GraphOutcomeUnknown(refused.diagnostics, retry_after=refused.retry_after)
    unknown.cause = refused.cause
    return unknown


def payload_of(reply: RawResponse) -> Any:
    """Return the decoded JSON of *reply*, or its text if it is not JSON."""
    payload = decode_json(reply.body)
    if payload is not None or "json" in reply.headers.get("content-type", "").lower():
        return payload
    text = reply.body.decode(errors="replace")
    return None if text in {"", "null"} else text
