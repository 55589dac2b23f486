"""Percent-decoding of the variable parts of paths."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.web.segments import decode_segment


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_encoded_segment_is_decoded(text: str) -> None:
    assert decode_segment(quote(text, safe="")) == text


def test_a_segment_is_decoded_once() -> None:
    assert decode_segment("%2541+") == "%41+"


@pytest.mark.parametrize("segment", ["%", "%4", "%zz", "a%", "%ff", "%c3", "%ed%a0%80", "\xff"])
def test_a_segment_that_does_not_encode_text_is_refused(segment: str) -> None:
    assert decode_segment(segment) is None
