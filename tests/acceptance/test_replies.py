"""Handlers that reply, in the whole service, against a Meta that fails."""

import asyncio
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wats import Sent, Update
from wats.config import InboxConfig
from wats.content import Text
from wats.errors import IdempotencyConflict, NotStarted
from wats.service import create_wats_service_app
from wats.simulator import Simulator, SimulatorSettings
from wats.testing import example_profile, example_secrets

ECHO = """\
from wats import Update
from wats.content import Text


async def on_update(update: Update) -> None:
    match update.message:
        case Text(body=body):
            await update.reply(body)
"""
CUSTOMER = "15550001234"
CUT_AFTER_ACCEPTING = "15550000009"


def texts_of(simulator: Simulator) -> list[Any]:
    return [message.payload["text"] for message in simulator.accepted]


async def echo(update: Update) -> None:
    match update.message:
        case Text(body=body):
            await update.reply(body)


@pytest.mark.parametrize("has_store", [True, False])
async def test_an_echo_bot_answers_each_text_once(open_gateway, until, has_store) -> None:
    async with open_gateway(handlers=[echo], has_store=has_store) as gateway:
        gateway.simulator.inbound(CUSTOMER, "Hello")
        gateway.simulator.inbound(CUSTOMER, message={"type": "location", "location": {}})
        await until(lambda: gateway.simulator.accepted)
        await gateway.simulator.settle()

        (sent,) = gateway.simulator.accepted
        assert (sent.recipient, sent.payload["text"]) == (CUSTOMER, {"body": "Hello"})
        assert gateway.simulator.counts.sends == 1
        assert gateway.log == []


async def test_a_retry_sends_no_reply_of_an_earlier_attempt_again(open_gateway, until) -> None:
    results: list[list[Sent]] = []

    async def fail_twice(update: Update) -> None:
        if update.message is None:
            return
        results.append([await update.reply("One"), await update.reply("Two")])
        if len(results) < 3:
            raise ConnectionError
        results[-1].append(await update.reply("Three"))

    async with open_gateway(handlers=[fail_twice]) as gateway:
        gateway.simulator.inbound(CUSTOMER, "Hello")
        await until(lambda: len(results) == 3 and len(results[2]) == 3)

        assert [text["body"] for text in texts_of(gateway.simulator)] == ["One", "Two", "Three"]
        assert [[each.is_replayed for each in attempt] for attempt in results] == [
            [False, False],
            [True, True],
            [True, True, False],
        ]
        assert results[0][0].message_id == results[2][0].message_id is not None


async def test_each_handler_of_an_update_sends_its_reply(open_gateway, until) -> None:
    async def greet(update: Update) -> None:
        if update.message is not None:
            await update.reply("Hello")

    async def thank(update: Update) -> None:
        if update.message is not None:
            await update.reply("Thank you")

    async with open_gateway(handlers=[greet, thank]) as gateway:
        gateway.simulator.inbound(CUSTOMER, "Hi")
        await until(lambda: len(gateway.simulator.accepted) == 2)

        bodies = Counter(text["body"] for text in texts_of(gateway.simulator))
        assert bodies == {"Hello": 1, "Thank you": 1}


async def test_conversations_at_the_same_time_keep_their_replies_apart(open_gateway, until) -> None:
    async def answer(update: Update) -> None:
        match update.message:
            case Text(body=body):
                await update.mark_read(typing=True)
                await asyncio.sleep(0.01)
                await update.reply(body)
                await update.reply(f"{body} again")

    async with open_gateway(handlers=[answer]) as gateway:
        customers = [f"155500010{number:02}" for number in range(20)]
        for customer in customers:
            gateway.simulator.inbound(customer, f"from {customer}")
        await until(lambda: len(gateway.simulator.accepted) == 40)

        for customer in customers:
            sent = [each for each in gateway.simulator.accepted if each.recipient == customer]
            assert [each.payload["text"] for each in sent] == [
                {"body": f"from {customer}"},
                {"body": f"from {customer} again"},
            ]
        assert gateway.simulator.counts.read_marks == 20


