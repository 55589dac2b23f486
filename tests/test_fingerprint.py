from hypothesis import given
from hypothesis import strategies as st

from wats.privacy import fingerprint, short_fingerprint


@given(st.text())
def test_a_fingerprint_is_a_number_that_a_database_can_keep(text: str) -> None:
    assert -(2**63) <= fingerprint(text) < 2**63


@given(st.text(), st.text())
def test_texts_have_the_same_fingerprint_only_if_they_are_the_same(one: str, other: str) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (one == other)


def test_a_fingerprint_never_changes_as_databases_hold_it() -> None:
    assert fingerprint("2|3") == 1608525874970361414
    assert fingerprint("half a pair: \ud800") == fingerprint("half a pair: \ud800")


@given(st.text())
def test_a_short_fingerprint_needs_no_more_than_four_bytes(text: str) -> None:
    assert 0 <= short_fingerprint(text) < 2**31


def test_a_short_fingerprint_never_changes_as_databases_hold_it() -> None:
    assert short_fingerprint("wamid.plumless") == short_fingerprint("wamid.buckeroo") == 719227061
