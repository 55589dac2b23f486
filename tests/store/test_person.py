from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.store.person import Person, names_only

PHONES = st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True)


@given(PHONES, st.binary(max_size=4).filter(lambda b: not b[-1:].isdigit()), st.booleans())
def test_a_number_is_found_in_the_id_of_a_message(number: str, before: bytes, plus: bool) -> None:
    encoded = b64encode(before + number.encode() + b"\x15\x02\x00").rstrip(b"=")
    person = Person("+" + number if plus else number)

    assert person.is_in(b'{"id":"wamid.%b"}' % encoded)
    assert any(core.encode() in encoded for core in person.cores)
    assert person.traces(b"wamid." + encoded) == 1


@pytest.mark.parametrize(
    "data", [b'"15550001234"', b'"+15550001234"', b'"Call 15550001234."', rb'"\u001915550001234"']
)
def test_a_number_is_found_as_a_word(data: bytes) -> None:
    assert Person("15550001234").is_in(data)


@pytest.mark.parametrize("data", [b'"155500012345"', b'"215550001234"', b'"15550001235"', b""])
def test_a_longer_number_is_another_one(data: bytes) -> None:
    assert not Person("15550001234").is_in(data)


@given(st.binary())
def test_no_data_makes_the_search_fail(data: bytes) -> None:
    Person("15550001234").is_in(b"wamid." + data)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_id_names_only_its_customer_whatever_its_padding_is(size: int) -> None:
    encoded = b64encode(b"\x1c\x18\x0b15550001234\x15\x02" + b"\x00" * size).decode()

    assert names_only(f"wamid.{encoded}", "+15550001234")
    assert not names_only(f"wamid.{encoded}", "15550001235")
