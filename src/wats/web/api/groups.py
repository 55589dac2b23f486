"""The API of groups: our camelCase on this side, Meta's own form on the Graph side.

Groups are not stored, and Meta processes changes asynchronously: most responses hold a request id,
and the outcome of the request is reported by a webhook.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.errors import Detail, GraphError, MalformedRequest, RouteNotFound
from wats.graph.endpoints import GROUP_ID
from wats.outbound import answers
from wats.outbound.failures import report_graph_failure
from wats.outbound.messages import (
    Fields,
    is_plain,
    parse_object,
    refuse,
    text_mistakes,
    unknown_keys,
    with_line_feeds,
)
from wats.telemetry.contract.values import EndpointFamily, Method
from wats.web.bodies import Body, GraphAnswer, Id
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts
from wats.web.routing import (
    PREFER,
    Handle,
    Operation,
    Parameter,
    Posture,
    Route,
    decode_segment,
)

MAX_SUBJECT_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 2048
MAX_PARTICIPANTS = 8
MAX_JOIN_REQUESTS = 64

_SETTINGS = {
    "subject": "subject",
    "description": "description",
    "joinApprovalMode": "join_approval_mode",
}
_NAMES = {
    **{graph: ours for ours, graph in _SETTINGS.items()},
    "participants": "waIds",
    "join_requests": "joinRequestIds",
}
_MODES = ("auto_approve", "approval_required")
_MALFORMED = "Group request body or route is invalid."
_PRODUCT = {"messaging_product": "whatsapp"}
_QUERY_LENGTHS = {"limit": 32, "after": 4096, "before": 4096, "fields": 4096}
_SNAKE = re.compile("(?<=[a-z0-9])_([a-z0-9])")
# Names alone: an expansion such as "owner{id}" would reach other objects through a group.
_FIELDS = re.compile("[A-Za-z0-9_]+(?:,[A-Za-z0-9_]+)*")

_TEXT = {"type": "string"}
_PAGING = tuple(Parameter(name, "query", _TEXT) for name in ("limit", "after", "before"))

Subject: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Description: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2048)]
JoinApprovalMode: TypeAlias = Literal["auto_approve", "approval_required"]


class CreateGroup(Body, frozen=True):
    """A new group."""

    subject: Subject
    description: Description | UnsetType = UNSET
    join_approval_mode: JoinApprovalMode | UnsetType = UNSET


class UpdateGroup(Body, frozen=True):
    """The settings to change; at least one is required."""

    subject: Subject | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    join_approval_mode: JoinApprovalMode | UnsetType = UNSET


class RemoveParticipants(Body, frozen=True):
    """The participants to remove."""

    wa_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=8)]


class JoinRequests(Body, frozen=True):
    """The join requests to approve or reject."""

    join_request_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=64)]


async def list_groups(parts: Parts, request: Request) -> Response:
    """List the groups of the number."""
    query = _query_of(request, ("limit", "after", "before"))
    return await _call(parts, request, "GET", [_number_of(parts, request), "groups"], query=query)


async def create(parts: Parts, request: Request) -> Response:
    """Create a group; Meta responds with a request id."""
    settings = await _settings_of(request, must_have="subject")
    return await _call(
        parts, request, "POST", [_number_of(parts, request), "groups"], payload=settings
    )


async def get(parts: Parts, request: Request) -> Response:
    """Return a group with the participants as Graph lists them."""
    query = _query_of(request, ("fields",))
    return await _call(parts, request, "GET", [_group_of(parts, request)], query=query)


async def update(parts: Parts, request: Request) -> Response:
    """Change the given fields of a group."""
    group = _group_of(parts, request)
    return await _call(parts, request, "POST", [group], payload=await _settings_of(request))


async def delete(parts: Parts, request: Request) -> Response:
    """Delete a group."""
    return await _call(parts, request, "DELETE", [_group_of(parts, request)])


async def get_link(parts: Parts, request: Request) -> Response:
    """Return the invite link of a group."""
    return await _call(parts, request, "GET", [_group_of(parts, request), "invite_link"])


async def reset_link(parts: Parts, request: Request) -> Response:
    """Create a new invite link; the old link becomes invalid."""
    segments = [_group_of(parts, request), "invite_link"]
    return await _call(parts, request, "POST", segments, payload={})


async def remove(parts: Parts, request: Request) -> Response:
    """Remove participants from a group."""
    group = _group_of(parts, request)
    wa_ids = await _ids_of(request, "waIds", MAX_PARTICIPANTS)
    payload = {"participants": [{"user": wa_id} for wa_id in wa_ids]}
    return await _call(parts, request, "DELETE", [group, "participants"], payload=payload)


async def list_requests(parts: Parts, request: Request) -> Response:
    """List requests to join a group."""
    query = _query_of(request, ("limit", "after"))
    return await _call(
        parts, request, "GET", [_group_of(parts, request), "join_requests"], query=query
    )


async def approve(parts: Parts, request: Request) -> Response:
    """Approve participants; Meta's response names the rejected ones, too."""
    return await _decide(parts, request, "POST")


