"""Calls of Graph: a call has a response, was never sent, or has an unknown outcome.

    response 2xx                       GraphResponse, even if its body cannot be read
    refused, by graph/errors.py        GraphRefused; so is any other response to a GET
    never written, or a GET            GraphUnreachable: it can be sent again
    everything else                    GraphOutcomeUnknown: it must not be sent again

A failure without a response is classified by aiohttp's exception. Connection errors are raised
before the first byte of a request is written; any other exception counts as written.
"""

import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from aiohttp.payload import BytesPayload
from yarl import URL

from wats.errors import ConfigError, ConfigIssue, GraphError
from wats.graph.causes import NEVER_WRITTEN, without_response
from wats.graph.connections import SharedSession
from wats.graph.middlewares import READING, WRITING
from wats.graph.paths import encoded, joined, proof_of
from wats.graph.redaction import PUBLIC_ROOT, forms_of, without
from wats.graph.responses import (
    GraphResponse,
    OperationRecorder,
    RawResponse,
    failure_of,
    is_success,
    payload_of,
    read_body,
)
from wats.graph.transfers import (
    TRANSFER_SECONDS,
    TransferLimits,
    TransferSlots,
)
from wats.privacy import Secret
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome
from wats.version import __version__

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 20.0
TOTAL_SECONDS: Final = 30.0
MAX_CONNECTIONS: Final = 100
MAX_ANSWER_BYTES: Final = 1024 * 1024
# Shorter than servers keep idle connections, so that a request rarely meets one being closed.
KEEP_ALIVE_SECONDS: Final = 15.0

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_VERSION: Final = re.compile(r"v[0-9]+(\.[0-9]+)?")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_JSON: Final = "application/json"
_NO_TYPE: Final = ("content-type",)


Query: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]


