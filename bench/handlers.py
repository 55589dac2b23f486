"""The handlers of the measured services."""

import asyncio

from wats.inbound.updates import Update

WAIT_SECONDS = 0.02


async def ignore(_: Update) -> None:
    """Do nothing."""


async def ignore_too(_: Update) -> None:
    """Do nothing, as a second handler."""


async def read(update: Update) -> None:
    """Read the message and its content."""
    message = update.message
    if message is None or message.content is None:
        raise ValueError


async def wait(_: Update) -> None:
    """Wait as long as a request to another service takes."""
    await asyncio.sleep(WAIT_SECONDS)