async def reject(parts: Parts, request: Request) -> Response:
    """Reject join requests."""
    return await _decide(parts, request, "DELETE")


async def _decide(parts: Parts, request: Request, method: str) -> Response:
    group = _group_of(parts, request)
    ids = await _ids_of(request, "joinRequestIds", MAX_JOIN_REQUESTS)
    return await _call(
        parts, request, method, [group, "join_requests"], payload={"join_requests": ids}
    )


async def _call(
    parts: Parts,
    request: Request,
    method: str,
    segments: Sequence[str],
    *,
    query: Mapping[str, str] | None = None,
    payload: Mapping[str, object] | None = None,
) -> Response:
    """Call Graph and return its response in camelCase."""
    body = None if payload is None else msgspec.json.encode({**_PRODUCT, **payload})
    try:
        answer = await parts.numbers[request.number].graph.call(
            EndpointFamily.GROUPS, method, segments, query=query, payload=body
        )
    except GraphError as error:
        report_graph_failure(error, telemetry=parts.telemetry, log=parts.log, names=_NAMES)
        raise
    return json_response(_in_camel_case(answers.as_object(answer.payload)))


def _in_camel_case(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel(key): _in_camel_case(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_camel_case(item) for item in value]
    return value


def _camel(key: str) -> str:
    return _SNAKE.sub(lambda found: found[1].upper(), key)


def _number_of(parts: Parts, request: Request) -> str:
    return parts.numbers[request.number].id


def _group_of(parts: Parts, request: Request) -> str:
    """Return the id of the group in the path.

    Graph has one space of ids for all kinds of objects. A caller that may manage groups must not
    reach an object of another kind by its id.
    """
    group = decode_segment(request.parameters["groupId"])
    if not is_plain(group, 4096) or group is None or "/" in group or "\\" in group:
        raise RouteNotFound
    if GROUP_ID.fullmatch(group) is None or group in parts.numbers.object_ids:
        detail = Detail("groupId", "must be the id of a group")
        raise MalformedRequest("malformed_body", _MALFORMED, [detail])
    return group


def _query_of(request: Request, names: Collection[str]) -> dict[str, str]:
    query = {name: request.query[name] for name in names if name in request.query}
    if details := list(_query_mistakes(query)):
        raise MalformedRequest("malformed_query", "Group query is invalid.", details)
    return query


def _query_mistakes(query: Mapping[str, str]) -> Iterator[Detail]:
    for name, value in query.items():
        if not is_plain(value, _QUERY_LENGTHS[name]):
            yield Detail(name, f"must not be blank or longer than {_QUERY_LENGTHS[name]}")
        elif name == "fields" and _FIELDS.fullmatch(value) is None:
            yield Detail(name, "must be names of fields, separated by commas")


async def _ids_of(request: Request, name: str, most: int) -> list[str]:
    mistakes = partial(_ids_mistakes, name=name, most=most)
    ids: list[str] = (await _checked(request, (name,), mistakes))[name]
    return ids


def _ids_mistakes(fields: Fields, name: str, most: int) -> Iterator[Detail]:
    ids = fields.get(name)
    if not isinstance(ids, list) or not 1 <= len(ids) <= most:
        yield Detail(name, f"must be an array with 1 to {most} ids")
        return
    for place, each in enumerate(ids):
        if not is_plain(each, 256):
            yield Detail(f"{name}[{place}]", "must be an id")


def _settings_mistakes(fields: Fields, must_have: str | None = None) -> Iterator[Detail]:
    if must_have is not None and must_have not in fields:
        yield Detail(must_have, "must be given")
    elif not any(name in fields for name in _SETTINGS):
        yield Detail("$", f"must have at least one of {', '.join(_SETTINGS)}")
    if "subject" in fields and not is_plain(fields["subject"], MAX_SUBJECT_LENGTH):
        yield Detail("subject", f"must be one line of text, not longer than {MAX_SUBJECT_LENGTH}")
    if "description" in fields:
        yield from text_mistakes(fields["description"], "description", MAX_DESCRIPTION_LENGTH)
    if fields.get("joinApprovalMode", _MODES[0]) not in _MODES:
        yield Detail("joinApprovalMode", f"must be one of {', '.join(_MODES)}")


async def _settings_of(request: Request, must_have: str | None = None) -> dict[str, Any]:
    fields = await _checked(request, _SETTINGS, partial(_settings_mistakes, must_have=must_have))
    settings = {theirs: fields[ours] for ours, theirs in _SETTINGS.items() if ours in fields}
    if "description" in settings:
        settings["description"] = with_line_feeds(settings["description"])
    return settings


async def _checked(
    request: Request, known: Collection[str], mistakes: Callable[[Fields], Iterator[Detail]]
) -> dict[str, Any]:
    """Return the object in the body, which has none of *mistakes*."""
    fields = parse_object(await request.json_body(), _MALFORMED)
    unknown = unknown_keys(fields, known, strict=request.is_strict)
    refuse((*mistakes(fields), *unknown), _MALFORMED)
    return fields


def _operation(method: Method, handle: Handle, name: str, summary: str, **more: Any) -> Operation:
    if "body" in more:
        more["parameters"] = (PREFER,)
    return Operation(method, handle, name, summary, GraphAnswer, problems=(400, 502), **more)


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the routes of groups below *prefix*."""
    operation = _operation
    rows: tuple[tuple[str, tuple[Operation, ...]], ...] = (
        (
            f"{prefix}/groups",
            (
                operation(
                    Method.GET, list_groups, "listGroups", "List groups.", parameters=_PAGING
                ),
                operation(
                    Method.POST,
                    create,
                    "createGroup",
                    "Create a group.",
                    body=CreateGroup,
                ),
            ),
        ),
        (
            f"{prefix}/groups/:groupId",
            (
                operation(
                    Method.GET,
                    get,
                    "getGroup",
                    "Return a group.",
                    parameters=(Parameter("fields", "query", _TEXT),),
                ),
                operation(
                    Method.POST,
                    update,
                    "updateGroup",
                    "Change a group.",
                    body=UpdateGroup,
                ),
                operation(Method.DELETE, delete, "deleteGroup", "Delete a group."),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/invite-link",
            (
                operation(Method.GET, get_link, "getInviteLink", "Return the invite link."),
                operation(Method.POST, reset_link, "resetInviteLink", "Reset the invite link."),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/participants",
            (
                operation(
                    Method.DELETE,
                    remove,
                    "removeParticipants",
                    "Remove participants.",
                    body=RemoveParticipants,
                ),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/join-requests",
            (
                operation(
                    Method.GET,
                    list_requests,
                    "listJoinRequests",
                    "List join requests.",
                    parameters=_PAGING[:2],
                ),
                operation(
                    Method.POST,
                    approve,
                    "approveJoinRequests",
                    "Approve join requests.",
                    body=JoinRequests,
                ),
                operation(
                    Method.DELETE,
                    reject,
                    "rejectJoinRequests",
                    "Reject join requests.",
                    body=JoinRequests,
                ),
            ),
        ),
    )
    return tuple(Route(path, path, Posture.API, "groups", operations) for path, operations in rows)
