"""Responses of Graph as values: a success, or the error that its status and body mean. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from wats.errors import GraphError, GraphOutcomeUnknown
from wats.graph.errors import classify, decode_json


@dataclass(frozen=True, slots=True)
class GraphResponse:
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


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with its body; the body is empty if it was cut off or too long."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_success(status: int) -> bool:
    """Return whether *status* is 2xx."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def failure_of(method: str, reply: Reply) -> GraphError:
    """Return the error of *reply*, which is not 2xx, to a request by *method*."""
    refused = classify(reply.status, reply.headers, reply.body)
    if method == "GET" or refused.is_certain:
        return refused
    unknown = GraphOutcomeUnknown(refused.diagnostics, retry_after=refused.retry_after)
    unknown.cause = refused.cause
    return unknown


def payload_of(reply: Reply) -> Any:
    """Return the decoded JSON of *reply*, or its text if it is not JSON."""
    payload = decode_json(reply.body)
    if payload is not None or "json" in reply.headers.get("content-type", "").lower():
        return payload
    text = reply.body.decode(errors="replace")
    return None if text in {"", "null"} else text
