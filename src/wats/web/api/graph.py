"""Graph's own API for its existing clients: our routes where we have one, else passed on.

    P/graph/v25.0/NUMBER/messages ─▸ as POST P/messages: idempotency, checks, window guard
    P/graph/v25.0/NUMBER/media    ─▸ as POST P/media
    another listed call           ─▸ Graph, with our access token, as the body arrives

A client uses a service token in place of the access token. Responses have neither the access token
nor Graph's address, and errors have Graph's form.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Final

import msgspec

from wats.config.numbers import NUMBER_SCOPES
from wats.errors import (
    Detail,
    GraphError,
    InsufficientScope,
    InvalidIdempotencyKey,
    MalformedRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    RouteNotFound,
    UnsupportedMediaType,
)
from wats.graph.endpoints import FILE_DELETION, Endpoint, Endpoints, Service, version_of
from wats.graph.errors import decode_json
from wats.graph.transfers import MAX_DOWNLOAD_BYTES, Download, UploadBody
from wats.outbound.failures import report_graph_failure
from wats.telemetry.contract.values import EndpointFamily, Method
from wats.web.access import Access
from wats.web.api import marketing_messages, media, messages
from wats.web.api.messages import IDEMPOTENCY_KEY
from wats.web.api.outbox import OutboxItem
from wats.web.api.relayed_body import RelayedBody
from wats.web.bodies import GraphAnswer
from wats.web.exchange import (
    JSON_TYPE,
    Request,
    Response,
    StreamedResponse,
    json_response,
)
from wats.web.parts import Parts, server_url
from wats.web.problems import GRAPH_FORM
from wats.web.routing import (
    ASYNC_PREFER,
    Handle,
    Operation,
    Posture,
    Route,
    decode_segment,
    shared_label,
)

MAX_BODY_BYTES: Final = MAX_DOWNLOAD_BYTES
"""The limit of a body that is passed on, in both directions."""

MAX_DESCRIPTION_BYTES: Final = 64 * 1024
"""The limit of a description of a file; Meta's has about 500 bytes."""

DROPPED: Final = frozenset({"access_token", "appsecret_proof"})
"""Query parameters that are not passed on: wats adds its own."""

REFUSED: Final = frozenset(
    {"batch", "callback", "debug", "format", "ids", "include_headers", "method"}
    | {"suppress_http_code"}
)
"""Query parameters by which Graph would make another call, or respond in another form."""

_NAME: Final = re.compile("[A-Za-z0-9_]{1,64}")
"""A name of a query parameter. Graph could read other names as that of another parameter: servers
in PHP read ` method` and `method[]` as `method`."""

_TYPE: Final = re.compile(r"[\x20-\x7e]{1,256}")
_OFFSET: Final = re.compile("[0-9]{1,15}")
_ANY_TYPE: Final = "application/octet-stream"
_MEDIA_OWNER: Final = "phone_number_id"
_FIELDS: Final = "fields"
_PLAIN_FIELDS: Final = re.compile("[A-Za-z0-9_, ]*")
_CALLBACKS: Final = "webhook_configuration"
"""The field of a number with the URL of the webhook, which may be a secret. Graph returns it also
if the query has no fields."""
_NUMBER_FIELDS: Final = (
    "id,display_phone_number,verified_name,quality_rating,code_verification_status,"
    "platform_type,throughput"
)
"""The fields of a number that a limited token gets by default."""

_OWN_ROUTES: Final[Mapping[Service, Handle]] = {
    Service.SEND: messages.send,
    Service.MARKETING: marketing_messages.send,
    # Clients name a file without a name after the kind of the message: a PNG is `image.jpg`.
    Service.UPLOAD: partial(media.upload, checks_name=False),
    Service.DELETE_FILE: media.delete,
}
_TAGS: Final = {EndpointFamily.MEDIA: "media", EndpointFamily.GROUPS: "groups"}
_EVERY_SCOPE: Final = frozenset(NUMBER_SCOPES)
_DIGITS: Final = re.compile("[0-9]+")


