"""Requests to routes of a running service, with typed responses. Blocking."""

from typing import Final, TypeVar

import msgspec

from wats.inspection.answer import Answer
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.formatting import printable
from wats.privacy import Secret
from wats.web.problems import ErrorEnvelope

B = TypeVar("B")

_UNREADABLE: Final = (ValueError, RecursionError, msgspec.MsgspecError)


class Routes:
    """Routes of the service of *remote* below one path, which a subclass finds.

    Every method raises `NoAnswer` if the service does not do what was asked.
    """

    _path: str

    def __init__(self, remote: Remote, token: Secret) -> None:
        self._remote = remote
        self._token = token

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
        if error.code == "not_found":
            msg = f"{self._remote.url} responds with 404: not a service token, or not wats."
            raise NoAnswer(msg)
        raise NoAnswer(f"{printable(error.message)} [{printable(error.code)}]")