class GraphCalls:
    """Calls Graph, with one pool of connections, bounded in number, time and size.

    The access token is sent to the host of *base_url* and Meta's hosts of media only: redirects are
    not followed, and a proxy is used only if it is given, and sees encrypted bytes if *base_url* is
    https. A POST, PUT, PATCH or DELETE is written at most once.

    Args:
        base_url: Graph's address; its path or query is kept.
        version: Graph's version, as `v25.0`.
        access_token: The bearer token.
        app_secret: The secret of the app that the token belongs to. With it, each call carries the
            `appsecret_proof` of the token, which Meta can require.
        telemetry: Records every call that left the process, once.
        session: A session to use instead of one of our own. Its owner closes it, and sets the
            limits of its connector and its proxies.
        connect_seconds: The time limit for a connection: a free slot, DNS, TCP and TLS.
        read_seconds: The longest silence while waiting for a response.
        total_seconds: The time limit of a call; more than *connect_seconds*, so that exceeding it
            always means that the request was written.
        proxy: The URL of a forward proxy, for a session of our own.
        max_connections: The limit of concurrent connections; further calls wait for a free one.
        max_answer_bytes: The longest body that is read, after decompression.

    Raises:
        ConfigError: An argument is not usable.
    """

    def __init__(
        self,
        *,
        base_url: str,
        version: str,
        access_token: Secret,
        telemetry: OperationRecorder,
        app_secret: Secret | None = None,
        session: aiohttp.ClientSession | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
        proxy: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        base = urlsplit(base_url)
        checks = {
            ConfigIssue("invalid_url", "graph.baseUrl", "must be an http(s) URL with a host"): (
                base.scheme in {"http", "https"} and base.hostname and "@" not in base.netloc
            ),
            ConfigIssue("invalid_version", "graph.apiVersion", "must look like 'v25.0'"): (
                _VERSION.fullmatch(version)
            ),
            ConfigIssue(
                "invalid_timeout", "graph", "must be shorter than the timeout of the whole call"
            ): (0 < connect_seconds < total_seconds and read_seconds > 0),
        }
        if issues := [issue for issue, is_fine in checks.items() if not is_fine]:
            raise ConfigError(issues)
        self._root = f"{base.scheme}://{base.netloc}{base.path.rstrip('/')}/{version}/"
        self._query = base.query
        self._app_secret = app_secret
        self._hidden: set[bytes] = set()
        """The tokens, and their proofs, of this client and of all with its connections."""
        self._use(access_token)
        self._roots = (self._root, f"{PUBLIC_ROOT}/{version}/")
        self._telemetry = telemetry
        self._session = SharedSession(
            session, limit=max_connections, keep_alive_seconds=KEEP_ALIVE_SECONDS
        )
        self._timeout = aiohttp.ClientTimeout(
            total=total_seconds, connect=connect_seconds, sock_read=read_seconds
        )
        self._transfer_timeout = aiohttp.ClientTimeout(
            total=TRANSFER_SECONDS, connect=connect_seconds, sock_read=read_seconds
        )
        self._limits = TransferLimits(read_seconds, total_seconds)
        self._transfers = TransferSlots(max_connections)
        self._proxy = proxy if session is None else None
        self._max_answer_bytes = max_answer_bytes

    def _use(self, access_token: Secret) -> None:
        token = access_token.reveal()
        if _TOKEN.fullmatch(token) is None:
            reason = "must be 1 to 4096 visible ASCII"
            raise ConfigError([ConfigIssue("invalid_token", "auth.accessToken", reason)])
        proof = proof_of(access_token, self._app_secret)
        self._own_hidden = forms_of(token) | forms_of(proof.partition("=")[2])
        self._hidden |= self._own_hidden
        self._base_query = joined(self._query, proof)
        self._headers = {
            "authorization": f"Bearer {token}",
            "user-agent": f"wats/{__version__}",
        }

    def with_token(self, access_token: Secret) -> Self:
        """Return a client with another token, which has the connections and limits of this one.

        Raises:
            ConfigError: The token is not usable.
        """
        other = copy(self)
        other._use(access_token)
        return other

    async def start(self) -> None:
        """Make the session, unless one was given. Is idempotent."""
        await self._session.start()

    async def close(self) -> None:
        """Close the session if it is ours. May be called twice."""
        await self._session.close()

    async def call(
        self,
        family: EndpointFamily,
        method: str,
        segments: Sequence[str],
        *,
        query: Mapping[str, str] | None = None,
        payload: bytes | None = None,
    ) -> GraphResponse:
        """Send one request and return Graph's response.

        A 2xx response that holds an `error` object is a success: the status means that the request
        was carried out, and a caller that finds no result in it must not send it again.

        A cancelled call may have been carried out; the caller that cancels must assume so.

        Args:
            family: The endpoint family of the call, for telemetry.
            method: GET, POST, PUT, PATCH or DELETE, in any letter case.
            segments: The parts of the path after the version.
            query: Query parameters.
            payload: JSON as bytes, which are passed on unchanged.

        Raises:
            MalformedRequest: The path cannot be sent; no request was written.
            GraphRefused: Graph responded and did not carry the request out.
            GraphUnreachable: The request was never written, or is a read without a response; it can
                be sent again.
            GraphOutcomeUnknown: The request was written, and no response proves a refusal; it must
                not be sent again.
        """
        verb = method.upper()
        if verb not in _METHODS:
            msg = "'method' must be GET, POST, PUT, PATCH or DELETE."
            raise ValueError(msg)
        url = self._url(segments, query)
        session = self._session.get()
        return await self._recorded(family, verb, self._exchange(session, verb, url, payload))

    async def _recorded(
        self, family: EndpointFamily, verb: str, exchange: Coroutine[Any, Any, RawResponse]
    ) -> GraphResponse:
        """Run *exchange*, record its outcome and return Graph's response.

        An exchange that fails for another reason than Graph, such as a client that gave an upload
        up, is not recorded.
        """
        reply: RawResponse | None = None
        is_of_graph = True
        began = time.perf_counter()
        try:
            reply = self._redacted(await exchange)
        except Exception as error:
            is_of_graph = isinstance(error, GraphError)
            raise
        finally:
            status = reply.status if reply is not None else 0
            outcome = Outcome.SUCCESS if is_success(status) else Outcome.ERROR
            if is_of_graph:
                self._telemetry.operation(family, status, outcome, time.perf_counter() - began)
        if not is_success(reply.status):
            failure = failure_of(verb, reply)
            if failure.is_reported:
                self._telemetry.error(ErrorCategory(failure.diagnostics.category))
            raise failure
        return GraphResponse(reply.status, payload_of(reply), reply.body)

    def _redacted(self, reply: RawResponse) -> RawResponse:
        """Return *reply* without our access token, which is in Graph's links to further pages."""
        body = without(reply.body, self._own_hidden)
        return reply if body is reply.body else msgspec.structs.replace(reply, body=body)

    def _url(self, segments: Sequence[str], query: Query | None) -> URL:
        path, search = _path_of(tuple(segments)), self._base_query
        if query:
            search = joined(search, urlencode(query, errors="replace"))
        return URL(f"{self._root}{path}?{search}" if search else self._root + path, encoded=True)

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, url: URL, payload: bytes | None
    ) -> RawResponse:
        data = payload if payload is None else BytesPayload(payload, content_type=_JSON)
        try:
            response = await session.request(
                method,
                url,
                data=data,
                headers=self._headers,
                skip_auto_headers=None if payload is not None else _NO_TYPE,
                allow_redirects=False,
                raise_for_status=False,
                timeout=self._timeout,
                proxy=self._proxy,
                middlewares=READING if method == "GET" else WRITING,
            )
            try:
                body = await read_body(response, self._max_answer_bytes)
            finally:
                response.release()  # `async with` awaits three more coroutines for that
            return RawResponse(response.status, response.headers, body)
        except (aiohttp.ClientError, TimeoutError) as exc:
            was_written = not isinstance(exc, NEVER_WRITTEN)
            raise without_response(method, exc, was_written=was_written) from None


@lru_cache(maxsize=64)
def _path_of(segments: tuple[str, ...]) -> str:
    """Return the path of *segments*; sends of a business number have the same.

    Raises:
        MalformedRequest: A segment is not usable.
    """
    return "/".join(encoded(segment, index) for index, segment in enumerate(segments))
