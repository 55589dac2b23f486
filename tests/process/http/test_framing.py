from collections.abc import Iterable
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MalformedHTTP
from wats.process.http.framing import (
    ChunkedBody,
    Head,
    SizedBody,
    split_target,
    webhook_head_reader,
)

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


PATH = b"/webhooks/whatsapp"
SIGNATURE = "sha256=" + "5e" * 32
USUAL = (
    b"host: x",
    b"content-length: 5",
    b"x-hub-signature-256: " + SIGNATURE.encode(),
    b"accept: */*",
)
OTHERS = (
    *(b"Host: y", b"HOST: y", b"Host:", b"Content-Length:\t 7 ", b"CONTENT-LENGTH: 7"),
    *(b"content-length: +7", b"content-length: 7, 7", b"content-length:", b"content-length : 7"),
    *(b"X-Hub-Signature-256:" + SIGNATURE.encode() + b"\t", b"x-hub-signature-256: sha256=5E"),
    *(
        b"Connection: close",
        b"connection: keep-alive",
        b"connection: keep-alive, close",
        b"upgrade: h2c",
    ),
    *(b"expect: 100-continue", b"Transfer-Encoding: chunked", b"transfer-encoding:"),
    *(b"hostx: y", b"xhost: y", b"x-hub-signature: sha1=5e", b"content-type: application/json"),
    *(b" folded", b"", b"a b: c", b": c", b"a\x00: b", b"a: \x00", b"a: \x7f", b"a: \xe9", b"a"),
    *(b"a: b\nc: d", b"a: b\rc: d", b"a:\r", b"x: " + b"y" * 300, b"proxy-connection: close"),
)
UNUSUAL = (
    *(
        b"expect: x",
        b"Connection: x",
        b"connection: keep-alive, close",
        b"transfer-encoding: x",
        b"CONTENT-LENGTH: 5",
    ),
    *(b"a: \x01", b"a: \x7f", b"a: \n", b"a: \r", b" a: b", b"a b: c", b"a"),
)
LINES = st.tuples(
    st.permutations(USUAL),
    st.lists(st.sampled_from(OTHERS), max_size=2),
    st.integers(0, 4),
    st.booleans(),
).map(lambda each: [*each[0][: each[2]], *each[1], *each[0][each[2] + each[3] :]])


def read_usual(data: bytes) -> tuple[int, str] | None:
    return webhook_head_reader(PATH)(b"\r\n" + data + b"body", 2, 2 + len(data))


def head_of(lines: Iterable[bytes], first: bytes = b"POST %b HTTP/1.1" % PATH) -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def assert_read_the_same(data: bytes) -> None:
    """Fail if the fast path accepts *data*, and `Head` refuses it or reads it differently."""
    usual = read_usual(data)
    if usual is None:
        return
    head = Head(data)
    signatures = [
        value.strip(b" \t") for name, value in head.headers if name == b"x-hub-signature-256"
    ]
    assert (head.method, head.target, head.version) == (b"POST", PATH, b"1.1")
    assert (head.length, [each.decode() for each in signatures]) == (usual[0], [usual[1]])
    assert head.keep_alive
    assert not head.expects_continue


@given(LINES)
def test_the_fast_path_reads_no_head_differently(lines: list[bytes]) -> None:
    assert_read_the_same(head_of(lines))


@given(data=st.data(), lines=st.permutations(USUAL))
def test_the_fast_path_reads_no_damaged_head_differently(
    data: st.DataObject, lines: list[bytes]
) -> None:
    sent = head_of(lines)
    start = data.draw(st.integers(0, len(sent)))
    end = data.draw(st.integers(start, min(len(sent), start + 3)))
    assert_read_the_same(sent[:start] + data.draw(st.binary(max_size=3)) + sent[end:])


@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TRACEPARENT"])
def test_a_head_with_a_trace_takes_the_fast_path_unless_traces_are_read(name: bytes) -> None:
    usual, traced = head_of(USUAL), head_of([*USUAL, name + b": 00-1-2-03"])
    read = webhook_head_reader(PATH, reads_traces=True)

    assert webhook_head_reader(PATH)(traced, 0, len(traced)) == (5, SIGNATURE)
    assert read(traced, 0, len(traced)) is None
    assert read(usual, 0, len(usual)) == (5, SIGNATURE)


@pytest.mark.parametrize(
    "lines",
    [
        USUAL,
        USUAL[::-1],
        [each.title().replace(b"Sha", b"sha").replace(b"5E", b"5e") for each in USUAL],
        [b"x-real-ip: 192.0.2.1", *USUAL, b"via: 1.1 proxy", b"accept: twice", b"empty:"],
        [b"Connection: keep-alive", *USUAL, b"connection:Keep-Alive"],
        [USUAL[0], b"content-length:5\t ", USUAL[2] + b" "],
    ],
)
def test_the_usual_head_of_a_webhook_takes_the_fast_path(lines: Iterable[bytes]) -> None:
    assert read_usual(head_of(lines)) == (5, SIGNATURE)


@pytest.mark.parametrize(
    "data",
    [
        *(head_of(USUAL[:place] + USUAL[place + 1 :]) for place in range(3)),
        *(head_of([*USUAL, each]) for each in USUAL[:3]),
        *(head_of(repeated) for repeated in product(USUAL[:3], repeat=3) if len({*repeated}) < 3),
        *(head_of([*USUAL, each]) for each in UNUSUAL),
        *(head_of([*USUAL[1:], each]) for each in (b"HOST: x", b"hosts: x")),
        head_of(USUAL, b"GET %b HTTP/1.1" % PATH),
        head_of(USUAL, b"POST %b HTTP/1.0" % PATH),
        head_of(USUAL, b"POST %b?x HTTP/1.1" % PATH),
        head_of(USUAL) + b"\r\n",
        head_of(USUAL)[:-2],
    ],
)
def test_an_unusual_head_does_not_take_the_fast_path(data: bytes) -> None:
    assert read_usual(data) is None
