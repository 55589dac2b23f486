"""The files that WhatsApp accepts: their types, sizes and first bytes. No I/O.

The type of a file is stated up to three times: by its sender, by the ending of its name, and by its
content. Meta stores a file under the stated type, and a customer's phone fails on a wrong one, so
all three must agree before anything is sent.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from wats.errors import Detail, MediaTypeMismatch, UnsupportedMediaType

KIB: Final = 1024
MIB: Final = 1024 * KIB

START_BYTES: Final = 1024
"""How many of the first bytes of a file `find_type` needs, if the file has as many."""

MAX_FILE_BYTES: Final = 100 * MIB
"""The size of the largest file of any type."""

_IMAGE_BYTES: Final = 5 * MIB
_SOUND_OR_VIDEO_BYTES: Final = 16 * MIB
_STICKER_BYTES: Final = 100 * KIB
_ANIMATED_STICKER_BYTES: Final = 500 * KIB

_UNSTATED: Final = frozenset({"", "application/octet-stream"})
"""Types that clients send for a file whose type they do not know."""

# RIFF, size, WEBP, VP8X, size, flags: the second bit of the flags is the animation.
_WEBP_EXTENDED: Final = slice(12, 16)
_WEBP_FLAGS: Final = 20
_WEBP_ANIMATED: Final = 0b10

_BYTE_ORDER_MARKS: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENDING: Final = re.compile(r"\.([A-Za-z0-9]{1,8})")

Matches = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class FileType:
    """A type of file that WhatsApp accepts.

    Attributes:
        name: Its MIME type, without parameters.
        max_bytes: Meta's limit.
        endings: The endings of names of such files.
        matches: Whether the first bytes of a file are those of this type.
    """

    name: str
    max_bytes: int
    endings: tuple[str, ...]
    matches: Matches


def _begins(*marks: bytes) -> Matches:
    return lambda start: start.startswith(marks)


def _is_mpeg_4(start: bytes) -> bool:
    return start[4:8] == b"ftyp"


def _is_webp(start: bytes) -> bool:
    return start.startswith(b"RIFF") and start[8:12] == b"WEBP"


def _is_pdf(start: bytes) -> bool:
    return b"%PDF-" in start  # viewers accept other bytes before it


def _has_frame_sync(start: bytes) -> bool:
    return start[:1] == b"\xff" and start[1:2] >= b"\xe0"


def _is_aac(start: bytes) -> bool:
    is_adts = _has_frame_sync(start) and start[1] & 0xF6 == 0xF0
    return is_adts or start.startswith((b"ADIF", b"ID3"))


def _is_mpeg_audio(start: bytes) -> bool:
    # An MPEG version and a layer: both have a reserved value.
    is_frame = _has_frame_sync(start) and start[1] & 0x18 != 0x08 and start[1] & 0x06 != 0
    return is_frame or start.startswith(b"ID3")


def _is_text(start: bytes) -> bool:
    if start.startswith(_BYTE_ORDER_MARKS):
        return True
    is_known = any(each.matches(start) for each in _BINARY)
    return b"\0" not in start and not is_known


_OGG: Final = _begins(b"OggS")
_OLD_OFFICE: Final = _begins(_OLE)
_OFFICE: Final = _begins(b"PK\x03\x04")
_OPEN_XML: Final = "application/vnd.openxmlformats-officedocument."

_BINARY: Final = (
    FileType("image/jpeg", _IMAGE_BYTES, ("jpg", "jpeg"), _begins(b"\xff\xd8\xff")),
    FileType("image/png", _IMAGE_BYTES, ("png",), _begins(b"\x89PNG\r\n\x1a\n")),
    FileType("image/webp", _STICKER_BYTES, ("webp",), _is_webp),
    FileType("audio/aac", _SOUND_OR_VIDEO_BYTES, ("aac",), _is_aac),
    FileType("audio/amr", _SOUND_OR_VIDEO_BYTES, ("amr",), _begins(b"#!AMR")),
    FileType("audio/mpeg", _SOUND_OR_VIDEO_BYTES, ("mp3",), _is_mpeg_audio),
    FileType("audio/mp4", _SOUND_OR_VIDEO_BYTES, ("m4a", "mp4"), _is_mpeg_4),
    FileType("audio/ogg", _SOUND_OR_VIDEO_BYTES, ("ogg", "oga", "opus"), _OGG),
    FileType("audio/opus", _SOUND_OR_VIDEO_BYTES, ("opus", "ogg"), _OGG),
    FileType("video/mp4", _SOUND_OR_VIDEO_BYTES, ("mp4", "m4v"), _is_mpeg_4),
    FileType("video/3gpp", _SOUND_OR_VIDEO_BYTES, ("3gp", "3gpp"), _is_mpeg_4),
    FileType("application/pdf", MAX_FILE_BYTES, ("pdf",), _is_pdf),
    FileType("application/msword", MAX_FILE_BYTES, ("doc",), _OLD_OFFICE),
    FileType("application/vnd.ms-excel", MAX_FILE_BYTES, ("xls",), _OLD_OFFICE),
    FileType("application/vnd.ms-powerpoint", MAX_FILE_BYTES, ("ppt",), _OLD_OFFICE),
    FileType(f"{_OPEN_XML}wordprocessingml.document", MAX_FILE_BYTES, ("docx",), _OFFICE),
    FileType(f"{_OPEN_XML}spreadsheetml.sheet", MAX_FILE_BYTES, ("xlsx",), _OFFICE),
    FileType(f"{_OPEN_XML}presentationml.presentation", MAX_FILE_BYTES, ("pptx",), _OFFICE),
)

TYPES: Final[Mapping[str, FileType]] = {
    each.name: each
    for each in (*_BINARY, FileType("text/plain", MAX_FILE_BYTES, ("txt",), _is_text))
}
"""Every type that Meta accepts, by its name."""

_TYPE_OF_ENDING: Final = {
    **{ending: each.name for each in TYPES.values() for ending in each.endings[1:]},
    **{each.endings[0]: each.name for each in TYPES.values()},
}


def find_type(stated: str, name: str, start: bytes, *, checks_name: bool = True) -> FileType:
    """Return the type of a file.

    Args:
        stated: The MIME type that the sender states; may be empty, and have parameters.
        name: The name of the file; may be empty.
        start: The first `START_BYTES` of the file.
        checks_name: Whether the ending of the name must be that of a stated type.

    Raises:
        UnsupportedMediaType: WhatsApp does not accept files of this type, or no type is stated.
        MediaTypeMismatch: The content or the name belongs to another type.
    """
    ending = _ending_of(name)
    stated = stated.partition(";")[0].strip().lower()
    if stated in _UNSTATED:
        stated = _TYPE_OF_ENDING.get(ending, "")
    found = TYPES.get(stated)
    if found is None:
        reason = f"must be stated, and one of {', '.join(TYPES)}"
        raise UnsupportedMediaType([Detail("type", reason)])
    mistakes = []
    if not found.matches(start):
        mistakes.append(Detail("file", f"must have the content of {found.name}"))
    if checks_name and ending in _TYPE_OF_ENDING and ending not in found.endings:
        reason = f"must have a name that ends in {' or '.join(found.endings)}"
        mistakes.append(Detail("file", reason))
    if mistakes:
        raise MediaTypeMismatch(mistakes)
    return found


def max_bytes_of(found: FileType, start: bytes) -> int:
    """Return the size limit of a file of the type *found*, which depends on its content."""
    if found.name != "image/webp":
        return found.max_bytes
    has_flags = start[_WEBP_EXTENDED] == b"VP8X" and len(start) > _WEBP_FLAGS
    is_animated = has_flags and start[_WEBP_FLAGS] & _WEBP_ANIMATED
    return _ANIMATED_STICKER_BYTES if is_animated else found.max_bytes


def _ending_of(name: str) -> str:
    match = _ENDING.fullmatch(name[name.rfind(".") :]) if "." in name else None
    return match[1].lower() if match is not None else ""
