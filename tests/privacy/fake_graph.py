"""A Graph that puts a canary into every part of its responses."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

from aiohttp import web

from tests.privacy.asking import FILE_ID
from tests.privacy.canaries import Canaries
from wats.graph.errors import RULES

TRACE = "Graph's trace id"
QUERY_NAMES = ("/api/admin (query name)", "/api/messages (query name)")
"""Unknown query parameters, whose names are repeated to the caller, and not logged."""
"""The place of the one canary that may be seen: Meta's support needs it, so it is logged."""


class FakeGraph:
    """Sends the next of many responses to every call; `served` counts them."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._rules = cycle(RULES)
        ways = self._all_ways()
        self._ways = cycle(ways.items())
        self._runner: web.AppRunner | None = None
        self.served = Counter(dict.fromkeys(ways, 0))
        self.url = ""

    async def __aenter__(self) -> "FakeGraph":
        app = web.Application(client_max_size=2**22)
        app.router.add_route("*", "/{any:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Be gone. May be called twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.method == "GET" and request.path.endswith(f"/{FILE_ID}"):
            return self._file()
        name, way = next(self._ways)
        self.served[name] += 1
        answer = way()
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        for name in ("x-fb-debug", "x-fb-trace-id", f"x-{self._word('header (name)')}"):
            answer.headers[name] = self._word("header")
        answer.headers["set-cookie"] = f"{self._word('cookie (name)')}={self._word('cookie')}"
        return answer

    def _word(self, place: str) -> str:
        return self._canaries.word(f"Graph's {place}")

    def _number(self, place: str) -> str:
        return self._canaries.number(f"Graph's {place}")

    def _all_ways(self) -> dict[str, Callable[[], web.Response | None]]:
        refusals = {
            f"refuses with {status}": partial(self._refusal, status)
            for status in (400, 401, 403, 404, 429, 500, 503)
        }
        return {
            "takes it": self._success,
            "takes it and tells more": lambda: self._said({self._word("key"): self._details()}),
            "takes it and says no JSON": lambda: self._text(200, "application/json"),
            "takes it and says a text": lambda: self._text(200, "text/plain"),
            "takes it and says nothing": lambda: web.Response(status=200),
            "takes it and says a list": lambda: self._said([self._word("list")]),
            "takes it and says an error": lambda: self._refusal(200),
            **refusals,
            "refuses in numbers": self._refusal_in_numbers,
            "refuses with a bare error": lambda: self._said(self._error(), status=400),
            "refuses with a page": lambda: self._text(502, "text/html"),
            "refuses with a list": lambda: self._said([self._word("list")], status=400),
            "throttles": lambda: self._text(429, "text/plain", retry_after=True),
            "sends elsewhere": self._redirect,
            "times out": lambda: self._text(504, "text/html"),
            "hangs up": lambda: None,
        }

    def _said(self, payload: Any, status: int = 200) -> web.Response:
        body = json.dumps(payload).encode()
        return web.Response(
            status=status, body=body, content_type="application/json", reason=self._word("reason")
        )

    def _text(self, status: int, kind: str, *, retry_after: bool = False) -> web.Response:
        headers = {"retry-after": self._word("retry-after")} if retry_after else None
        text = f"<{self._word('text')}>"
        return web.Response(status=status, text=text, content_type=kind, headers=headers)

    def _success(self) -> web.Response:
        wa_id = self._number("wa_id")
        contact = {"input": self._word("input"), "wa_id": wa_id, "user_id": self._word("user id")}
        message = {"id": f"wamid.{self._word('wamid')}", "message_status": self._word("status")}
        return self._said(
            {
                "messaging_product": self._word("product"),
                "contacts": [contact],
                "messages": [message],
                "id": self._number("group id"),
                self._word("key"): self._word("value"),
            }
        )

    def _file(self) -> web.Response:
        return self._said(
            {
                "messaging_product": "whatsapp",
                "url": f"{self.url}/{self._word('file path')}?{self._word('file query')}",
                "mime_type": f"image/{self._word('file type')}",
                "sha256": self._word("file hash"),
                "file_size": self._word("file size"),
                "id": self._number("file id"),
                self._word("key"): self._details(),
            }
        )

    def _details(self) -> Any:
        return {"inner": [self._word("list"), int(self._number("list"))], self._word("key"): 1}

    def _error(self) -> dict[str, Any]:
        rule = next(self._rules)
        return {
            "message": f"(#{rule.code}) {self._word('message')} {self._number('message')}",
            "type": self._word("type"),
            "code": rule.code,
            "error_subcode": rule.subcode or int(self._number("subcode")),
            "error_data": {"details": self._word("details"), self._word("key"): self._details()},
            "error_user_title": self._word("title"),
            "error_user_msg": self._word("user message"),
            "fbtrace_id": self._canaries.word(TRACE),
            "is_transient": self._word("is_transient"),
            self._word("key"): self._word("value"),
        }

    def _refusal(self, status: int) -> web.Response:
        answer = self._said({"error": self._error()}, status=status)
        answer.headers["www-authenticate"] = f'OAuth "{self._word("www-authenticate")}"'
        answer.headers["retry-after"] = self._number("retry-after")
        return answer

    def _refusal_in_numbers(self) -> web.Response:
        names = ("message", "type", "code", "error_subcode", "fbtrace_id")
        error = {name: int(self._number(name)) for name in names}
        texts = {"code": self._number("code"), "type": f"to{self._number('type')}"}
        return self._said({"error": {**error, **texts}}, status=400)

    def _redirect(self) -> web.Response:
        location = f"http://{self._word('location')}.example/{self._word('location')}"
        return web.Response(status=302, headers={"location": location})
