"""The handler of the service that is measured."""

from wats.inbound.updates import Update


async def ignore(_: Update) -> None:
    """Do nothing, so that only the way to here is measured."""
