"""The content of outbox items, the parts that lists show, and why an item cannot be sent."""

from collections.abc import Collection

import pytest

from wats.outbound.items import NUMBER_NOT_CONFIGURED, encode_item, number_of, obstacle, type_of
from wats.outbound.messages import parse_graph_message
from wats.outbound.transmit import Transmission
from wats.store.outbox import SendState

NUMBER = "200000000000002"
WAITING = (SendState.QUEUED, SendState.RETRY)


@pytest.mark.parametrize("state", SendState)
@pytest.mark.parametrize("configured", [{NUMBER}, set()], ids=["configured", "removed"])
def test_only_a_waiting_message_of_a_removed_number_has_an_obstacle(
    state: SendState, configured: Collection[str]
) -> None:
    found = obstacle(state, NUMBER, configured)

    is_obstacle = state in WAITING and not configured
    assert found == (NUMBER_NOT_CONFIGURED if is_obstacle else None)


@pytest.mark.parametrize("kind", ["template", "type_of_2027", "x" * 32])
@pytest.mark.parametrize("number", ["1", "15551234567", "9" * 32])
def test_type_and_number_are_read_from_the_beginning_of_an_item(kind: str, number: str) -> None:
    body = b'{"messaging_product":"whatsapp","to":"15550001234","type":"%b","%b":{}}' % (
        (kind.encode(),) * 2
    )
    message = parse_graph_message(body, groups_enabled=False)
    assert message is not None

    item = encode_item(Transmission(body, number, "messages", message), message, nonce=1)

    assert (type_of(item), number_of(item)) == (kind, number)
