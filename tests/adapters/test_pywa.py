"""A client of pywa in the same process: its handlers are called, and their failures are ours."""

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pywa
import pywa_async
from pywa import filters

from tests.inbound.conftest import CORPUS, RECEIVED_AT
from wats import RetryLater, Update
from wats.adapters.pywa import PywaLogDisabled, feed, reply_key
from wats.errors import NoHandlerCall
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.testing import recorded_replies

NUMBER = "200000000000002"
BODIES = {row["name"]: row["body"] for row in map(json.loads, CORPUS.read_text().splitlines())}


def update_of(name: str) -> Update:
    """Return the update of a body, in the present form of Meta, which has user ids."""
    body = json.dumps(BODIES[name])
    body = body.replace('"wa_id":', '"user_id": "US.1", "wa_id":')
    body = body.replace('"recipient_id":', '"recipient_user_id": "US.1", "recipient_id":')
    (update,) = normalize(parse(body.encode()), received_at=RECEIVED_AT).updates
    return update


@pytest.fixture(autouse=True)
def called() -> Iterator[None]:
    """Run the test as if a handler was being called."""
    with recorded_replies():
        yield


@pytest.fixture(params=[pywa.WhatsApp, pywa_async.WhatsApp], ids=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.param(phone_id=NUMBER, token="unused", validate_updates=False)


@pytest.fixture
def register(client: Any) -> Callable[[Any, Callable[[Any], None]], None]:
    """Add a function of one update by a decorator of the client, async if the client is."""

    def add(decorator: Any, function: Callable[[Any], None]) -> None:
        if isinstance(client, pywa_async.WhatsApp):

            async def asynchronous(_: Any, update: Any) -> None:
                await asyncio.sleep(0)
                function(update)

            decorator(asynchronous)
        else:
            decorator(lambda _, update: function(update))

    return add


async def test_the_handlers_of_a_client_are_called_by_their_kinds(client, register) -> None:
    seen: list[Any] = []
    register(client.on_message(filters.text), lambda update: seen.append(update.text))
    register(client.on_callback_button, lambda update: seen.append(update.title))
    register(client.on_message_status, lambda update: seen.append(update.status.value))
    names = ("message_text", "message_interactive_button_reply", "status_bsuid_recipient")

    for name in names:
        await feed(client, update_of(name))

    assert seen == ["Hello from the fake corpus", "Yes", "delivered"]


async def test_a_status_without_a_contact_has_one_with_its_recipient(client, register) -> None:
    seen: list[Any] = []
    register(client.on_message_status, lambda status: seen.append(status.from_user.wa_id))
    update = update_of("status_failed_re_engagement")

    await feed(client, update)

    assert seen == ["15550002222"]
    assert update.contact is None


async def test_a_customer_without_a_user_id_is_known_by_the_number(client, register) -> None:
    seen: list[Any] = []
    register(client.on_message, lambda message: seen.append(message.chat.id))
    (update,) = normalize(BODIES["message_text"], received_at=RECEIVED_AT).updates

    await feed(client, update)

    assert seen == ["15550002222"]


async def test_an_exception_of_a_handler_is_raised_and_a_retry_is_not_ignored(
    client, register
) -> None:
    calls: list[str] = []

    def fail_once(message: Any) -> None:
        calls.append(message.text)
        if len(calls) == 1:
            raise RetryLater(1)

    register(client.on_message, fail_once)
    update = update_of("message_text")

    with pytest.raises(RetryLater):
        await feed(client, update)
    await feed(client, update)

    assert len(calls) == 2


async def test_an_exception_of_a_filter_is_raised(client, register) -> None:
    register(client.on_message(filters.new(lambda _, __: 1 // 0)), lambda _: None)

    with pytest.raises(ZeroDivisionError):
        await feed(client, update_of("message_text"))


async def test_an_update_that_pywa_cannot_read_is_a_failure(client, register) -> None:
    register(client.on_message, lambda _: None)
    update = update_of("message_text")
    update.raw["timestamp"] = "no time"

    with pytest.raises(ValueError, match="no time"):
        await feed(client, update)


async def test_calls_at_the_same_time_have_their_own_failures(client, register) -> None:
    def fail_for_images(message: Any) -> None:
        if message.image is not None:
            raise KeyError

    register(client.on_message, fail_for_images)
    names = ["message_text", "message_image", "message_text", "message_image"]

    results = await asyncio.gather(
        *(feed(client, update_of(name)) for name in names), return_exceptions=True
    )

    assert [type(each) for each in results] == [type(None), KeyError, type(None), KeyError]


@pytest.fixture
def silenced() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_without_the_log_of_pywa_nothing_is_called(client, register, silenced) -> None:
    seen: list[Any] = []
    register(client.on_message, seen.append)

    with pytest.raises(PywaLogDisabled):
        await feed(client, update_of("message_text"))

    assert seen == []


async def test_a_retry_has_the_keys_of_the_first_attempt(client, register) -> None:
    keys: list[str | None] = []
    register(client.on_message, lambda _: keys.extend([reply_key(), reply_key()]))

    await feed(client, update_of("message_text"))
    await feed(client, update_of("message_text"))
    await feed(client, update_of("message_image"))

    assert keys[:2] == keys[2:4]
    assert len({*keys, None}) == 5
    assert reply_key() is None


async def test_outside_of_a_call_of_a_handler_nothing_is_fed(client) -> None:
    update = update_of("message_text")

    with pytest.raises(NoHandlerCall):
        await asyncio.get_running_loop().create_task(
            feed(client, update), context=contextvars.Context()
        )
