"""The window guard in the whole service: webhooks, requests and handlers."""

import time
from typing import Any

from tests.settings import NUMBER_ID, WABA_ID
from wats import Update
from wats.config import MessagesConfig
from wats.errors import WindowClosed

CUSTOMER = "15550001234"
GUARDED = MessagesConfig(window_guard=True)
DAY = 86_400


def message_of(age_seconds: int) -> dict[str, Any]:
    """Return a webhook with a message that the customer wrote *age_seconds* ago."""
    item = {
        "id": f"wamid.{age_seconds}",
        "from": CUSTOMER,
        "timestamp": str(int(time.time()) - age_seconds),
        "type": "text",
        "text": {"body": "Hello"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550000000", "phone_number_id": NUMBER_ID},
        "messages": [item],
    }
    change = {"field": "messages", "value": value}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": WABA_ID, "changes": [change]}],
    }


async def test_the_window_follows_the_times_of_the_customers_messages(open_gateway) -> None:
    async with open_gateway(messages=GUARDED) as gateway:
        assert (await gateway.webhook(message_of(2 * DAY))).status == 200
        refused = await gateway.send_text(CUSTOMER, key="order-1")
        window = (await gateway.ask("GET", f"/api/conversations/{CUSTOMER}/window")).json
        assert (await gateway.webhook(message_of(60))).status == 200
        sent = await gateway.send_text(CUSTOMER, key="order-1")

        assert (refused.status, refused.code, window["open"]) == (409, "window_closed", False)
        assert sent.status == 200
        assert [message.recipient for message in gateway.simulator.accepted] == [CUSTOMER]


async def test_a_handler_replies_with_a_template_to_a_message_that_arrives_late(
    open_gateway, until
) -> None:
    async def answer(update: Update) -> None:
        if update.message is None:
            return
        try:
            await update.reply("Hello")
        except WindowClosed:
            await update.reply_template("hello", "en_US")

    async with open_gateway(handlers=[answer], messages=GUARDED) as gateway:
        for age in (2 * DAY, 60):
            seen = len(gateway.simulator.accepted)
            await gateway.webhook(message_of(age))
            await until(lambda: len(gateway.simulator.accepted) > seen)  # noqa: B023

        types = [message.payload["type"] for message in gateway.simulator.accepted]
        assert types == ["template", "text"]
        assert gateway.log == []


async def test_a_marketing_message_reaches_the_customer_outside_of_the_window(
    open_gateway,
) -> None:
    template = {"name": "sale", "language": {"code": "en_US"}}
    body = {
        "messaging_product": "whatsapp",
        "to": CUSTOMER,
        "type": "template",
        "template": template,
    }
    async with open_gateway(messages=GUARDED) as gateway:
        await gateway.webhook(message_of(2 * DAY))
        answer = await gateway.ask("POST", "/api/marketing_messages", body)
        await gateway.simulator.settle()

        (accepted,) = answer.json["messages"]
        assert (answer.status, accepted["message_status"]) == (200, "accepted")
        message = (await gateway.ask("GET", f"/api/messages/{accepted['id']}")).json
        assert [each["status"] for each in message["statuses"]] == ["sent", "delivered", "read"]
