import asyncio
import json
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from wats.graph.redaction import Substitution, forms_of, response_substitution, without

TOKEN = "EAAsecret+token"
ROOT = "https://graph.facebook.com/v25.0/"
OWN = "http://wats.example/api/graph/v25.0/"


async def pieces(body: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        piece, body = body[:size], body[size:]
        if piece:
            yield piece
    yield body


def replaced(substitution: Substitution, body: bytes, sizes: list[int]) -> bytes:
    async def read() -> bytes:
        return b"".join([each async for each in substitution(pieces(body, sizes))])

    return asyncio.run(read())


@given(st.lists(st.sampled_from(list(b"abc")), max_size=60), st.lists(st.integers(1, 4)))
def test_a_text_is_replaced_wherever_pieces_divide_it(letters: list[int], sizes: list[int]) -> None:
    body = bytes(letters)
    substitution = Substitution({b"abcab": b"1", b"ca": b"2", b"bb": b"3"})

    result = replaced(substitution, body, sizes)

    assert result == replaced(substitution, body, [])
    assert not any(text in result for text in (b"abcab", b"ca"))


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.integers(1, 30), max_size=20))
def test_neither_the_token_nor_the_address_of_graph_is_in_a_response(
    before: str, after: str, sizes: list[int]
) -> None:
    substitution = response_substitution(forms_of(TOKEN) | forms_of("proof0"), (ROOT,), OWN)
    for link in (
        f"{ROOT}1/flows?access_token={TOKEN}&after=A",
        f"{ROOT}1/flows?access_token=EAAsecret%2Btoken&appsecret_proof=proof0&after=A",
    ):
        text = json.dumps({"a": before, "next": link, "b": after})
        for body in (text, text.replace("/", r"\/")):
            result = replaced(substitution, body.encode(), sizes)

            found = json.loads(result)["next"]
            assert found.startswith(f"{OWN}1/flows?access_token=&")
            assert found.endswith("&after=A")
            assert b"EAAsecret" not in result
            assert b"facebook" not in result


def test_a_stream_without_the_texts_is_unchanged() -> None:
    body = bytes(range(256)) * 5

    substitution = response_substitution(forms_of(TOKEN) | forms_of(""), (ROOT,), OWN)

    assert replaced(substitution, body, [7] * 200) == body


def test_a_whole_response_loses_the_token_in_each_of_its_forms() -> None:
    body = b'{"next":"https://x/?access_token=EAAsecret%2Btoken&a=1","said":"EAAsecret+token"}'

    result = without(body, forms_of(TOKEN))

    assert result == b'{"next":"https://x/?access_token=&a=1","said":""}'


def test_a_whole_response_without_the_token_is_the_same_object() -> None:
    body = b'{"id":"1"}'

    assert without(body, forms_of(TOKEN) | forms_of("")) is body
