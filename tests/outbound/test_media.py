import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MediaTypeMismatch, UnsupportedMediaType
from wats.outbound.media import KIB, MIB, TYPES, find_type, max_bytes_of

MPEG_4 = b"\x00\x00\x00\x18ftypmp42"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
OFFICE = "application/vnd.openxmlformats-officedocument."
WEBP = b"RIFF\x00\x00\x00\x00WEBP"
STARTS = {
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/webp": WEBP + b"VP8 ",
    "audio/aac": b"\xff\xf1\x50",
    "audio/amr": b"#!AMR\n",
    "audio/mpeg": b"\xff\xfb\x90",
    "audio/mp4": MPEG_4,
    "audio/ogg": b"OggS",
    "audio/opus": b"OggS",
    "video/mp4": MPEG_4,
    "video/3gpp": b"\x00\x00\x00\x14ftyp3gp5",
    "application/pdf": b"%PDF-1.7",
    "application/msword": OLE,
    "application/vnd.ms-excel": OLE,
    "application/vnd.ms-powerpoint": OLE,
    f"{OFFICE}wordprocessingml.document": b"PK\x03\x04",
    f"{OFFICE}spreadsheetml.sheet": b"PK\x03\x04",
    f"{OFFICE}presentationml.presentation": b"PK\x03\x04",
    "text/plain": "Grüße".encode(),
}


def test_every_type_is_found_by_its_name_and_by_the_ending_of_the_file() -> None:
    assert set(STARTS) == set(TYPES)
    for name, start in STARTS.items():
        ending = TYPES[name].endings[0]
        assert find_type(name, f"a.{ending}", start).name == name
        assert find_type(f"{name.upper()}; codecs=x", "", start).name == name
        by_ending = find_type("application/octet-stream", f"a.b.{ending.upper()}", start)
        assert ending in by_ending.endings


@pytest.mark.parametrize("name", sorted(STARTS))
def test_content_of_another_type_is_refused(name: str) -> None:
    for other, start in STARTS.items():
        if start[:4] == STARTS[name][:4] or {start[4:8], STARTS[name][4:8]} == {b"ftyp"}:
            continue
        with pytest.raises(MediaTypeMismatch) as refused:
            find_type(name, "", start)
        assert [each.path for each in refused.value.details] == ["file"], other


@pytest.mark.parametrize("start", [b"", b"\x00\x01", b"\xff", b"MZ\x90\x00"])
def test_content_of_no_type_is_refused(start: bytes) -> None:
    for name in set(TYPES) - {"text/plain"}:
        with pytest.raises(MediaTypeMismatch):
            find_type(name, "", start)


def test_a_name_with_the_ending_of_another_type_is_refused() -> None:
    with pytest.raises(MediaTypeMismatch):
        find_type("image/jpeg", "photo.png", STARTS["image/jpeg"])

    assert find_type("image/jpeg", "photo.backup", STARTS["image/jpeg"])
    assert find_type("audio/mp4", "voice.mp4", MPEG_4)


@pytest.mark.parametrize(
    ("stated", "name"),
    [("", ""), ("", "a.exe"), ("application/zip", "a.zip"), ("image/gif", ""), ("x" * 9999, "")],
)
def test_a_type_that_meta_does_not_accept_is_refused(stated: str, name: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        find_type(stated, name, b"GIF89a")

    (detail,) = refused.value.details
    assert detail.path == "type"
    assert "image/png" in detail.reason


@pytest.mark.parametrize(
    ("start", "accepted"),
    [
        (b"plain", True),
        (b"\xff\xfeh\x00i\x00", True),
        (b"\xfe\xff\x00h", True),
        (b"h\x00i", False),
        (b"%PDF-1.7", False),
    ],
)
def test_text_has_no_null_bytes_without_a_byte_order_mark(start: bytes, accepted: bool) -> None:
    if accepted:
        assert find_type("text/plain", "a.txt", start).name == "text/plain"
    else:
        with pytest.raises(MediaTypeMismatch):
            find_type("text/plain", "a.txt", start)


@pytest.mark.parametrize(
    ("name", "start", "limit"),
    [
        ("image/png", b"", 5 * MIB),
        ("video/mp4", b"", 16 * MIB),
        ("audio/ogg", b"", 16 * MIB),
        ("application/pdf", b"", 100 * MIB),
        ("image/webp", WEBP + b"VP8 " + bytes(8), 100 * KIB),
        ("image/webp", WEBP + b"VP8X" + b"\x0a\x00\x00\x00\x10", 100 * KIB),
        ("image/webp", WEBP + b"VP8X" + b"\x0a\x00\x00\x00\x02", 500 * KIB),
        ("image/webp", WEBP + b"VP8X", 100 * KIB),
    ],
)
def test_the_limits_are_those_of_meta(name: str, start: bytes, limit: int) -> None:
    assert max_bytes_of(TYPES[name], start) == limit


@given(st.text(), st.text(), st.binary(max_size=64))
def test_any_type_name_and_content_is_accepted_or_refused(
    stated: str, name: str, start: bytes
) -> None:
    try:
        found = find_type(stated, name, start)
    except (UnsupportedMediaType, MediaTypeMismatch):
        return
    assert found.matches(start)


@pytest.mark.parametrize("name", ["audio/mpeg", "audio/aac"])
def test_audio_can_begin_with_tags(name: str) -> None:
    assert find_type(name, "", b"ID3\x04\x00").name == name