async def serve(method: Method, parts: Parts, request: Request) -> Response:
    """Serve a call of Graph by *method*."""
    segments = _segments_of(parts, request)
    endpoint = _admit(parts, request, segments, method)
    if (own := _OWN_ROUTES.get(endpoint.service)) is not None:
        request.parameters["mediaId"] = segments[0]
        return await own(parts, request)
    query = _query_of(request, endpoint)
    is_object = endpoint.path == "{id}"
    if method is not Method.GET and request.header(b"idempotency-key") is not None:
        raise InvalidIdempotencyKey("Idempotency-Key is for messages only.")
    root = _own_root(parts, request)
    opened = await _relay(
        parts,
        request.number,
        endpoint.family,
        method.value,
        segments,
        query=query,
        body=_body_of(request) if method is not Method.GET else None,
        headers=_headers_of(request),
        own_root=f"{root}/graph/{parts.profile.graph.api_version}/",
    )
    if not opened.content_type.endswith(("json", "javascript")):
        opened.close()
        return json_response({})  # accepted, and the response is not Graph's
    body = opened.chunks()
    source = RelayedBody(
        parts, opened, _with_own_url(root, segments[0], body) if is_object else body
    )
    try:
        await source.begin()
    except GraphError:
        if method is Method.GET:
            raise
        return json_response({})  # accepted, and the response was cut off
    return StreamedResponse(HTTPStatus.OK, content_type=JSON_TYPE, source=source, length=None)


async def _relay(parts: Parts, number: str | None, *call: Any, **options: Any) -> Download:
    """Pass a call on with the token of *number*, and report its failure."""
    try:
        return await parts.numbers[number].graph.relay(*call, **options)
    except GraphError as error:
        report_graph_failure(error, telemetry=parts.telemetry, log=parts.log)
        raise


