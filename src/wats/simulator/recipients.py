"""The outcome of a message, by the last digits of its recipient. No I/O.

The table is data: the server follows it, and docs/simulator.md shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from wats.graph.errors import RULES


class ResponseForm(StrEnum):
    """The form of the response to a request that is not refused."""

    USUAL = "usual"
    SLOW = "slow"
    CUT_AFTER_ACCEPTING = "cut_after_accepting"
    CUT = "cut"
    BROKEN_JSON = "broken_json"
    AFTER_THE_STATUS = "after_the_status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A response that is not 2xx.

    Attributes:
        status: The HTTP status.
        code: Meta's code; `None` sends a page of HTML.
        subcode: Meta's subcode.
        type: Meta's type.
        retry_after: The header, if there is one.
    """

    status: int
    code: int | None
    subcode: int | None = None
    type: str = "OAuthException"
    retry_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """The outcome of a message.

    Attributes:
        summary: A description, for the documentation.
        refusal: The response if the message is not accepted.
        answer: The form of the response if it is.
        statuses: The statuses that follow, in the order in which they arrive.
        failure: The code of the status `failed`.
    """

    summary: str
    refusal: Refusal | None = None
    answer: ResponseForm = ResponseForm.USUAL
    statuses: Sequence[str] = ("sent", "delivered", "read")
    failure: int | None = None


USUAL: Final = Behavior(summary="Accepted; `sent`, `delivered` and `read` follow.")


def _refused(summary: str, refusal: Refusal) -> Behavior:
    return Behavior(summary=summary, refusal=refusal, statuses=())


def _failed(code: int) -> Behavior:
    summary = f"Accepted; then status `failed` with {code}."
    return Behavior(summary=summary, statuses=("failed",), failure=code)


BY_SUFFIX: Final[Mapping[str, Behavior]] = MappingProxyType(
    {
        "0001": _failed(131026),
        "0002": _failed(131047),
        "0003": _refused(
            "429 with code 130429 and `Retry-After: 7`: rate limit of the number.",
            Refusal(status=429, code=130429, retry_after="7"),
        ),
        "0004": _refused(
            "400 with code 131056: rate limit of one recipient.",
            Refusal(status=400, code=131056),
        ),
        "0005": _refused(
            "401 with code 190: the access token has expired.",
            Refusal(status=401, code=190, subcode=463),
        ),
        "0006": _refused(
            "400 with code 100: a parameter is invalid.", Refusal(status=400, code=100)
        ),
        "0007": _refused(
            "500 with code 1: internal error of Meta without a reason, so the outcome is unknown.",
            Refusal(status=500, code=1),
        ),
        "0008": Behavior(
            summary="Accepted; the response is delayed by `slow_answer_seconds`; usual statuses.",
            answer=ResponseForm.SLOW,
        ),
        "0009": Behavior(
            summary="Accepted, then the connection is closed without a response; usual statuses.",
            answer=ResponseForm.CUT_AFTER_ACCEPTING,
        ),
        "0010": Behavior(
            summary="Not accepted; the connection is closed without a response.",
            answer=ResponseForm.CUT,
            statuses=(),
        ),
        "0011": _refused(
            "502 with an HTML page, as from a proxy in front of Graph: the outcome is unknown.",
            Refusal(status=502, code=None),
        ),
        "0012": Behavior(
            summary="Accepted; the response is 200 with invalid JSON; usual statuses.",
            answer=ResponseForm.BROKEN_JSON,
        ),
        "0013": _refused(
            "429 with type `OAuthException`, a code not in the table, and `Retry-After: 3`.",
            Refusal(status=429, code=80008, retry_after="3"),
        ),
        "0014": _failed(131049),
        "0015": Behavior(
            summary="Accepted; `sent`, then `read` without `delivered`.",
            statuses=("sent", "read"),
        ),
        "0016": Behavior(
            summary="Accepted; `delivered` arrives before `sent`.",
            statuses=("delivered", "sent", "read"),
        ),
        "0017": Behavior(
            summary="Accepted; the webhook with `sent` is delivered before the response.",
            answer=ResponseForm.AFTER_THE_STATUS,
        ),
        "0018": _refused(
            "504 with an HTML page, as from a proxy whose request to Graph timed out.",
            Refusal(status=504, code=None),
        ),
    }
)
"""The outcome for recipients whose number ends with these digits."""

REFUSED_PREFIX: Final = "1999"
FAILED_PREFIX: Final = "1998"
"""No number begins with this prefix. The seven digits after it are the code of an error."""

_CODE_DIGITS: Final = 7

HTTP_STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        0: 401,
        1: 500,
        2: 503,
        3: 500,
        10: 403,
        190: 401,
        200: 403,
        130429: 429,
        131000: 500,
        131005: 403,
        131016: 503,
        133004: 503,
    }
)
"""The status that Graph gives a code; 400 for other codes."""

KNOWN_CODES: Final = frozenset(rule.code for rule in RULES)


def behavior_of(recipient: str) -> Behavior:
    """Return the outcome of a message to *recipient*."""
    prefix, code = recipient[: -_CODE_DIGITS or None], _code(recipient)
    if prefix == REFUSED_PREFIX and code in KNOWN_CODES:
        refusal = Refusal(status=HTTP_STATUS.get(code, 400), code=code)
        return _refused(f"Refused with code {code}.", refusal)
    if prefix == FAILED_PREFIX and code in KNOWN_CODES:
        return _failed(code)
    return BY_SUFFIX.get(recipient[-4:], USUAL)


def _code(recipient: str) -> int:
    digits = recipient[-_CODE_DIGITS:]
    return int(digits) if digits.isascii() and digits.isdecimal() else -1


def as_markdown() -> str:
    """Return the table in the form of docs/simulator.md."""
    rows = [f"| …{suffix} | {behavior.summary} |" for suffix, behavior in BY_SUFFIX.items()]
    return "\n".join(["| Recipient | Behavior |", "|---|---|", *rows])