async def test_a_reply_with_an_unknown_outcome_is_not_sent_again_and_blocks_nothing(
    open_gateway, until
) -> None:
    results: list[Sent] = []

    async def answer(update: Update) -> None:
        if update.message is not None:
            results.append(await update.reply("Hello"))

    async with open_gateway(handlers=[answer]) as gateway:
        gateway.simulator.inbound(CUT_AFTER_ACCEPTING, "Hi")
        await until(lambda: results)

        assert results == [Sent(message_id=None, is_replayed=True, is_certain=False)]
        assert gateway.simulator.counts.sends == 1
        failed = [line for line in gateway.log if line["event"] == "wats.handler.failed"]
        assert [line["errorName"] for line in failed] == ["GraphOutcomeUnknown"]


async def test_another_reply_in_a_retry_is_a_conflict_unless_it_has_a_key(
    open_gateway, until
) -> None:
    attempts = 0
    caught: list[str] = []

    async def answer(update: Update) -> None:
        nonlocal attempts
        if update.message is None:
            return
        attempts += 1
        try:
            await update.reply(f"Attempt {attempts}")
        except IdempotencyConflict as error:
            caught.append(error.code)
            await update.reply("Named", key="named")
            return
        raise ConnectionError

    async with open_gateway(handlers=[answer]) as gateway:
        gateway.simulator.inbound(CUSTOMER, "Hi")
        await until(lambda: len(gateway.simulator.accepted) == 2)

        assert caught == ["idempotency_conflict"]
        assert [text["body"] for text in texts_of(gateway.simulator)] == ["Attempt 1", "Named"]


async def test_a_reply_to_a_status_is_a_failure_with_a_name_and_a_position(
    open_gateway, until
) -> None:
    async def careless(update: Update) -> None:
        await update.reply("Hello")

    inbox = InboxConfig(max_attempts=1)
    async with open_gateway(handlers=[careless], inbox=inbox) as gateway:
        await gateway.send_text(CUSTOMER)
        await until(lambda: any(line["event"] == "wats.handler.failed" for line in gateway.log))

        failed = next(line for line in gateway.log if line["event"] == "wats.handler.failed")
        assert (failed["errorName"], failed["kind"]) == ("NoMessage", "status")
        assert (failed["file"], failed["line"]) == (
            Path(__file__).name,
            careless.__code__.co_firstlineno + 1,
        )
        assert gateway.simulator.counts.sends == 1


async def test_replies_are_listed_and_counted_like_messages_of_the_http_api(
    open_gateway, until
) -> None:
    async with open_gateway(handlers=[echo]) as gateway:
        gateway.simulator.inbound(CUSTOMER, "Hello")
        await until(lambda: gateway.simulator.accepted)
        await gateway.simulator.settle()

        directions = Counter(message["direction"] for message in await gateway.messages())
        assert directions == {"inbound": 1, "outbound": 1}
        sends = await gateway.samples("send_outcomes_total")
        assert sum(sends.values()) == 1


TEXT = {"to": CUSTOMER, "type": "text", "text": {"body": "Hello"}}


async def test_the_application_sends_any_message_and_shares_keys_with_the_http_api(
    gateway,
) -> None:
    sent = await gateway.app.send(TEXT, idempotency_key="k")
    again = await gateway.app.send(TEXT, idempotency_key="k")
    body = {**TEXT, "messaging_product": "whatsapp"}
    answer = await gateway.ask("POST", "/api/messages", body, headers={"idempotency-key": "k"})

    assert (again.message_id, again.is_replayed) == (sent.message_id, True)
    assert answer.json["messages"][0]["id"] == sent.message_id
    assert answer.headers["idempotency-replayed"] == "true"
    assert gateway.simulator.counts.sends == 1


async def test_an_application_that_is_not_started_sends_nothing(gateway) -> None:
    app = create_wats_service_app(
        profile=example_profile(graph_url=gateway.simulator.url), secrets=example_secrets()
    )

    with pytest.raises(NotStarted):
        await app.send(TEXT)
    await app.start()
    await app.send(TEXT)
    await app.stop()
    with pytest.raises(NotStarted):
        await app.send(TEXT)

    assert gateway.simulator.counts.sends == 1


