"""Graph's own API for its existing clients: our routes where we have one, else passed on.

    P/graph/v25.0/NUMBER/messages ─▸ as POST P/messages: idempotency, checks, window guard
    P/graph/v25.0/NUMBER/media    ─▸ as POST P/media
    another listed call           ─▸ Graph, with our access token, as the body arrives

A client uses a service token in place of the access token. Responses have neither the access token
nor Graph's address, and errors have Graph's form.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Final

import msgspec

from wats.errors import (
    Detail,
    GraphError,
    InvalidIdempotencyKey,
    MalformedRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from wats.graph.endpoints import Endpoint, Endpoints, Service, version_of
from wats.graph.errors import decode_json
from wats.graph.transfers import MAX_DOWNLOAD_BYTES, Download, UploadBody
from wats.outbound.failures import report_graph_failure
from wats.telemetry.contract.values import Method
from wats.web.api import marketing_messages, media, messages
from wats.web.api.messages import IDEMPOTENCY_KEY
from wats.web.bodies import GraphAnswer
from wats.web.exchange import (
    JSON_TYPE,
    Request,
    Response,
    ResponseBroken,
    StreamedResponse,
    json_response,
)
from wats.web.parts import Parts, server_url
from wats.web.problems import GRAPH_FORM
from wats.web.routing import Handle, Operation, Posture, Route, decode_segment

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

_TYPE: Final = re.compile(r"[\x20-\x7e]{1,256}")
_OFFSET: Final = re.compile("[0-9]{1,15}")
_ANY_TYPE: Final = "application/octet-stream"
_MEDIA_OWNER: Final = "phone_number_id"


_OWN_ROUTES: Final[Mapping[Service, Handle]] = {
    Service.SEND: messages.send,
    Service.MARKETING: marketing_messages.send,
    Service.UPLOAD: media.upload,
}


async def serve(method: Method, parts: Parts, request: Request) -> Response:
    """Serve a call of Graph by *method*."""
    segments = _segments_of(parts, request)
    endpoint = _endpoint_of(parts, segments, method)
    if (own := _OWN_ROUTES.get(endpoint.service)) is not None:
        return await own(parts, request)
    query = _query_of(request)
    is_object = endpoint.path == "{id}"
    if is_object and method is Method.DELETE and _MEDIA_OWNER in request.query:
        return await _delete_media(parts, request, segments[0])
    if method is not Method.GET and request.header(b"idempotency-key") is not None:
        raise InvalidIdempotencyKey("Idempotency-Key is for messages only.")
    root = _own_root(parts, request)
    opened = await _relay(
        parts,
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
    link = partial(_with_own_url, root, segments[0]) if is_object else _unchanged
    source = _Answer(parts, opened, link)
    return StreamedResponse(HTTPStatus.OK, content_type=JSON_TYPE, source=source, length=None)


async def _relay(parts: Parts, *call: Any, **options: Any) -> Download:
    """Pass a call on, and report its failure."""
    try:
        return await parts.graph.relay(*call, **options)
    except GraphError as error:
        report_graph_failure(error, telemetry=parts.telemetry, log=parts.log)
        raise


class _Answer:
    """The body of a response of Graph, with the URLs of wats."""

    def __init__(
        self,
        parts: Parts,
        opened: Download,
        linked: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
    ) -> None:
        self._parts = parts
        self._opened = opened
        self._linked = linked

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._linked(self._opened.chunks()):
                yield chunk
        except GraphError as error:
            report_graph_failure(error, telemetry=self._parts.telemetry, log=self._parts.log)
            raise ResponseBroken from None

    def close(self) -> None:
        self._opened.close()


def _unchanged(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    return chunks


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
def _endpoints(number: str, account: str, has_groups: bool) -> Endpoints:
    return Endpoints(number, account, has_groups=has_groups)


def _segments_of(parts: Parts, request: Request) -> list[str]:
    """Return the segments of the path after the version, which is checked.

    The version of every call is the configured one. A client of an older version gets its
    responses, and one of a newer version may rely on what it does not have.
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


def _endpoint_of(parts: Parts, segments: list[str], method: Method) -> Endpoint:
    ours = parts.profile.whatsapp
    table = _endpoints(ours.phone_number_id, ours.waba_id, parts.groups_enabled)
    found = table.find(segments)
    if found is None:
        raise _malformed("path", "must be a listed call of Graph, and an object of this service")
    if method not in found.methods:
        raise MethodNotAllowed([each.value for each in found.methods])
    return found


def _query_of(request: Request) -> list[tuple[str, str]]:
    pairs = request.query_pairs
    refused = sorted({name for name, _ in pairs if name.lower() in REFUSED})
    if refused:
        details = [Detail(name, "is not passed on to Graph") for name in refused]
        raise MalformedRequest("malformed_query", "The query is invalid.", details)
    return [(name, value) for name, value in pairs if name.lower() not in DROPPED]


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


async def _delete_media(parts: Parts, request: Request, media_id: str) -> Response:
    if request.query[_MEDIA_OWNER] != parts.profile.whatsapp.phone_number_id:
        raise _malformed(_MEDIA_OWNER, "must be the number of this service")
    request.parameters["mediaId"] = media_id
    return await media.delete(parts, request)


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
    problems = (400, 404, 429, 502, 503)
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
        parameters=(IDEMPOTENCY_KEY,),
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
    path, label = f"{prefix}/graph/*graphPath", f"{prefix}/graph/:path"
    operations = (reading, writing, deleting)
    return (Route(path, label, Posture.API, "graph", operations, GRAPH_FORM),)
