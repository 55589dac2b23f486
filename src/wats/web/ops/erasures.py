"""The erasure of a person's data."""

import hashlib
import re
from time import monotonic
from typing import Annotated, Final

from msgspec import Meta

from wats.errors import Detail, MalformedRequest
from wats.outbound.messages import BSUID_PATTERN
from wats.privacy import Secret
from wats.store.admin import Erased
from wats.store.person import Person
from wats.telemetry.contract.values import Adapter, Method
from wats.web.bodies import Body, Count
from wats.web.exchange import Request, Response, json_response
from wats.web.inputs import read_body, store_of
from wats.web.ops.audit import log_action
from wats.web.parts import Parts
from wats.web.routing import Operation, Posture, Route

STEP_SECONDS: Final = 2.0
"""The time limit of the steps of one request; a larger erasure takes several requests."""

USER_PATTERN: Final = rf"\+?[0-9]{{7,15}}|{BSUID_PATTERN}"

_USER: Final = re.compile(USER_PATTERN)
_MALFORMED: Final = "The body must name a 'user': a phone number or a business-scoped user id."
_SUBJECT_BYTES: Final = 16


class ErasureRequest(Body, frozen=True):
    """Erase the data of a user, or only count it; `cursor` continues an earlier request.

    `searchFiles` lets a dry run read the files of a SQLite database completely.
    """

    user: Annotated[str, Meta(pattern=f"^({USER_PATTERN})$")]
    dry_run: bool = False
    search_files: bool = False
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class ErasedCounts(Body, frozen=True):
    """Numbers of rows.

    `traces` are places in the files of the database, the rows included; `null` if the files were
    not searched.
    """

    deliveries: Count
    dead_letters: Count
    messages: Count
    statuses: Count
    windows: Count
    responses: Count
    traces: Count | None


class ErasureView(Body, frozen=True):
    """The result of a request.

    `subject` is a digest of the user under a secret of the service, the same in every erasure of
    the user. Unless `nextCursor` is null, repeat the request with it as `cursor`.
    """

    subject: str
    dry_run: bool
    counts: ErasedCounts
    next_cursor: str | None


async def erase(parts: Parts, request: Request) -> Response:
    """Erase the data of a person step by step, for a limited time."""
    store = store_of(parts)
    asked = await read_body(request, ErasureRequest, _MALFORMED)
    if _USER.fullmatch(asked.user) is None:  # the pattern above would admit a line end
        raise MalformedRequest("malformed_body", _MALFORMED)
    if asked.cursor is None and not asked.dry_run:
        log_action(parts, "erasure_started", 0)
    person, ends = Person(asked.user), monotonic() + STEP_SECONDS
    total, position = Erased(), asked.cursor
    while True:
        try:
            step = await store.erase(
                person,
                sorted(parts.numbers.ids),
                position=position,
                is_trial=asked.dry_run,
                searches_files=asked.search_files,
            )
        except ValueError:
            raise _invalid_cursor() from None
        total, position = _sum(total, step), step.position
        if position is None or monotonic() > ends:
            break
    rows = {name: getattr(total, name) for name in _ROWS}
    if position is None and not asked.dry_run:
        log_action(parts, "erasure_finished", sum(rows.values()))
    was_searched = asked.dry_run and asked.search_files and store.adapter is Adapter.SQLITE
    counts = ErasedCounts(**rows, traces=total.traces if was_searched else None)
    subject = subject_of(person, parts.record_key)
    view = ErasureView(subject=subject, dry_run=asked.dry_run, counts=counts, next_cursor=position)
    return json_response(view)


_COUNTS: Final = ErasedCounts.__struct_fields__
_ROWS: Final = [name for name in _COUNTS if name != "traces"]


def _sum(total: Erased, step: Erased) -> Erased:
    return Erased(**{name: getattr(total, name) + getattr(step, name) for name in _COUNTS})


def _invalid_cursor() -> MalformedRequest:
    reason = "must be the 'nextCursor' of an earlier response"
    return MalformedRequest("malformed_body", _MALFORMED, [Detail("cursor", reason)])


def subject_of(person: Person, key: Secret) -> str:
    """Return a digest of *person* that cannot be computed without *key*."""
    hashed_key = hashlib.sha256(key.reveal().encode()).digest()
    return hashlib.blake2b(
        person.id.encode(), key=hashed_key, digest_size=_SUBJECT_BYTES, person=b"wats erasure"
    ).hexdigest()


def routes(admin: str) -> tuple[Route, ...]:
    """Return the routes of erasures below *admin*."""
    erasing = Operation(
        Method.POST,
        erase,
        "erasePerson",
        "Erase the data of a person, or count it.",
        ErasureView,
        body=ErasureRequest,
        problems=(400,),
    )
    path = f"{admin}/erasures"
    return (Route(path, admin, Posture.ADMIN, "admin", (erasing,)),)