async def test_handlers_that_finish_during_a_stop_can_reply_and_send(open_gateway, until) -> None:
    app: Any = None
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(update: Update) -> None:
        if update.message is None:
            return
        has_begun.set()
        await may_end.wait()
        await update.reply("Reply")
        await app.send(TEXT, idempotency_key=update.key)

    async with open_gateway(handlers=[slow]) as gateway:
        app = gateway.app
        gateway.simulator.inbound(CUSTOMER, "Hi")
        await has_begun.wait()
        stopping = asyncio.create_task(app.stop())
        await asyncio.sleep(0.05)
        may_end.set()
        await stopping

        bodies = [text["body"] for text in texts_of(gateway.simulator)]
        assert bodies == ["Reply", "Hello"]


KILLED = """\
import os, pathlib, signal

from wats import Update

MARK = pathlib.Path("killed")


async def on_update(update: Update) -> None:
    if update.message is None:
        return
    sent = await update.reply("Hello")
    if not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif sent.is_replayed:
        pathlib.Path("replayed").touch()
"""


def simulated() -> Simulator:
    secrets = example_secrets()
    return Simulator(
        SimulatorSettings(
            app_secret=secrets.app_secrets[0],
            verify_token=secrets.verify_token,
            phone_number_id="15551234567",
            time_factor=0.001,
        )
    )


@pytest.mark.long
async def test_a_reply_that_was_sent_before_a_crash_is_not_sent_after_it(
    serve, until, tmp_path
) -> None:
    (tmp_path / "bot.py").write_text(KILLED)
    options = {"handlers": ["bot:on_update"], "inbox": {"leaseSeconds": 2}}
    async with simulated() as meta:
        async with serve(meta.url, **options) as first:
            meta.set_webhook(f"{first.url}/webhooks/whatsapp")
            meta.inbound(CUSTOMER, "Hi")
            await first.process.wait()
        async with serve(meta.url, **options) as second:
            meta.set_webhook(f"{second.url}/webhooks/whatsapp")
            await until((tmp_path / "replayed").exists)

        assert meta.counts.sends == 1


async def first_line(errors: Path, until: Any, event: str) -> dict[str, Any]:
    """Return the first line of the log with *event*."""

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in errors.read_text().splitlines() if line[0] == "{"]
        return [line for line in found if line["event"] == event]

    await until(lines, 10)
    return lines()[0]


async def test_the_shortest_echo_bot_answers_under_wats_serve(serve, until, tmp_path) -> None:
    (tmp_path / "bot.py").write_text(ECHO)
    async with simulated() as meta, serve(meta.url, handlers=["bot:on_update"]) as service:
        meta.set_webhook(f"{service.url}/webhooks/whatsapp")
        meta.inbound(CUSTOMER, "Hello")
        await until(lambda: meta.accepted)

        assert len(ECHO.splitlines()) <= 8
        assert texts_of(meta) == [{"body": "Hello"}]
        assert service.errors.read_text() == ""


long = partial(pytest.param, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("right", "typo", "event", "error", "line"),
    [
        pytest.param("update.reply", "update.replay", "wats.handler.failed", "AttributeError", 8),
        long("reply(body)", "reply(text)", "wats.handler.failed", "NameError", 8),
        long("Text(body=", "Txt(body=", "wats.handler.failed", "NameError", 7),
        long("reply(body)", "reply(8)", "wats.handler.failed", "TypeError", 8),
        long("reply(body)", 'reply("")', "wats.handler.failed", "MalformedRequest", 8),
        pytest.param("await ", "", "wats.handler.warning", "RuntimeWarning", 8),
    ],
    ids=["attribute", "variable", "class", "argument", "blank", "await"],
)
async def test_a_typo_in_the_echo_bot_is_found_from_the_terminal_in_ten_seconds(
    serve, until, tmp_path, right, typo, event, error, line
) -> None:
    (tmp_path / "bot.py").write_text(ECHO.replace(right, typo))
    async with simulated() as meta, serve(meta.url, handlers=["bot:on_update"]) as service:
        meta.set_webhook(f"{service.url}/webhooks/whatsapp")
        meta.inbound(CUSTOMER, "Hello")

        found = await first_line(service.errors, until, event)

    assert (found["errorName"], found["file"], found["line"]) == (error, "bot.py", line)
    assert found.get("paths") == ("text.body" if error == "MalformedRequest" else None)
