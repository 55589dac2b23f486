"""The floor: an ASGI application that checks the signature, parses the JSON, and drops it."""

import hmac
import os
from typing import Any

import msgspec

from bench.rivals.asgi import serve

_SECRET = os.environ["BENCH_APP_SECRET"].encode()
_ANSWER = b'{"status":"ok"}'
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    signature = b""
    for name, value in scope["headers"]:
        if name == b"x-hub-signature-256":
            signature = value
            break
    expected = "sha256=" + hmac.digest(_SECRET, body, "sha256").hex()
    status = 200 if hmac.compare_digest(expected.encode(), signature) else 401
    msgspec.json.decode(body)
    await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    serve(app)
