"""What a running service answered when its telemetry was looked at from outside. No I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec

from wats.inspection.existence_probe import Trial
from wats.inspection.samples import Samples
from wats.inspection.secret_search import Needle
from wats.privacy import Secret
from wats.web.ops.status import Status

HIDDEN: Final = ("/metrics", "/status", "/debug/diagnostics")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, with the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Evidence:
    """Everything that was asked and answered.

    Attributes:
        is_encrypted: Whether the service was reached by TLS.
        address: The IP address at which it was.
        token: What was presented.
        sought: What the config of the service keeps to itself, as far as it is known here.
        token_file_mode: The permissions of the file that the token is in, if it is in one.
        without_token: What strangers without a token got.
        wrong_token: What strangers with a wrong token got.
        answers: What the telemetry routes answered to the token, by path; empty if it was not sent.
        api: What a route of the API answered to the token.
        document: The API document, as strangers get it.
        asked_at: When the answers came.
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
        """Whether the token opened everything."""
        return all(path in self.answers and self.answers[path].status == 200 for path in HIDDEN)

    @cached_property
    def samples(self) -> Samples:
        """What `/metrics` said.

        Raises:
            NotAnExposition: It said something else.
        """
        return Samples.parse(self.answers["/metrics"].body.decode(errors="replace"))

    @cached_property
    def status(self) -> Status:
        """What `/status` said.

        Raises:
            msgspec.MsgspecError: It said something else.
        """
        return msgspec.json.decode(self.answers["/status"].body, type=Status)

    def document_of(self, path: str) -> Any:
        """Return the JSON that *path* answered.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.answers[path].body)
