import sys

import pytest

from wats.ids import MAX_ID_LENGTH, is_safe_id


@pytest.mark.parametrize(
    "text", ["1", "wamid.HBgL=", "US.1a", "with space", "caf\u00e9", "\u00a0x", "x" * MAX_ID_LENGTH]
)
def test_a_short_line_of_text_can_be_an_identifier(text: str) -> None:
    assert is_safe_id(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\u00a0", "a\nb", "a\r", "\x00", "\x7f", "a\u2028b", "a\u2029", "x" * 257, 7, None],
)
def test_empty_long_and_multi_line_text_is_no_identifier(text: object) -> None:
    assert not is_safe_id(text)


def test_no_control_character_and_no_line_break_is_ever_let_through() -> None:
    forbidden = {*map(chr, range(0x20)), "\x7f", "\u2028", "\u2029"}

    let_through = {c for c in map(chr, range(sys.maxunicode + 1)) if is_safe_id(f"a{c}b")}

    assert not forbidden & let_through
