"""Webhooks with messages, for the gateway of a reader."""

import json
from typing import Any

from tests.walk import Reader, request
from wats.testing import sign


def post_messages(reader: Reader, *ids: str) -> dict[str, Any]:
    """Send a webhook with a message for each id, and return the response of the gateway."""
    body = webhook_with(*ids)
    url = f"{reader.url}/webhooks/whatsapp"
    status, answer = request(url, body, **{"x-hub-signature-256": sign(body)})
    assert status == 200
    counts: dict[str, Any] = json.loads(answer)
    return counts


def webhook_with(*ids: str) -> bytes:
    messages = [
        {
            "id": each,
            "from": "15550001234",
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": "Hi"},
        }
        for each in ids
    ]
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"phone_number_id": "109876543210987"},
        "messages": messages,
    }
    change = {"field": "messages", "value": value}
    entry = {"id": "123456789012345", "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
