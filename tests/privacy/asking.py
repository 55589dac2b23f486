"""Every possible request, with a canary wherever there is room for one."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from tests.privacy.canaries import Canaries
from tests.privacy.planting import APT, FORMS, Form, Planter, hostile, long, webhook_bodies
from wats.outbound.composers import COMPOSERS
from wats.outbound.composers.examples import example_of
from wats.testing import sign
from wats.web.routing import Operation, Route

BEARER = "Bearer "

_ID = "00000000-0000"
_IMAGE = {"id": _ID, "link": "https://x.example/y", "caption": "C c"}
_CONTACT = {
    "name": {"formatted_name": "A B", "first_name": "A", "last_name": "B"},
    "phones": [{"phone": "+15550001111", "wa_id": "15550001111", "type": "WORK"}],
    "emails": [{"email": "a@b.example", "type": "WORK"}],
    "addresses": [{"street": "1 S", "city": "C c", "zip": "1", "country_code": "us"}],
    "urls": [{"url": "https://x.example", "type": "WORK"}],
    "org": {"company": "A B", "department": "D d", "title": "T t"},
    "birthday": "2000-01-01",
}
CONTENTS: Mapping[str, Any] = {
    "text": {"body": "Hello there", "preview_url": True},
    "image": _IMAGE,
    "video": _IMAGE,
    "audio": {"id": _ID},
    "document": {**_IMAGE, "filename": "F f.pdf"},
    "sticker": {"id": _ID},
    "location": {"latitude": 52.5, "longitude": 13.4, "name": "N n", "address": "A a"},
    "contacts": [_CONTACT],
    "reaction": {"message_id": "wamid.X", "emoji": "\U0001f44d"},
    "interactive": {
        "type": "button",
        "header": {"type": "text", "text": "H h"},
        "body": {"text": "B b"},
        "footer": {"text": "F f"},
        "action": {"buttons": [{"type": "reply", "reply": {"id": "I i", "title": "T t"}}]},
    },
    "template": {
        "name": "T t",
        "language": {"code": "E n"},
        "components": [
            {
                "type": "body",
                "parameters": [
                    {"type": "text", "text": "P p"},
                    {"type": "currency", "currency": {"fallback_value": "1", "amount_1000": 1000}},
                ],
            }
        ],
    },
    "not_known_yet": {"member": {"inner": ["I i", 15550001111]}},
}
"""The content of a message of each type, in Graph's own form."""

GROUP_BODIES: Mapping[str, Any] = {
    "createGroup": {
        "subject": "S s",
        "description": "D d",
        "joinApprovalMode": "approval_required",
    },
    "updateGroup": {"subject": "S s", "description": "D d", "joinApprovalMode": "auto_approve"},
    "removeParticipants": {"waIds": ["15550001111", "U.s"]},
    "approveJoinRequests": {"joinRequestIds": ["J j", "J k"]},
    "rejectJoinRequests": {"joinRequestIds": ["J j"]},
}

PULLER = "batch"

ADMIN_BODIES: Mapping[str, Any] = {
    "changeConsumer": {"paused": False},
    "retryDeadLetters": {"ids": ["1", "2"]},
    "replayDeliveries": {"ids": ["1", "2"], "consumer": "h:h"},
    "discardDeliveries": {"ids": ["1", "2"]},
    "retryOutboxItems": {"ids": ["1", "2"], "evenUnknown": True},
    "discardOutboxItems": {"ids": ["1", "2"]},
    "erasePerson": {"user": "15550001111", "dryRun": False, "searchFiles": True, "cursor": None},
}

HANDLER = "tests.privacy.hostile:fail"
"""A handler of the service."""

FILE_ID = "900000000000001"
"""The id of the one file that the fake Graph describes."""