async def _with_own_url(
    root: str, media_id: str, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Yield *chunks*, in which the URL of a file is that of wats.

    A client would send its service token to the host of Meta's URL, and the file needs the access
    token.
    """
    held = b""
    async for chunk in chunks:
        held += chunk
        if len(held) > MAX_DESCRIPTION_BYTES:  # not a file
            yield held
            held = b""
    payload: Any = decode_json(held)
    if media.is_description(payload):
        payload["url"] = f"{root}/media/{media_id}/content"
        held = msgspec.json.encode(payload)
    yield held


@lru_cache(maxsize=8)
def _endpoints(numbers: frozenset[str], accounts: frozenset[str], has_groups: bool) -> Endpoints:
    return Endpoints(numbers, accounts, has_groups=has_groups)


def _segments_of(parts: Parts, request: Request) -> list[str]:
    """Return the segments of the path after the version, which is checked.

    Graph is called with the configured version, also if the client names an older one. A newer
    version is refused, because its client may rely on features that the configured one lacks.
    """
    path = request.parameters["graphPath"].removesuffix("/")
    segments = [decode_segment(each) or "" for each in path.split("/")]
    wanted = version_of(segments[0])
    if wanted is None:
        return segments
    configured = version_of(parts.profile.graph.api_version) or wanted
    if wanted > configured:
        raise _malformed("version", "must not be newer than graph.apiVersion")
    return segments[1:]


def _admit(parts: Parts, request: Request, segments: list[str], method: Method) -> Endpoint:
    """Return the row of a call that the token permits, and limit *request* to its number.

    The number is checked first, so that a token that is limited to numbers does not reveal which
    others are configured: for it, calls of other numbers and of no number do not exist.

    Raises:
        RouteNotFound: The number or account is not configured, or not for this token.
        MalformedRequest: The call is not listed.
        MethodNotAllowed: The call is listed, but not with this method.
        InsufficientScope: The token lacks the scopes of the call.
    """
    endpoint, number = _find(parts, request, segments, method)
    permitted = request.access.numbers
    if permitted is not None and number not in permitted:
        raise RouteNotFound
    if endpoint is None or (number is not None and number not in parts.numbers.ids):
        raise RouteNotFound
    if method not in endpoint.methods:
        raise MethodNotAllowed([each.value for each in endpoint.methods])
    is_write = endpoint.service is Service.PASS and method is not Method.GET
    if permitted is not None and is_write:
        # Its body, which is not read, could name objects of other numbers.
        raise InsufficientScope("A token that is limited to numbers cannot make this call.")
    if lacking := _scopes_of(endpoint, number, method) - request.access.scopes:
        raise InsufficientScope(f"The token lacks scopes: {', '.join(sorted(lacking))}.")
    request.number = number
    return endpoint


def _find(
    parts: Parts, request: Request, segments: list[str], method: Method
) -> tuple[Endpoint | None, str | None]:
    """Return the row of a call and the number that it names, if there are any."""
    numbers = parts.numbers
    table = _endpoints(numbers.ids, numbers.accounts, parts.groups_enabled)
    found = table.find(segments)
    if found is None:
        if request.access.numbers is None and _DIGITS.fullmatch(segments[0]) is None:
            raise _malformed("path", "must be a listed call of Graph")
        return None, None
    if found.is_of_number:
        return found, segments[0]
    if found.path == "{id}" and method is Method.DELETE and _MEDIA_OWNER in request.query:
        return FILE_DELETION, request.query[_MEDIA_OWNER]
    return found, None


def _scopes_of(endpoint: Endpoint, number: str | None, method: Method) -> frozenset[str]:
    """Return the scopes that a call needs.

    A call that is not limited to a number, and a change of the settings of a number, need every
    scope, because no single scope covers them.
    """
    tag = _TAGS.get(endpoint.family, "messages")
    is_setting = endpoint.service is Service.PASS and tag == "messages"
    if number is None or (is_setting and method is not Method.GET):
        return _EVERY_SCOPE
    return frozenset({f"{tag}:read" if method is Method.GET else f"{tag}:write"})


def _query_of(request: Request, endpoint: Endpoint) -> list[tuple[str, str]]:
    pairs = request.query_pairs
    refused = sorted({name for name, _ in pairs if name.lower() in REFUSED})
    details = [Detail(name, "is not passed on to Graph") for name in refused]
    if not all(_NAME.fullmatch(name) for name, _ in pairs):
        details.append(Detail("?", "must have a name of letters, digits and '_'"))
    fields = [value for name, value in pairs if name.lower() == _FIELDS]
    is_limited = _is_limited(request.access)
    if is_limited and (reason := _fault_in(fields)) is not None:
        details.append(Detail(_FIELDS, reason))
    if details:
        raise MalformedRequest("malformed_query", "The query is invalid.", details)
    passed = [(name, value) for name, value in pairs if name.lower() not in DROPPED]
    if is_limited and endpoint.path == "{number}":
        named = ",".join(filter(None, (value.strip(", ") for value in fields)))
        passed = [(name, value) for name, value in passed if name.lower() != _FIELDS]
        passed.append((_FIELDS, named or _NUMBER_FIELDS))
    return passed


def _fault_in(fields: Sequence[str]) -> str | None:
    """Return the reason why a limited token does not permit *fields*, if it does not."""
    # Graph follows the edges of an object in braces, to objects that the token is not for.
    if not all(map(_PLAIN_FIELDS.fullmatch, fields)):
        return "must be names, separated by commas, for this token"
    if any(_CALLBACKS in value.lower() for value in fields):
        return f"must not have {_CALLBACKS!r} for this token"
    return None


def _is_limited(access: Access) -> bool:
    return access.numbers is not None or not access.scopes >= _EVERY_SCOPE


def _body_of(request: Request) -> UploadBody | None:
    has_body = any(request.header(name) for name in (b"content-length", b"transfer-encoding"))
    length = request.length if has_body else 0
    if length == 0:
        return None
    if length > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    content_type = request.header(b"content-type") or _ANY_TYPE
    if _TYPE.fullmatch(content_type) is None:
        raise UnsupportedMediaType([Detail("content-type", "must be visible ASCII")])
    return UploadBody(content_type, length, request.stream())


def _headers_of(request: Request) -> dict[str, str]:
    """Return the headers that are passed on: the position in a resumable upload only."""
    offset = request.header(b"file_offset")
    if offset is None:
        return {}
    if _OFFSET.fullmatch(offset) is None:
        raise _malformed("file_offset", "must be a number of bytes")
    return {"file_offset": offset}


def _own_root(parts: Parts, request: Request) -> str:
    """Return the address of the API prefix, as this client can reach it."""
    public = parts.profile.service.public_url
    origin = (public or request.origin or server_url(parts.profile)).rstrip("/")
    mount = "" if public is not None else request.mount_path
    return f"{origin}{mount}{parts.profile.service.api_prefix}"


def _malformed(path: str, reason: str) -> MalformedRequest:
    message = "This call of Graph is not served."
    return MalformedRequest("malformed_path", message, [Detail(path, reason)])


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the route of Graph's own API below *prefix*."""
    problems = (400, 404, 429, 502)
    with_body = (408, 409, 411, 413, 415, 501)
    reading = Operation(
        Method.GET,
        partial(serve, Method.GET),
        "graphGet",
        "Read from Graph, in its own form.",
        GraphAnswer,
        problems=problems,
    )
    writing = Operation(
        Method.POST,
        partial(serve, Method.POST),
        "graphPost",
        "Send a message, upload a file, or pass another call on to Graph, in its own form.",
        GraphAnswer,
        body=bytes,
        body_type="*/*",
        needs_body=False,
        parameters=(IDEMPOTENCY_KEY, ASYNC_PREFER),
        accepted=OutboxItem,
        problems=(*problems, *with_body),
    )
    deleting = Operation(
        Method.DELETE,
        partial(serve, Method.DELETE),
        "graphDelete",
        "Delete an object of Graph.",
        GraphAnswer,
        problems=(*problems, *with_body),
    )
    path, operations = f"{prefix}/graph/*graphPath", (reading, writing, deleting)
    return (Route(path, shared_label(prefix), Posture.API, "graph", operations, GRAPH_FORM),)
