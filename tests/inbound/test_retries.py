import pytest

from wats.config import InboxConfig
from wats.inbound.retries import pause_of, retry_delay, retry_span


def test_the_delay_of_retries_grows_up_to_an_hour() -> None:
    delays = [retry_delay(attempt, 0.0) for attempt in range(1, 60)]

    assert delays[:4] == [1, 3, 9, 27]
    assert delays == sorted(delays)
    assert delays[-1] == 3600
    assert retry_delay(1, 1.0) == pytest.approx(0.8)


def test_the_span_of_the_retries_has_all_their_pauses_and_calls() -> None:
    config = InboxConfig(max_attempts=3, handler_timeout_seconds=10.0, lease_seconds=30.0)

    assert retry_span(config) == (1 + 10 + 30) + (3 + 10 + 30)
    assert retry_span(InboxConfig(max_attempts=1)) == 0


def test_a_pause_has_bounds() -> None:
    assert [pause_of(seconds) for seconds in (0.0, 30.0, 1e9)] == [0.1, 30.0, 3600.0]