GRAPH_WAYS = 30
"""At least as many as the fake Graph has responses."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


class Ask(NamedTuple):
    """A request.

    Attributes:
        what: The kind of request that it is an example of.
        is_webhook: Whether it is one that has to be taken, and how many updates it `emits`.
        raw: The complete bytes, if the request cannot be built from parts.
    """

    what: str
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_webhook: bool = False
    emits: int | None = None
    raw: bytes | None = None

    def __repr__(self) -> str:
        return f"<{self.what}>"

    def encode(self) -> bytes:
        """Return it as it is sent."""
        if self.raw is not None:
            return self.raw
        length = [("content-length", str(len(self.body)))] if self.body else []
        lines = [f"{name}: {value}" for name, value in (("host", "x"), *self.headers, *length)]
        head = "\r\n".join([f"{self.method} {self.target} HTTP/1.1", *lines, "", ""])
        return head.encode("latin-1") + self.body


class Asker:
    """Makes the requests for one service.

    Args:
        table: Its routes.
        hook: The path of its webhook.
        secrets: Its `token`, `telemetry_token`, `app_secret` and `verify_token`.
    """

    def __init__(
        self,
        canaries: Canaries,
        table: Sequence[Route],
        *,
        hook: str,
        secrets: Mapping[str, str],
    ) -> None:
        self._canaries = canaries
        self._table = table
        self._hook = hook
        self._secrets = secrets
        self._authorized = (("authorization", BEARER + secrets["token"]),)

    def everything(self) -> Iterator[Ask]:
        """Yield every request."""
        yield from self.webhooks()
        yield from self.webhooks_that_are_refused()
        yield from self.challenges()
        yield from self.messages()
        yield from self.group_changes()
        yield from self.read_marks()
        yield from self.media()
        yield from self.graph_calls()
        yield from self.what_works()
        yield from self.admin()
        yield from self.every_route()
        yield from self.tokens()
        yield from self.paths_that_lead_nowhere()
        yield from self.broken_bodies()

    def webhooks(self) -> Iterator[Ask]:
        """Yield the requests of Meta."""
        for body, is_webhook, emits in webhook_bodies(self._canaries):
            ask = self._webhook("webhook", body)
            yield ask._replace(is_webhook=is_webhook, emits=emits)

    def webhooks_that_are_refused(self) -> Iterator[Ask]:
        """Yield forged requests of Meta, and requests that are not webhooks."""
        word = self._canaries.word
        refused = {word("refused (key)"): word("refused"), "object": word("refused (object)")}
        other = json.dumps(refused).encode()
        for signature in (word("signature"), f"sha256={word('signature')}", "sha256=" + "0" * 64):
            yield self._webhook("refused webhook", other, signature=signature)
        yield Ask("refused webhook", "POST", self._hook, self._luggage(), other)
        for body in (
            word("no JSON").encode(),
            json.dumps(word("no object")).encode(),
            other,
            json.dumps({word("no entry (key)"): [word("no entry")]}).encode(),
            json.dumps({"object": "whatsapp_business_account", "entry": word("entry")}).encode(),
            b"[" * 5000 + word("deep").encode(),
            word("too long").encode() * 300_000,
        ):
            yield self._webhook("refused webhook", body)
        chunked = f"POST {self._hook} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        luggage = "".join(f"{name}: {value}\r\n" for name, value in self._luggage())
        yield Ask("refused webhook", raw=f"{chunked}{luggage}\r\n0\r\n\r\n".encode("latin-1"))

    def challenges(self) -> Iterator[Ask]:
        """Yield the requests that set up a webhook."""
        word, verify = self._canaries.word, self._secrets["verify_token"]
        for mode, token, challenge in (
            ("subscribe", verify, word("challenge")),
            ("subscribe", word("verify token"), word("challenge")),
            ("subscribe", self._canaries.number("verify token"), "1"),
            (word("mode"), verify, word("challenge")),
            ("subscribe", verify, ""),
        ):
            query = {"hub.mode": mode, "hub.verify_token": token, "hub.challenge": challenge}
            query[word("query (name)")] = word("query")
            target = f"{self._hook}?{urlencode(query)}"
            yield Ask("challenge", "GET", target, self._luggage())

    def messages(self) -> Iterator[Ask]:
        """Yield messages of every type, in every form, with keys that are used once and twice."""
        for form_name, form in FORMS.items():
            for kind, content in CONTENTS.items():
                place = f"message {kind} ({form_name})"
                body = self._message(form, place, type=kind, **{kind: content})
                yield self._send("message", "/api/messages", body)
            for composer in COMPOSERS.values():
                place = f"composer {composer.kind} ({form_name})"
                body = self._planted(form, example_of(composer), place)
                fixed = {"type": composer.kind, "to": self._canaries.number(f"{place}.to")}
                yield self._send("message", "/api/messages", {**body, **fixed})
            place = f"marketing message ({form_name})"
            body = self._message(form, place, type="template", template=CONTENTS["template"])
            for _ in range(GRAPH_WAYS):
                yield self._send("marketing message", "/api/marketing_messages", body)
            place = f"text ({form_name})"
            text = self._planted(form, {"to": "15550001111", "text": "Hello there"}, place)
            yield self._send("text message", "/api/messages/text", text)
        # Each of Graph's codes must occur, and only some of its responses have one.
        for _ in range(200):
            yield self.text("text message")
        yield from self._messages_to_others()
        yield from self._messages_with_keys()

    def _messages_to_others(self) -> Iterator[Ask]:
        text = {"type": "text", "text": CONTENTS["text"]}
        user = f"DE.{self._canaries.word('message to a user.recipient')}"
        body = self._planted(APT, {"messaging_product": "whatsapp", **text}, "message to a user")
        yield self._send("message", "/api/messages", {**body, "recipient": user})
        group = {"recipient_type": "group", "to": "G g", **text}
        yield self._send("message", "/api/messages", self._message(APT, "to a group", **group))
        mark = {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": "wamid.X",
            "typing_indicator": {"type": "text"},
        }
        yield self._send("read mark", "/api/messages", self._planted(APT, mark, "read mark"))

    def _messages_with_keys(self) -> Iterator[Ask]:
        for text in (self._canaries.word, self._canaries.number):
            key = ("idempotency-key", text("idempotency key"))
            for _ in range(2):
                to = self._canaries.number("message with a key.to")
                body = {"to": to, "text": text("message with a key.text")}
                for _ in range(2):
                    yield self._send("message with a key", "/api/messages/text", body, key)
        later = ("prefer", "respond-async")
        for number in range(2 * GRAPH_WAYS):  # so that some fail
            key = ("idempotency-key", self._canaries.word(f"key of {number} for later"))
            to, text = self._canaries.number("for later.to"), self._canaries.word("for later.text")
            body = {"to": to, "text": text}
            yield self._send("message for later", "/api/messages/text", body, key, later)
        for bad in (long(self._canaries.word("key that is too long")), "\t"):
            body = {"to": self._canaries.number("bad key"), "text": "x"}
            key = ("idempotency-key", bad)
            yield self._send("bad key", "/api/messages/text", body, key)

    def text(self, what: str) -> Ask:
        """Return a short message."""
        to, text = self._canaries.number(f"{what}.to"), self._canaries.word(f"{what}.text")
        body = {"to": to, "text": text}
        return self._send(what, "/api/messages/text", body)

    def listing(self) -> Ask:
        """Return the requests for the last messages."""
        headers = (*self._authorized, *self._luggage())
        return Ask("listing", "GET", "/api/messages?limit=100", headers)

    def poll(self) -> Ask:
        """Return the request for the updates of the puller."""
        headers = (*self._authorized, *self._luggage())
        return Ask("poll", "GET", f"/api/updates?consumer={PULLER}&limit=100&wait=0", headers)

    def acknowledgements(self, receipts: Sequence[str]) -> Iterator[Ask]:
        """Yield acknowledgements of *receipts*, and those that are refused."""
        word, number = self._canaries.word, self._canaries.number
        good = [{"receipt": each} for each in receipts]
        for updates in (
            [{"receipt": word("receipt")}, {"receipt": word("receipt"), "retry": True}, *good],
            [{"receipt": word("receipt"), "retry": word("retry")}],
            [{word("acknowledgement (name)"): number("acknowledgement")}],
        ):
            yield self._send("acknowledgement", "/api/updates/ack", {"updates": updates})

    def of_message(self, wamid: str, phone_number_id: str) -> Iterator[Ask]:
        """Yield the requests for a sent message, and the status webhooks of that message."""
        target = f"/api/messages/{quote(wamid, safe='')}"
        yield Ask("known message", "GET", target, (*self._authorized, *self._luggage()))
        status = {"id": wamid, "timestamp": str(int(time.time()) + 1), "status": "delivered"}
        status["recipient_id"] = self._canaries.number("status.recipient_id")
        value = {"metadata": {"phone_number_id": phone_number_id}, "statuses": [status]}
        entry = {
            "id": self._canaries.number("status.entry.id"),
            "changes": [{"field": "messages", "value": value}],
        }
        body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        yield self._webhook("webhook", body)._replace(is_webhook=True, emits=1)

    def group_changes(self) -> Iterator[Ask]:
        """Yield every request about groups, in every form."""
        for row, operation in self._operations():
            for form_name, form in FORMS.items():
                if operation.name in GROUP_BODIES:
                    place = f"{operation.name} ({form_name})"
                    body = self._planted(form, GROUP_BODIES[operation.name], place, is_item=True)
                    yield self._call("group change", row, operation, json.dumps(body).encode())

    def read_marks(self) -> Iterator[Ask]:
        """Yield read marks of the route for them."""
        for _ in range(GRAPH_WAYS):
            target = f"/api/messages/{self._canaries.word('read mark (path)')}/read"
            yield self._send("read mark", target, {"typing": True})

    def media(self) -> Iterator[Ask]:
        """Yield uploads with a canary in every place, and requests for a file."""
        word = self._canaries.word
        good, name = b"%PDF-1.7 " + word("file").encode(), f"{word('file name')}.pdf"
        for _ in range(GRAPH_WAYS):
            yield self._upload(good, name, "application/pdf")
        yield self._upload(good, f"{word('file name')}.png", "application/pdf")
        yield self._upload(good, name, word("file type"))
        yield self._upload(good, name, "application/pdf", messaging_product=word("product"))
        yield self._upload(word("no PDF").encode(), name, "application/pdf")
        for _ in range(2 * GRAPH_WAYS):
            path = f"/api/media/{FILE_ID}"
            headers = (*self._authorized, *self._luggage())
            yield Ask("file", "GET", path, headers)
            yield Ask("file", "GET", f"{path}/content?{word('query')}={word('query')}", headers)
            yield Ask("file", "DELETE", path, headers)

    def graph_calls(self) -> Iterator[Ask]:
        """Yield calls of Graph's own API, which are passed on, with a canary in every place."""
        word, number = self._canaries.word, self._canaries.number
        for method in ("GET", "POST", "DELETE") * GRAPH_WAYS:
            target = f"/api/graph/v25.0/{number('id')[:32]}?{word('query')}={word('query')}"
            body = b"" if method == "GET" else word("graph body").encode()
            headers = (*self._authorized, ("content-type", word("type")), *self._luggage())
            yield Ask("graph call", method, target, headers, body)

    def _upload(self, content: bytes, name: str, kind: str, **fields: str) -> Ask:
        word = self._canaries.word
        fields[word("form field (name)")] = word("form field")
        boundary = word("boundary")
        begin = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{begin}"{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
        head = f'{begin}"file"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
        body = "".join((*parts, head)).encode() + content + f"\r\n--{boundary}--\r\n".encode()
        form = ("content-type", f"multipart/form-data; boundary={boundary}")
        headers = (*self._authorized, form, *self._luggage())
        return Ask("upload", "POST", "/api/media", headers, body)

    def what_works(self) -> Iterator[Ask]:
        """Yield each operation in its intended form, often enough for every response of Graph."""
        for row, operation in self._operations():
            for _ in range(GRAPH_WAYS):
                body = self._planted(APT, GROUP_BODIES.get(operation.name), operation.name)
                data = b"" if body is None else json.dumps(body).encode()
                if row.tag == "groups" or not operation.body:
                    yield self._call("what works", row, operation, data)

    def admin(self) -> Iterator[Ask]:
        """Yield each operation for operators, with data that it accepts."""
        for row, operation in self._operations():
            if row.tag == "admin":
                body = dict(ADMIN_BODIES.get(operation.name, {}))
                if "user" in body:
                    body["user"] = self._canaries.number("erased user")
                data = json.dumps(body).encode() if operation.body else b""
                headers = (*self._authorized, *self._luggage())
                target = self._path(row, HANDLER)
                yield Ask("admin", operation.method.value, target, headers, data)

    def every_route(self) -> Iterator[Ask]:
        """Yield each route by each method, with and without a token, and with its possible body."""
        word, number = self._canaries.word, self._canaries.number
        for row, method in product(self._table, METHODS):
            for part in (word(row.label), number(row.label), hostile(word(row.label))):
                query = {each: word(f"{row.label} {each}") for each in self._query_of(row)}
                query[word(f"{row.label} (query name)")] = number(f"{row.label} (query)")
                target = f"{self._path(row, part)}?{urlencode(query)}"
                body = b"" if method in {"GET", "HEAD", "TRACE"} else self._unknown(row.label)
                for token in (self._authorized, (), (("authorization", word("token")),)):
                    headers = (*token, *self._luggage())
                    yield Ask("route", method, target, headers, body)

    def tokens(self) -> Iterator[Ask]:
        """Yield all forms of credentials, for every route."""
        word = self._canaries.word
        good = self._authorized[0][1]
        for row in self._table:
            target = self._path(row, word("path next to a token"))
            for values in (
                [BEARER + word("token")],
                [BEARER + self._canaries.number("token")],
                [f"Basic {word('token')}"],
                [f"{word('scheme')} {word('token')}"],
                [BEARER + long(word("token")) * 20],
                [good, BEARER + word("token")],
                [BEARER + self._secrets["telemetry_token"]],
            ):
                headers = tuple(("authorization", value) for value in values)
                yield Ask("token", "GET", target, (*headers, *self._luggage()))

    def paths_that_lead_nowhere(self) -> Iterator[Ask]:
        """Yield unknown paths, and requests that are not valid."""
        word, number = self._canaries.word, self._canaries.number
        for path in (
            f"/{word('path')}",
            f"/{number('path')}",
            f"/api/{word('path')}",
            f"/api/groups/{word('path')}/{word('path')}",
            f"/metrics/{word('path')}",
            f"//{word('path')}",
            f"/{quote(hostile(word('path')))}",
            f"/{word('path')}/../status",
            f"http://{word('host')}.example/metrics",
            f"/status;{word('path')}#{word('fragment')}",
        ):
            for token in (self._authorized, ()):
                yield Ask("nowhere", "GET", path, (*token, *self._luggage()))
        for start in (
            f"{word('method').upper()} /metrics HTTP/1.1",
            f"GET /{word('path')} {word('version')}",
            f"GET {word('no slash')} HTTP/1.1",
            f"CONNECT {word('host')}:443 HTTP/1.1",
            f"GET /metrics HTTP/1.1\r\n{word('header without a colon')}",
            f"GET /metrics HTTP/1.1\r\ncontent-length: {word('length')}",
            f"GET /metrics HTTP/1.1\r\n{word('long header')}: {word('long header') * 6000}",
            word("no request"),
        ):
            yield Ask("no request", raw=f"{start}\r\nhost: {word('host')}\r\n\r\n".encode())
        begun = f"POST {self._hook} HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: {word('signature')}"
        half = f"{begun}\r\ncontent-length: 999\r\n\r\n{word('half a body')}"
        yield Ask("half a request", raw=half.encode())

    def broken_bodies(self) -> Iterator[Ask]:
        """Yield bodies that no route can use."""
        word = self._canaries.word
        for row, operation in self._operations():
            if operation.body is None or row.path == self._hook:
                continue
            for body in (
                word("no JSON").encode(),
                f'{{"{word("cut off (key)")}": "{word("cut off")}'.encode(),
                json.dumps(word("text")).encode(),
                json.dumps([word("list"), int(self._canaries.number("list"))]).encode(),
                f'{{"to": "{word("no text")}\xff"}}'.encode("latin-1"),
                b"[" * 5000 + word("deep").encode(),
                b'"%b"' % (word("too long").encode() * 100_000),
            ):
                yield self._call("broken body", row, operation, body)

    def _webhook(self, what: str, body: bytes, *, signature: str | None = None) -> Ask:
        if signature is None:
            signature = sign(body, self._secrets["app_secret"])
        headers = (("x-hub-signature-256", signature), *self._luggage())
        return Ask(what, "POST", self._hook, headers, body)

    def _operations(self) -> Iterator[tuple[Route, Operation]]:
        return ((row, operation) for row in self._table for operation in row.operations)

    def _call(self, what: str, row: Route, operation: Operation, body: bytes) -> Ask:
        target = self._path(row, self._canaries.word(f"{what} (path)"))
        headers = (*self._authorized, *self._luggage())
        return Ask(what, operation.method.value, target, headers, body)

    def _send(self, what: str, path: str, body: Any, *headers: tuple[str, str]) -> Ask:
        sent = (*self._authorized, *headers, *self._luggage())
        return Ask(what, "POST", path, sent, json.dumps(body).encode())

    def _message(self, form: Form, place: str, **message: Any) -> Any:
        whole = {"messaging_product": "whatsapp", "to": "15550001111", **message}
        planted = self._planted(form, whole, place)
        if form.keeps_words and "recipient_type" not in message:
            planted["to"] = self._canaries.number(f"{place}.to")
        return planted

    def _planted(self, form: Form, body: Any, place: str, *, is_item: bool = False) -> Any:
        return Planter(self._canaries, form).plant(body, place, is_item=is_item)

    def _unknown(self, place: str) -> bytes:
        word = self._canaries.word
        return json.dumps({word(f"{place} (body key)"): word(f"{place} (body)")}).encode()

    def _path(self, row: Route, part: str) -> str:
        """Return the path of *row* with *part* in place of its variable segment."""
        segments = row.path.split("/")
        part = quote(part, safe="")
        return "/".join(part if each[:1] in {":", "*"} and each else each for each in segments)

    def _query_of(self, row: Route) -> set[str]:
        return {
            parameter.name
            for operation in row.operations
            for parameter in operation.parameters
            if parameter.place == "query"
        }

    def _luggage(self) -> tuple[tuple[str, str], ...]:
        """Return superfluous headers."""
        word, number = self._canaries.word, self._canaries.number
        return (
            ("user-agent", word("user-agent")),
            ("cookie", f"{word('cookie (name)')}={word('cookie')}"),
            ("x-forwarded-for", number("x-forwarded-for")),
            ("traceparent", f"00-{word('traceparent')}-01"),
            (f"x-{word('header (name)')}", word("header")),
        )
