"""pywa's asynchronous server: on Starlette, as its own runner makes it, or inside a FastAPI app.

Its log stays at WARNING. Its runner would write a line at INFO for each webhook, which takes time.
"""

import os
import sys
from typing import Any

from pywa_async import WhatsApp
from pywa_async.types import Message
from starlette.applications import Starlette

from bench.rivals.asgi import serve


def add_pywa(app: Any) -> WhatsApp:
    """Let pywa serve `/webhook` of *app*, which may be a FastAPI app; return its client."""
    return WhatsApp(
        phone_id=os.environ["BENCH_PHONE_NUMBER_ID"],
        token="unused",
        server=app,
        webhook_endpoint="/webhook",
        verify_token="unused",
        app_secret=os.environ["BENCH_APP_SECRET"],
        validate_updates=True,
    )


async def ignore(_: WhatsApp, __: Message) -> None:
    pass


def make_app(framework: str) -> Starlette:
    """Return an empty application of *framework*; the other one is not imported."""
    if framework == "starlette":
        return Starlette()
    from fastapi import FastAPI

    return FastAPI()


if __name__ == "__main__":
    application = make_app(sys.argv[1])
    add_pywa(application).on_message(ignore)
    serve(application)
