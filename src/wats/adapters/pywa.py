"""Passes updates to a client of pywa in the same process.

    @app.on("message", "status")
    async def bot(update: Update) -> None:
        await feed(client, update)

pywa catches the exceptions of its handlers and logs them. `feed` raises them, so that a failed
call is a failed attempt. `reply_key` has the idempotency keys for messages that pywa sends.
"""

import asyncio
import hashlib
import inspect
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
from typing_extensions import override

from wats.extras import install_command
from wats.inbound.replies import current_outlet
from wats.inbound.updates import Update
from wats.subscribers.envelopes import encode_envelope

try:
    from pywa.client import WhatsApp
except ModuleNotFoundError as error:
    if install := install_command(error):
        error.add_note(f"Run: {install}")
    raise

__all__ = ["PywaLogDisabled", "feed", "reply_key"]

_LOGGER: Final = logging.getLogger("pywa.server")
"""The logger of the calls of handlers, of both the async and the sync client."""

_CUSTOMERS: Final = (
    ("recipient_participant_user_id", "recipient_participant_id"),
    ("recipient_user_id", "recipient_id"),
    ("from_user_id", "from"),
)
"""The members that name the customer of an item, by user id and by number."""

_CALLS: Final = count()


class _Pass(NamedTuple):
    """A call of `feed`: the exceptions that pywa caught, and the keys of messages."""

    caught: list[BaseException]
    keys: Iterator[str]


_PASS: ContextVar[_Pass | None] = ContextVar("wats_pywa_pass", default=None)


class PywaLogDisabled(Exception):
    """Errors of the logger `pywa.server` are disabled, so failures of handlers cannot be found."""

    def __init__(self) -> None:
        super().__init__("Enable errors of the logger 'pywa.server'.")


class _Failures(logging.Filter):
    """Notes the exceptions that pywa catches during a call of `feed`; rejects no record."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        current = _PASS.get()
        if current is not None and record.exc_info and record.exc_info[1] is not None:
            current.caught.append(record.exc_info[1])
        return True


_LOGGER.addFilter(_Failures())


async def feed(client: WhatsApp, update: Update) -> None:
    """Pass *update* to the handlers of *client*, and raise the first exception that they raised.

    An async client (`pywa_async`) runs in the event loop, a sync one (`pywa`) in a thread. A retry
    calls all matching handlers again.

    Raises:
        NoHandlerCall: No handler of a running service is being called.
        PywaLogDisabled: The client was not called.
        Exception: A handler or a filter of *client* failed, or pywa could not read the update.
    """
    if not _LOGGER.isEnabledFor(logging.ERROR):
        raise PywaLogDisabled
    current = _Pass([], _keys_of(update, current_outlet().name))
    token = _PASS.set(current)
    try:
        await _pass_on(client, _body_of(update))
    finally:
        _PASS.reset(token)
    if current.caught:
        raise current.caught[0]


def reply_key() -> str | None:
    """Return the idempotency key of the next message that a handler of pywa sends.

    It is derived from the update, the handler that called `feed`, and the number of keys so far, so
    that a retry which sends the same messages has the same keys. `None` outside of `feed`.
    """
    current = _PASS.get()
    return None if current is None else next(current.keys)


def _keys_of(update: Update, name: str) -> Iterator[str]:
    return (
        hashlib.sha256(f"{update.key} {number} {name}".encode()).hexdigest() for number in count()
    )


async def _pass_on(client: WhatsApp, body: bytes) -> None:
    call = client.webhook_update_handler
    if inspect.iscoroutinefunction(call):
        await call(body)
    else:
        await asyncio.to_thread(call, body)


def _body_of(update: Update) -> bytes:
    """Return the webhook body of *update*, with the contact that pywa needs.

    Each body is different: pywa ignores a body that it has seen, and a retry must not be ignored.
    """
    contact = {"user_id": None, **(update.contact or _customer_in(update.raw))}
    whole = msgspec.structs.replace(update, contact=contact)
    return b'%b,"wats_call":%d}' % (encode_envelope(whole, "")[:-1], next(_CALLS))


def _customer_in(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the ids in *raw*; Meta sends no contact with failed statuses, among others."""
    for user, phone in _CUSTOMERS:
        found = {"user_id": raw.get(user), "wa_id": raw.get(phone)}
        if any(found.values()):
            return found
    return {}
