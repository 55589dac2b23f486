"""The pause that the header `Retry-After` asks for."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.retry_after import LONGEST_SECONDS, read_retry_after

NOW = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("999999999", 3600.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37.0),
        ("Sun Nov  6 08:49:37 1994", 37.0),
        ("Sun, 06 Nov 1994 08:48:00 GMT", 0.0),
        ("Mon, 06 Nov 2034 08:48:00 GMT", 3600.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("soon", None),
        ("Sun, 32 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +9999999999999", None),
    ],
)
def test_a_pause_is_in_seconds_or_until_a_date_and_at_most_an_hour(
    value: str | None, seconds: float | None
) -> None:
    assert read_retry_after(value, NOW) == seconds


@given(st.one_of(st.text(), st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+")))
def test_every_value_has_a_bounded_pause_or_none(value: str) -> None:
    seconds = read_retry_after(value, NOW)

    assert seconds is None or 0.0 <= seconds <= LONGEST_SECONDS
