"""The API of media: upload a file to Meta, describe, download and delete one.

Files pass through in pieces and are never stored. Meta's own URL of a file is not shown: it works
with the access token only, and for a few minutes.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.errors import (
    Detail,
    GraphError,
    GraphRefused,
    MalformedRequest,
    MediaNotFound,
    PayloadTooLarge,
)
from wats.graph.client import GraphClient
from wats.graph.responses import GraphResponse
from wats.graph.transfers import Download, UploadBody
from wats.outbound import answers
from wats.outbound.failures import report_graph_failure
from wats.outbound.media import MAX_FILE_BYTES, START_BYTES, TYPES, find_type, max_bytes_of
from wats.telemetry.contract.values import EndpointFamily, Method
from wats.web.api.relayed_body import RelayedBody
from wats.web.bodies import Body, Count, GraphAnswer
from wats.web.exchange import Request, Response, StreamedResponse, json_response
from wats.web.multipart import MAX_FORM_BYTES, boundary_of, form_head, open_form
from wats.web.parts import Parts
from wats.web.routing import FORM_TYPE, Operation, Posture, Route

MAX_BODY_BYTES: Final = MAX_FILE_BYTES + MAX_FORM_BYTES
"""The limit of a whole upload, for the largest file and the form around it."""

_FAMILY: Final = EndpointFamily.MEDIA
_PRODUCT: Final = "whatsapp"
_ID: Final = re.compile("[0-9]{1,32}")
_MIME_TYPE: Final = re.compile(
    r"[\w.+-]{1,100}/[\w.+-]{1,100}(?:; ?[\w-]{1,20}=[\w.+-]{1,40})?", re.ASCII
)
_TTL: Final = "ttl_minutes"
_MINUTES: Final = re.compile("[0-9]{1,7}")
_SHA256: Final = re.compile(r"[0-9A-Za-z+/=]{43,64}")
_ANY_TYPE: Final = "application/octet-stream"

# The file comes from a customer: a browser must neither show it nor guess its type.
_UNTRUSTED: Final = (
    (b"content-disposition", b"attachment"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
)

_EXPIRED: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
)
"""The responses of a media host to a URL that is too old."""

Result = TypeVar("Result")
File: TypeAlias = Annotated[str, Meta(extra_json_schema={"contentMediaType": _ANY_TYPE})]


class UploadForm(msgspec.Struct, frozen=True, kw_only=True):
    """A form with one file, before or after its other fields."""

    messaging_product: Annotated[str, Meta(pattern=f"^{_PRODUCT}$")] | UnsetType = UNSET
    type: (
        Annotated[str, Meta(description=f"The type of the file: {', '.join(TYPES)}.")] | UnsetType
    ) = UNSET
    ttl_minutes: Annotated[str, Meta(pattern="^[0-9]{1,7}$")] | UnsetType = UNSET
    file: File


class UploadedMedia(msgspec.Struct, frozen=True):
    """The file in Meta's store, for messages."""

    id: str | UnsetType = UNSET


class MediaView(Body, frozen=True):
    """A file in Meta's store."""

    id: str
    mime_type: str
    sha256: str | None
    file_size: Count | None


class _Found(msgspec.Struct, frozen=True):
    """A file as Graph describes it."""

    view: MediaView
    url: str = ""


async def upload(parts: Parts, request: Request, *, checks_name: bool = True) -> Response:
    """Pass a file on to Meta, once its type, size and first bytes have been checked."""
    boundary, length = boundary_of(request.header(b"content-type")), request.length
    if length > MAX_BODY_BYTES:
        raise _too_large(MAX_FILE_BYTES)
    chunks = request.stream()
    form = await open_form(chunks, boundary, length, START_BYTES)
    if form.fields.get("messaging_product", _PRODUCT) != _PRODUCT:
        raise _malformed("messaging_product", f"must be '{_PRODUCT}'")
    if not form.first_bytes:
        raise _malformed("file", "must not be empty")
    start = form.first_bytes
    stated = form.fields.get("type", form.content_type)
    kind = find_type(stated, form.name, start, checks_name=checks_name)
    max_bytes = max_bytes_of(kind, start)
    if form.min_size - (0 if form.fields else MAX_FORM_BYTES) > max_bytes:
        raise _too_large(max_bytes)
    fields = {"messaging_product": _PRODUCT, "type": kind.name, **_time_to_live(form.fields)}
    head = form_head(boundary, fields, kind.name)
    body = UploadBody(
        f'multipart/form-data; boundary="{boundary.decode()}"',
        len(head) + form.rest_length,
        _joined(head, form.rest(chunks, max_bytes, partial(_may_follow, kind.name))),
    )
    number = parts.numbers[request.number]
    call = number.graph.upload(_FAMILY, [number.id, "media"], body)
    answer = await _reported(parts, call)
    return json_response(answers.as_object(answer.payload))


async def describe(parts: Parts, request: Request) -> Response:
    """Return type, size and hash of a file."""
    return json_response((await _find(parts, request)).view)


async def download(parts: Parts, request: Request) -> Response:
    """Return the content of a file; its URL is fetched anew if it has just expired."""
    graph = parts.numbers[request.number].graph
    found = await _find(parts, request)
    try:
        opened = await _open(graph, found)
    except GraphRefused as error:
        if error.upstream_status not in _EXPIRED:
            _report(parts, error)
            raise
        found = await _find(parts, request)
        opened = await _reported(parts, _open(graph, found))
    source = RelayedBody(parts, opened)
    await source.begin()
    return StreamedResponse(
        HTTPStatus.OK,
        content_type=_header_of(found.view.mime_type),
        headers=_UNTRUSTED,
        source=source,
        length=opened.length,
    )


