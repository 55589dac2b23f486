"""Requests to routes of a running service, with typed responses. Blocking."""

from collections.abc import Mapping
from itertools import islice
from typing import Final, TypeVar

import msgspec

from wats.errors import RouteNotFound
from wats.inspection.answer import Answer
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.formatting import printable
from wats.inspection.verdicts import MAX_NAMED
from wats.privacy import Secret
from wats.web.problems import ErrorEnvelope, Problem

B = TypeVar("B")

_UNREADABLE: Final = (ValueError, RecursionError, msgspec.MsgspecError)
_HIDDEN: Final = RouteNotFound
"""Its code is also that of an unknown message, which has another text."""
_KNOWN_ROUTE: Final = "/updates/ack"


class NotFound(NoAnswer):
    """The service responds, and does not have what was asked for."""


class _Document(msgspec.Struct, frozen=True):
    """The part of an OpenAPI document that lists its paths."""

    paths: Mapping[str, msgspec.Raw]


class Routes:
    """Routes of the service of *remote*, at *path* below its API prefix.

    The prefix is found in the OpenAPI document, which every client can read. Every method raises
    `NoAnswer` if the service does not do what was asked.
    """

    def __init__(self, remote: Remote, token: Secret, path: str) -> None:
        self._remote = remote
        self._token = token
        document = self._read(remote.get("/openapi.json"), _Document)
        found = [each for each in document.paths if each.endswith(_KNOWN_ROUTE)]
        if not found:
            raise NoAnswer(f"{remote.url} is an earlier version of wats, without these routes.")
        self._path = f"{found[0].removesuffix(_KNOWN_ROUTE)}{path}"

    def _get(self, path: str, body_type: type[B]) -> B:
        return self._read(self._remote.get(self._path + path, self._token), body_type)

    def _post(self, path: str, body: object, body_type: type[B]) -> B:
        encoded = msgspec.json.encode(body)
        return self._read(self._remote.post(self._path + path, self._token, encoded), body_type)

    def _read(self, answer: Answer, body_type: type[B]) -> B:
        try:
            if answer.status == 200:
                return msgspec.json.decode(answer.body, type=body_type)
            error = msgspec.json.decode(answer.body, type=ErrorEnvelope).error
        except _UNREADABLE:
            msg = f"{self._remote.url} sends a response that is not from wats."
            raise NoAnswer(msg) from None
        if error.code == _HIDDEN.code and error.message == _HIDDEN.text:
            msg = f"{self._remote.url} responds with 404: not a service token, or not wats."
            raise NoAnswer(msg)
        kind = NotFound if answer.status == 404 else NoAnswer
        raise kind(f"{_reason_of(error)} [{printable(error.code)}]")


def _reason_of(error: Problem) -> str:
    """Return the message of *error*, and the mistakes that it lists."""
    details = error.details or ()
    mistakes = (f"{printable(each.path)} {printable(each.reason)}." for each in details)
    return " ".join([printable(error.message), *islice(mistakes, MAX_NAMED)])
