import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MalformedRequest, PayloadTooLarge, UnsupportedMediaType
from wats.web.multipart import MAX_FORM_BYTES, FormFile, boundary_of, form_head, open_form

HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n"
)
FIELD = b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\nimage/png\r\n'
END = b"\r\n--b--\r\n"
LIMIT = 1000


async def pieces(body: bytes, sizes: Iterable[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        piece, body = body[:size], body[size:]
        if piece:
            yield piece
    if body:
        yield body


async def read(
    body: bytes, sizes: Iterable[int] = (), limit: int = LIMIT
) -> tuple[FormFile, bytes]:
    chunks = pieces(body, sizes)
    form = await open_form(chunks, b"b", len(body), 16)
    return form, b"".join([each async for each in form.rest(chunks, limit)])


@pytest.mark.parametrize("end", [END, b"\r\n--b--"])
async def test_the_file_and_the_end_are_passed_on_unchanged(end: bytes) -> None:
    form, rest = await read(FIELD + HEAD + b"content" + end)

    assert form.fields == {"type": "image/png"}
    assert (form.name, form.content_type) == ("a.png", "image/png")
    assert form.first_bytes == b"content"
    assert rest == b"content" + end
    assert form.rest_length == len(rest)
    assert form.min_size in {len(b"content"), len(b"content") - 2}


@given(st.binary(max_size=200), st.lists(st.integers(1, 60), max_size=40), st.booleans())
def test_a_form_is_read_the_same_in_any_segments(
    content: bytes, sizes: list[int], has_line_end: bool
) -> None:
    content = content.replace(b"\r\n--b", b"")
    end = END if has_line_end else END[:-2]

    form, rest = asyncio.run(read(FIELD + HEAD + content + end, sizes))

    assert rest == content + end
    assert form.first_bytes == content[: len(form.first_bytes)]


@given(st.binary(max_size=400), st.lists(st.integers(1, 60), max_size=20))
def test_any_bytes_are_a_form_or_refused(body: bytes, sizes: list[int]) -> None:
    for candidate in (body, FIELD + body, HEAD + body, HEAD + body + END, FIELD + HEAD + body):
        try:
            _, rest = asyncio.run(read(candidate, sizes))
        except (MalformedRequest, PayloadTooLarge):
            continue
        assert candidate.endswith(rest)
        assert rest.removesuffix(b"\r\n").endswith(b"\r\n--b--")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "file"),
        (b"preamble\r\n" + HEAD + b"x" + END, "$"),
        (FIELD + b"--b--\r\n", "file"),
        (FIELD, "file"),
        (HEAD, "$"),
        (HEAD + b"x", "$"),
        (HEAD + b"x\r\n--b", "$"),
        (HEAD + b"x\r\n--b-\r\n", "$"),
        (HEAD + b"x" + END + b"epilogue", "file"),
        (HEAD + b"x\r\n" + FIELD + b"--b--\r\n", "file"),
        (HEAD + b"x\r\n" + HEAD + b"y" + END, "file"),
        (b"--b\r\n" + b"x" * (MAX_FORM_BYTES + 1), "$"),
    ],
)
async def test_a_form_whose_file_is_not_its_last_part_is_refused(body: bytes, path: str) -> None:
    with pytest.raises(MalformedRequest) as refused:
        await read(body)

    assert [each.path for each in refused.value.details] == [path]


def takes_a_type(name: str, value: str) -> bool:
    return (name, value) == ("type", "image/png")


async def drained(rest: AsyncIterator[bytes]) -> None:
    async for _ in rest:
        pass


@pytest.mark.parametrize("sizes", [(), [1] * 500])
async def test_accepted_fields_after_the_file_are_passed_on_unchanged(sizes: list[int]) -> None:
    rest = b"content\r\n" + FIELD + FIELD + b"--b--\r\n"
    chunks = pieces(HEAD + rest, sizes)
    form = await open_form(chunks, b"b", len(HEAD + rest), 16)

    passed = [each async for each in form.rest(chunks, LIMIT, takes_a_type)]

    assert b"".join(passed) == rest
    assert form.first_bytes == b"content"


@pytest.mark.parametrize(
    "after",
    [
        FIELD.replace(b"image/png", b"image/jpeg"),
        FIELD.replace(b'"type"', b'"file"'),
        FIELD.replace(b'"type"', b'"type"; filename="a"'),
        FIELD + HEAD + b"second\r\n",
        FIELD.replace(b"\r\n\r\n", b"\r\n"),
        FIELD * (MAX_FORM_BYTES // len(FIELD) + 1),
        FIELD.replace(b"--b\r\n", b"--b"),
    ],
)
async def test_another_part_after_the_file_is_refused(after: bytes) -> None:
    body = HEAD + b"x\r\n" + after + b"--b--\r\n"
    chunks = pieces(body, ())
    form = await open_form(chunks, b"b", len(body), 16)

    with pytest.raises(MalformedRequest) as refused:
        await drained(form.rest(chunks, LIMIT, takes_a_type))

    assert [each.path for each in refused.value.details] == ["file"]


async def test_the_end_is_held_back_until_the_form_is_valid() -> None:
    body = HEAD + b"x" * 200 + b"\r\n--b\r\n"
    chunks = pieces(body, ())
    form = await open_form(chunks, b"b", len(body), 16)
    passed: list[bytes] = []

    async def pass_on() -> None:
        async for each in form.rest(chunks, LIMIT):
            passed.append(each)  # noqa: PERF401  # those before the failure count

    with pytest.raises(MalformedRequest):
        await pass_on()

    assert sum(map(len, passed)) < form.rest_length


@pytest.mark.parametrize("end", [END, END[:-2]])
async def test_a_file_is_limited_to_the_byte(end: bytes) -> None:
    _, rest = await read(HEAD + b"x" * LIMIT + end)
    with pytest.raises(PayloadTooLarge):
        await read(HEAD + b"x" * (LIMIT + 1) + end)

    assert rest == b"x" * LIMIT + end


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a=b c'.replace(" c", '"'), b"a=b"),
        ("multipart/form-data;boundary=----WebKitFormBoundary7", b"----WebKitFormBoundary7"),
    ],
)
def test_a_boundary_is_found(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "application/json", "multipart/form-data", "multipart/mixed; boundary=a"),
        *("multipart/form-data; boundary=", 'multipart/form-data; boundary="a\r\nb"'),
        f"multipart/form-data; boundary={'a' * 71}",
        'multipart/form-data; boundary="a b"',
    ],
)
def test_a_body_without_a_valid_boundary_is_refused(header: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        boundary_of(header)


async def test_a_form_for_meta_can_be_read_again() -> None:
    head = form_head(b"b", {"messaging_product": "whatsapp", "type": "image/png"}, "image/png")

    form, rest = await read(head + b"content" + END)

    assert form.fields == {"messaging_product": "whatsapp", "type": "image/png"}
    assert (form.name, form.content_type, rest) == ("media", "image/png", b"content" + END)
