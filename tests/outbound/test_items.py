from collections.abc import Collection

import pytest

from wats.outbound.items import NUMBER_NOT_CONFIGURED, obstacle
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