async def delete(parts: Parts, request: Request) -> Response:
    """Delete a file.

    It is described first: Graph deletes any object by its id, and must not delete a template, a
    flow or another object for a client that may delete files.
    """
    found = await _find(parts, request)
    graph = parts.numbers[request.number].graph
    call = graph.call(_FAMILY, "DELETE", [found.view.id], query=_owner_of(request))
    return json_response(answers.as_object((await _reported(parts, call)).payload))


async def _open(graph: GraphClient, found: _Found) -> Download:
    return await graph.download(_FAMILY, found.url, found.view.file_size)


def _owner_of(request: Request) -> Mapping[str, str]:
    """Return the query that makes Graph refuse the file of another number."""
    return {} if request.number is None else {"phone_number_id": request.number}


async def _find(parts: Parts, request: Request) -> _Found:
    """Return the file in the path of *request*.

    Raises:
        MediaNotFound: The object of this id is not a file.
        GraphError: Graph refused, or did not respond.
    """
    media_id = _id_of(parts, request)
    graph = parts.numbers[request.number].graph
    call = graph.call(_FAMILY, "GET", [media_id], query=_owner_of(request))
    found = _read(media_id, await _reported(parts, call))
    if found is None:
        raise MediaNotFound
    return found


def is_description(payload: Any) -> bool:
    """Return whether *payload* is Graph's description of a file."""
    if not isinstance(payload, dict) or payload.get("messaging_product") != _PRODUCT:
        return False
    return isinstance(payload.get("url"), str) and isinstance(payload.get("mime_type"), str)


def _read(media_id: str, answer: GraphResponse) -> _Found | None:
    payload = answer.payload
    if not is_description(payload):
        return None
    url, mime_type = payload["url"], payload["mime_type"]
    sha256 = payload.get("sha256")
    view = MediaView(
        id=media_id,
        mime_type=mime_type if _MIME_TYPE.fullmatch(mime_type) else _ANY_TYPE,
        sha256=sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
        file_size=_size(payload.get("file_size")),
    )
    return _Found(view, url)


def _header_of(mime_type: str) -> bytes:
    """Return the type in the head of a download: one of a closed list, since heads are logged."""
    name = mime_type.partition(";")[0].lower()
    return (name if name in TYPES else _ANY_TYPE).encode()


def _size(value: Any) -> int | None:
    """Return the size in *value*, which Graph writes as a number or as text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


async def _reported(parts: Parts, call: Awaitable[Result]) -> Result:
    """Return the result of *call*, and report its failure."""
    try:
        return await call
    except GraphError as error:
        _report(parts, error)
        raise


def _report(parts: Parts, error: GraphError) -> None:
    report_graph_failure(error, telemetry=parts.telemetry, log=parts.log)


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in rest:
        yield piece


def _may_follow(kind: str, name: str, value: str) -> bool:
    """Return whether a field may follow the file: Meta uses the last value of a repeated one."""
    match name:
        case "messaging_product":
            return value == _PRODUCT
        case "type":
            is_kind = value.partition(";")[0].strip().lower() == kind
            return is_kind and _MIME_TYPE.fullmatch(value) is not None
        case _:
            return name == _TTL and _MINUTES.fullmatch(value) is not None


def _time_to_live(fields: Mapping[str, str]) -> dict[str, str]:
    value = fields.get(_TTL)
    if value is not None and _MINUTES.fullmatch(value) is None:
        raise _malformed(_TTL, "must be a number of minutes")
    return {} if value is None else {_TTL: value}


def _id_of(parts: Parts, request: Request) -> str:
    """Return the id of the file in the path; those of our numbers and accounts are refused."""
    media_id = request.parameters["mediaId"]
    if _ID.fullmatch(media_id) is None or media_id in parts.numbers.object_ids:
        raise MalformedRequest("malformed_path", "Media id must be 1 to 32 digits.")
    return media_id


def _malformed(path: str, reason: str) -> MalformedRequest:
    return MalformedRequest("malformed_body", "The form is invalid.", [Detail(path, reason)])


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The file is larger than {max_bytes} bytes.")


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the routes of media below *prefix*."""
    new = Operation(
        Method.POST,
        upload,
        "uploadMedia",
        "Upload a file to Meta, for messages.",
        UploadedMedia,
        body=UploadForm,
        body_type=FORM_TYPE,
        problems=(400, 408, 411, 502),
    )
    known = (
        Operation(
            Method.GET,
            describe,
            "getMedia",
            "Return type, size and hash of a file.",
            MediaView,
            problems=(400, 404, 502),
        ),
        Operation(
            Method.DELETE,
            delete,
            "deleteMedia",
            "Delete a file.",
            GraphAnswer,
            problems=(400, 404, 502),
        ),
    )
    content = Operation(
        Method.GET,
        download,
        "getMediaContent",
        "Download a file.",
        ("*/*",),
        problems=(400, 404, 502),
    )
    path = f"{prefix}/media"
    rows = (
        (path, (new,)),
        (f"{path}/:mediaId", known),
        (f"{path}/:mediaId/content", (content,)),
    )
    return tuple(Route(each, each, Posture.API, "media", operations) for each, operations in rows)
