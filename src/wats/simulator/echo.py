"""The echo of a sandbox: a reply to each text of a customer."""

from typing import Final

from wats.errors import GraphError
from wats.inbound.updates import Update
from wats.log import Log

REPLY: Final = "Your message has arrived."


class Echo:
    """A handler that replies to each text once, and never to the text of its own replies.

    Args:
        log: Receives an event for each reply.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    async def __call__(self, update: Update) -> None:
        """Reply to *update*, if a customer wrote a text."""
        text = update.raw.get("text")
        body = text.get("body") if isinstance(text, dict) else None
        if update.message is None or body in {None, REPLY}:
            return
        failure = None
        try:
            await update.reply(REPLY)
        except GraphError as error:
            failure = error.diagnostics
        self._log(
            {
                "event": "wats.echo.reply",
                "outcome": "sent" if failure is None else "failed",
                "metaCode": None if failure is None else failure.meta_code,
                "metaSubcode": None if failure is None else failure.meta_subcode,
            }
        )
