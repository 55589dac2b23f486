"""The responses of a running service to requests for its telemetry. No I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec

from wats.inspection.answer import Answer
from wats.inspection.existence_probe import Trial
from wats.inspection.samples import Samples
from wats.inspection.secret_search import Needle
from wats.privacy import Secret
from wats.web.ops.status import ServiceStatus

HIDDEN: Final = ("/metrics", "/status", "/debug/diagnostics")

UNREADABLE: Final = (ArithmeticError, RecursionError, ValueError, msgspec.MsgspecError)
"""The exceptions of reading a response that is not from wats, however hostile it is."""


@dataclass(frozen=True)
class Evidence:
    """All requests and responses.

    Attributes:
        is_encrypted: Whether the service was reached by TLS.
        address: The IP address of the service.
        token: The token that was sent.
        sought: The private values of the config of the service, as far as they are known here.
        token_file_mode: The permissions of the file of the token, if it was read from one.
        without_token: The responses to clients without a token.
        wrong_token: The responses to clients with a wrong token.
        answers: The responses of the telemetry routes to the token, by path; empty if it was not
            sent.
        api: The response of a route of the API to the token.
        document: The API document for unauthenticated clients.
        asked_at: The time of the responses.
    """

    is_encrypted: bool
    address: str
    token: Secret
    sought: Sequence[Needle]
    token_file_mode: int | None
    without_token: Sequence[Trial]
    wrong_token: Sequence[Trial]
    answers: Mapping[str, Answer]
    api: Answer | None
    document: Answer
    asked_at: datetime

    @property
    def is_open(self) -> bool:
        """Whether the token opened every surface."""
        return all(path in self.answers and self.answers[path].status == 200 for path in HIDDEN)

    @cached_property
    def samples(self) -> Samples:
        """The samples of `/metrics`.

        Raises:
            UNREADABLE: The response is not an exposition.
        """
        return Samples.parse(self.answers["/metrics"].body.decode(errors="replace"))

    @cached_property
    def status(self) -> ServiceStatus:
        """The content of `/status`.

        Raises:
            UNREADABLE: The response has another form.
        """
        return msgspec.json.decode(self.answers["/status"].body, type=ServiceStatus)

    def document_of(self, path: str) -> Any:
        """Return the JSON of the response of *path*.

        Raises:
            UNREADABLE: The response is not JSON.
        """
        return json.loads(self.answers[path].body)
