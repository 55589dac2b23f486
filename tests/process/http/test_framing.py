from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MalformedHTTP
from wats.process.http.framing import ChunkedBody, Head, SizedBody, split_target

LINE = b"POST /x HTTP/1.1\r\nhost: x\r\n"


def read(body: ChunkedBody | SizedBody, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Return the bytes that *body* reads from *pieces*, and the rest."""
    out, left = b"", b""
    for piece in pieces:
        left += piece
        part, place = body.read(left, 0)
        out, left = out + part, left[place:]
    return out, left


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="\xe9;"', b"; x"])
TRAILERS = st.lists(st.sampled_from([b"a: b\r\n", b"Content-Length: 3\r\n", b"x:\r\n"]), max_size=3)
CUTS = st.lists(st.integers(0, 300), max_size=12)


@given(chunks=CHUNKS, extension=EXTENSIONS, trailers=TRAILERS, cuts=CUTS)
def test_chunks_are_read_the_same_however_they_are_cut(
    chunks: list[bytes], extension: bytes, trailers: list[bytes], cuts: list[int]
) -> None:
    sent = b"".join(b"%X%s\r\n%s\r\n" % (len(each), extension, each) for each in chunks)
    sent += b"0\r\n" + b"".join(trailers) + b"\r\n" + b"GET / next"
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[a:b] for a, b in pairwise(places)]
    body = ChunkedBody(0)

    assert read(body, pieces) == (b"".join(chunks), b"GET / next")
    assert body.is_complete


@given(data=st.binary(max_size=60), cuts=CUTS)
def test_any_bytes_are_chunks_or_are_not_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        body = ChunkedBody(0)
        try:
            return read(body, pieces), body.is_complete
        except MalformedHTTP:
            return None

    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert outcome([data[a:b] for a, b in pairwise(places)]) == outcome([data])


@pytest.mark.parametrize(
    "sent",
    [
        *(b"+1\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1 ;a\r\n", b"\r\n", b"g\r\n"),
        *(b"1\n", b"1;a\nb\r\n", b"1;\r\r\n", b"1\r\nxy\r\n", b"1\r\nx\n", b"1\r\nx\r\r"),
        *(b"0\r\na b: c\r\n\r\n", b"0\r\n: c\r\n", b"0\r\na\r\n", b"0\r\na: b\nc: d\r\n"),
        *(b"f" * 16 + b"\r\n", b"1;" + b"x" * 70_000, b"0\r\na:" + b"x" * 70_000),
    ],
)
def test_malformed_chunks_are_refused(sent: bytes) -> None:
    with pytest.raises(MalformedHTTP):
        read(ChunkedBody(0), [sent])


def test_a_sized_body_does_not_consume_the_next_request() -> None:
    assert read(SizedBody(5), [b"he", b"", b"llo GET", b" /"]) == (b"hello", b" GET /")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_are_refused(data: bytes) -> None:
    try:
        head = Head(LINE + data)
    except MalformedHTTP:
        return
    assert head.target == b"/x"


def test_a_head_is_read() -> None:
    head = Head(LINE + b"X-A:  1\r\nx-a: 2\r\nConnection: a, CLOSE\r\ncontent-length: 5 \r\n\r\n")

    assert (head.method, head.version, head.length) == (b"POST", b"1.1", 5)
    assert [value for name, value in head.headers if name == b"x-a"] == [b"1", b"2"]
    assert head.has_repeats
    assert not head.keep_alive


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b", ("/a", b"/a", b"b")),
        (b"/a%20b#c", ("/a b", b"/a%20b", b"")),
        (b"http://x", ("/", b"/", b"")),
        (b"http://x?y", ("/", b"/", b"y")),
        (b"http://x/a?b", ("/a", b"/a", b"b")),
        (b"*", ("*", b"*", b"")),
    ],
)
def test_a_target_is_split(target: bytes, path: tuple[str, bytes, bytes]) -> None:
    assert split_target(target) == path


@pytest.mark.parametrize("target", [b"x:443", b"/\xe9", b"x"])
def test_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    with pytest.raises(MalformedHTTP):
        split_target(target)
