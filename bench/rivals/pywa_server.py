"""pywa's asynchronous server as its own runner makes it: Starlette, with signatures checked.

Its log stays at WARNING. Its runner would write lines at INFO, and those would cost it more.
"""

import os

from pywa_async import WhatsApp
from pywa_async.types import Message
from starlette.applications import Starlette

from bench.rivals.asgi import serve


def make_app() -> tuple[Starlette, WhatsApp]:
    """Return pywa's application, and the client that handlers are added to."""
    app = Starlette()
    client = WhatsApp(
        phone_id=os.environ["BENCH_PHONE_NUMBER_ID"],
        token="unused",
        server=app,
        webhook_endpoint="/webhook",
        verify_token="unused",
        app_secret=os.environ["BENCH_APP_SECRET"],
        validate_updates=True,
    )
    return app, client


async def ignore(_: WhatsApp, __: Message) -> None:
    pass


if __name__ == "__main__":
    application, whatsapp = make_app()
    whatsapp.on_message(ignore)
    serve(application)
