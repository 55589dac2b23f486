"""The echo of a sandbox: a reply to each text of a customer, sent by the API of the service."""

from http import HTTPStatus
from typing import Any, Final

import aiohttp

from wats.inbound.updates import Update
from wats.log import Log

REPLY: Final = "Your message has arrived."


class Echo:
    """A handler that replies to each text once, and never to the text of its own replies.

    Args:
        session: A client session with the token of the service.
        path: The path of the route that sends a text.
        log: Receives an event for each reply.
    """

    def __init__(self, session: aiohttp.ClientSession, path: str, *, log: Log) -> None:
        self._session = session
        self._path = path
        self._log = log
        self.url = ""
        """The URL of the service, once it is known."""

    async def __call__(self, update: Update) -> None:
        """Reply to *update*, if a customer wrote a text."""
        message = update.message
        text = update.raw.get("text")
        body = text.get("body") if isinstance(text, dict) else None
        if message is None or message.type != "text" or body == REPLY:
            return
        async with self._session.post(
            self.url + self._path,
            json={"to": message.sender.wa_id, "text": REPLY},
            headers={"idempotency-key": f"echo-{update.key}"},  # a retry sends nothing
        ) as response:
            error: dict[str, Any] = {}
            if response.status != HTTPStatus.OK:
                error = (await response.json())["error"]
        self._log(
            {
                "event": "wats.echo.reply",
                "outcome": "failed" if error else "sent",
                "metaCode": error.get("metaCode"),
                "metaSubcode": error.get("metaSubcode"),
            }
        )
