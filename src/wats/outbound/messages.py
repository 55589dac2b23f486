"""The messages that callers ask us to send: checked, and never changed. No I/O.

A mistake is reported as the path of the field and the valid values. Neither holds any text of the
caller, not even a key, except for the unknown keys of a caller that asks for them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec

from wats.errors import Detail, MalformedRequest
from wats.ids import is_safe_id
from wats.nesting import is_shallow

Fields: TypeAlias = Mapping[str, object]
"""The fields of a decoded request body."""

MAX_TEXT_LENGTH: Final = 4096
MAX_DETAILS: Final = 100
"""The number of mistakes that an error reports."""
TEXT_MALFORMED: Final = "Text message body is invalid."
READ_MARK_MALFORMED: Final = "Read mark body is invalid."
GRAPH_MALFORMED: Final = "Message body is invalid or unsupported."

PRODUCT_POLICIES: Final = ("CLOUD_API_FALLBACK", "STRICT")
"""The treatments of a marketing message that Meta cannot optimize: sent as usual, or refused."""

PHONE_PATTERN: Final = r"\+?[0-9]{1,15}"
BSUID_PATTERN: Final = r"[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]{1,128}"
RECIPIENT_PATTERN: Final = r"\+?\(?[0-9](?:[ ()-]{0,3}[0-9]){0,14}"
TYPE_PATTERN: Final = "[a-z][a-z0-9_]{0,31}"

_PHONE = re.compile(PHONE_PATTERN)
_RECIPIENT = re.compile(RECIPIENT_PATTERN)
_NO_DIGITS = re.compile("[^0-9]+")
_BSUID = re.compile(BSUID_PATTERN)
_TYPE = re.compile(TYPE_PATTERN)
_NOT_IN_A_GROUP_ID = re.compile(r"[/\\?#:@]")
_NUMBER = re.compile(r"\+?[0-9]+")
_TEXT_KEYS = ("to", "text", "previewUrl")
_SHOWN_KEY = re.compile("[A-Za-z_.-]{1,40}")
# U+FEFF is invisible, but Python does not count it as white space.
_BLANK = re.compile("[\\s\ufeff]*")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_CONTROL_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LINE_END = re.compile("\r\n?")


class OutboundText(msgspec.Struct, frozen=True, kw_only=True):
    """A text for one person, in the short form of our own."""

    to: str
    text: str
    preview_url: bool | None = None


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a sent message: its type and recipient, never its content.

    `recipient` is the digits of the phone number, so that one person is one recipient; without a
    number a business-scoped user id; or a group's id. `names` has the caller's names for the
    members of the payload, if they differ.
    """

    type: str
    recipient: str
    is_group: bool = False
    names: Mapping[str, str] | None = None


def parse_text(body: bytes, *, strict: bool = False) -> OutboundText:
    """Return the text message in *body*. Unknown keys are ignored, or refused if *strict*.

    Raises:
        MalformedRequest: The body is not valid; `details` hold every mistake.
    """
    fields = parse_object(body, TEXT_MALFORMED)
    mistakes = [*_text_route_mistakes(fields), *unknown_keys(fields, _TEXT_KEYS, strict=strict)]
    refuse(mistakes, TEXT_MALFORMED)
    text = with_line_feeds(fields["text"])
    return OutboundText(to=fields["to"], text=text, preview_url=fields.get("previewUrl"))


def parse_graph_message(body: bytes, *, groups_enabled: bool) -> Outgoing | None:
    """Return the message in *body*, in Graph's own form; `None` if it marks one as read.

    Only the envelope and a plain text are checked. The rest is between the caller and Meta, so that
    features that Meta adds tomorrow can be sent today.

    Raises:
        MalformedRequest: The body is not a valid message; `details` hold every mistake.
    """
    return check_graph_message(parse_object(body, GRAPH_MALFORMED), groups_enabled=groups_enabled)


def check_graph_message(fields: Fields, *, groups_enabled: bool) -> Outgoing | None:
    """Return the record of *fields*, a decoded message in Graph's own form; `None` for a read mark.

    Raises:
        MalformedRequest: It is not a valid message; `details` hold every mistake.
    """
    refuse(_graph_mistakes(fields, groups_enabled=groups_enabled), GRAPH_MALFORMED)
    return _record_of(fields) if "type" in fields else None


def parse_marketing_message(body: bytes) -> Outgoing:
    """Return the record of *body*, a template with the options of marketing messages.

    Raises:
        MalformedRequest: It is not a valid one; `details` hold every mistake.
    """
    fields = parse_object(body, GRAPH_MALFORMED)
    refuse(_marketing_mistakes(fields), GRAPH_MALFORMED)
    return _record_of(fields)


def _record_of(fields: Fields) -> Outgoing:
    is_group = fields.get("recipient_type") == "group"
    to = str(fields["to"] if "to" in fields else fields["recipient"])
    recipient = digits_of(to) if "to" in fields and not is_group else to
    return Outgoing(type=str(fields["type"]), recipient=recipient, is_group=is_group)


def parse_read_mark(body: bytes, *, strict: bool = False) -> bool:
    """Return whether *body*, which may be empty, asks for a typing indicator.

    Raises:
        MalformedRequest: The body is not valid; `details` hold every mistake.
    """
    fields = parse_object(body, READ_MARK_MALFORMED) if body else {}
    typing = fields.get("typing", False)
    mistakes = [*unknown_keys(fields, ("typing",), strict=strict)]
    if not isinstance(typing, bool):
        mistakes.append(Detail("typing", "must be true or false"))
    refuse(mistakes, READ_MARK_MALFORMED)
    return typing is True


def parse_object(body: bytes, message: str) -> dict[str, Any]:
    """Return the JSON object in *body*.

    Raises:
        MalformedRequest: The body is not JSON, is nested too deeply, or is not an object; in the
            last case the error has *message*.
    """
    value = _decode(body)
    if not isinstance(value, dict):
        raise MalformedRequest("malformed_body", message, [Detail("$", "must be an object")])
    return value


def canonical(body: bytes) -> bytes:
    """Return the JSON of *body* in a form without white space and with sorted keys.

    Raises:
        MalformedRequest: The body is not JSON, or is nested too deeply.
    """
    return msgspec.json.encode(_decode(body), order="sorted")


def _decode(body: bytes) -> object:
    """Return the value of *body*, all of which can be encoded again: text, numbers and nesting."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value: object = msgspec.json.decode(body)
        if is_shallow(body, value):
            return value
    raise MalformedRequest("malformed_json", "Request body must be valid JSON.")


def unknown_keys(
    fields: Fields, known: Collection[str], *, strict: bool, prefix: str = ""
) -> Iterator[Detail]:
    """Yield the keys of *fields* that are not *known*, if the caller asked for *strict* handling.

    *prefix* is the path of *fields* in the body.

    Such a caller looks for a misspelt key, so the key is shown, unless it could hold a number.
    """
    for key in fields if strict else ():
        if key not in known:
            path = f"{prefix}{key if _SHOWN_KEY.fullmatch(key) else '?'}"
            owner = "object" if prefix else "request"
            reason = f"is not a key of this {owner}; its keys are {', '.join(known)}"
            yield Detail(path, reason, quotes=True)


def refuse(mistakes: Iterable[Detail], message: str) -> None:
    """Raise *mistakes* as one error, if there are any: all, up to `MAX_DETAILS`.

    Raises:
        MalformedRequest: There are.
    """
    if details := list(islice(mistakes, MAX_DETAILS)):
        raise MalformedRequest("malformed_body", message, details)


def text_mistakes(
    text: object, path: str, max_length: int, *, lines: bool = True
) -> Iterator[Detail]:
    """Yield the faults of *text* as text for people, which may hold *lines* and tabs.

    *max_length* is in code points, as Meta counts them.
    """
    if not isinstance(text, str):
        yield Detail(path, "must be a string")
        return
    if is_blank(text):
        yield Detail(path, "must not be blank")
    if len(text) > max_length:
        yield Detail(path, f"must not be longer than {max_length} characters")
    if lines and _has(_CONTROL_IN_TEXT, text):
        yield Detail(path, "must not contain control characters except line ends and tab")
    if not lines and _has(_CONTROL, text):
        yield Detail(path, "must be one line without control characters")


def with_line_feeds(text: str) -> str:
    """Return *text* with CR LF and CR replaced by LF, which Meta accepts."""
    return _LINE_END.sub("\n", text) if "\r" in text else text


def is_plain(value: object, max_length: int) -> bool:
    """Return whether *value* is one line of text, not blank, of at most *max_length*.

    The length is in UTF-16 code units.
    """
    return (
        isinstance(value, str)
        and utf16_length(value) <= max_length
        and not _has(_CONTROL, value)
        and not is_blank(value)
    )


def _has(control: re.Pattern[str], text: str) -> bool:
    """Return whether *text* has a character of *control*."""
    # Printable text has none; checking that first costs a tenth of the pattern.
    return not text.isprintable() and control.search(text) is not None


def is_blank(text: str) -> bool:
    """Return whether *text* has no visible character."""
    return _BLANK.fullmatch(text) is not None


def utf16_length(text: str) -> int:
    """Return the length of *text* by the count of Meta and JavaScript, where an emoji is two."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def is_phone(value: object) -> bool:
    """Return whether *value* is a phone number: up to 15 digits, optionally preceded by '+'."""
    return isinstance(value, str) and _PHONE.fullmatch(value) is not None


def is_recipient(value: object) -> bool:
    """Return whether *value* is a phone number, with separators between its digits or without."""
    return isinstance(value, str) and _RECIPIENT.fullmatch(value) is not None


def digits_of(phone: str) -> str:
    """Return the digits of *phone*."""
    return _NO_DIGITS.sub("", phone)


def is_group_id(value: object) -> bool:
    """Return whether *value* can be the id of a group.

    A number cannot: it is a phone number, or the id of another object of Graph.
    """
    return (
        is_plain(value, 256)
        and is_safe_id(value)
        and _NOT_IN_A_GROUP_ID.search(str(value)) is None
        and _NUMBER.fullmatch(str(value)) is None
    )


def _text_route_mistakes(fields: Fields) -> Iterator[Detail]:
    if not is_recipient(fields.get("to")):
        yield Detail("to", _PHONE_WANTED)
    yield from text_mistakes(fields.get("text"), "text", MAX_TEXT_LENGTH)
    if "previewUrl" in fields and not isinstance(fields["previewUrl"], bool):
        yield Detail("previewUrl", "must be true or false")


_PHONE_WANTED = (
    "must be a string of 1 to 15 digits, optionally preceded by '+', with spaces, hyphens and "
    "parentheses between"
)


def _graph_mistakes(fields: Fields, *, groups_enabled: bool) -> Iterator[Detail]:
    if fields.get("messaging_product") != "whatsapp":
        yield Detail("messaging_product", "must be 'whatsapp'")
    if "status" in fields:
        yield from _read_mark_mistakes(fields)
    else:
        yield from _recipient_mistakes(fields, groups_enabled=groups_enabled)
        yield from _content_mistakes(fields)


def _marketing_mistakes(fields: Fields) -> Iterator[Detail]:
    if fields.get("messaging_product") != "whatsapp":
        yield Detail("messaging_product", "must be 'whatsapp'")
    if "status" in fields:
        yield Detail("status", "must not be given for a marketing message")
    if fields.get("recipient_type", "individual") != "individual":
        yield Detail("recipient_type", "must be 'individual'")
    yield from person_mistakes(fields)
    if fields.get("type") != "template":
        yield Detail("type", "must be 'template'")
    if not isinstance(_content_of(fields, "template"), dict):
        yield Detail("template", "must be an object")
    if "product_policy" in fields and fields["product_policy"] not in PRODUCT_POLICIES:
        yield Detail("product_policy", f"must be one of {', '.join(PRODUCT_POLICIES)}")
    if not isinstance(fields.get("message_activity_sharing", False), bool):
        yield Detail("message_activity_sharing", "must be true or false")


def _read_mark_mistakes(fields: Fields) -> Iterator[Detail]:
    if fields["status"] != "read":
        yield Detail("status", "must be 'read'")
    if not is_safe_id(fields.get("message_id")):
        yield Detail("message_id", "must be the id of a message")
    if not isinstance(fields.get("typing_indicator", {}), dict):
        yield Detail("typing_indicator", "must be an object")
    # A body that could be both must not leave it to Meta which of the two it is.
    if "type" in fields:
        yield Detail("type", "must not be combined with 'status'")


def _recipient_mistakes(fields: Fields, *, groups_enabled: bool) -> Iterator[Detail]:
    if fields.get("recipient_type", "individual") not in ("individual", "group"):
        yield Detail("recipient_type", "must be 'individual' or 'group'")
    if not groups_enabled:
        yield from disabled_group_mistakes(fields)
    elif fields.get("recipient_type") != "group" and fields.get("type") == "pin":
        yield Detail("recipient_type", "must be 'group' to pin a message")
    if fields.get("recipient_type") == "group":
        yield from group_id_mistakes(fields)
    else:
        yield from person_mistakes(fields)


def disabled_group_mistakes(fields: Fields) -> Iterator[Detail]:
    """Yield the members of *fields* that need groups, which are not enabled."""
    for path, word in (("recipient_type", "group"), ("recipientType", "group"), ("type", "pin")):
        if fields.get(path) == word:
            yield Detail(path, "groups are not enabled")


def group_id_mistakes(fields: Fields) -> Iterator[Detail]:
    """Yield the mistakes of the recipient of *fields*, a message to a group."""
    if not is_group_id(fields.get("to")):
        yield Detail("to", "must be the id of a group")
    if "recipient" in fields:
        yield Detail("recipient", "must not be given for a group")


def person_mistakes(fields: Fields) -> Iterator[Detail]:
    """Yield the mistakes of the recipient of *fields*, a message to a person."""
    if "to" not in fields and "recipient" not in fields:
        yield Detail("to", "must be given unless 'recipient' is")
    if "to" in fields and not is_recipient(fields["to"]):
        yield Detail("to", _PHONE_WANTED)
    if "recipient" in fields and not _is_bsuid(fields["recipient"]):
        yield Detail("recipient", "must be a business-scoped user id")


def _is_bsuid(value: object) -> bool:
    return isinstance(value, str) and _BSUID.fullmatch(value) is not None


def _content_mistakes(fields: Fields) -> Iterator[Detail]:
    kind = fields.get("type")
    if not isinstance(kind, str) or _TYPE.fullmatch(kind) is None:
        yield Detail("type", "must be a type of Graph's format, such as 'interactive'")
        return
    content = _content_of(fields, kind)
    if kind == "contacts":
        if not isinstance(content, list):
            yield Detail("contacts", "must be an array")
    elif not isinstance(content, dict):
        yield Detail("type", "must be the name of an object in the same body")
    elif kind == "text":
        yield from text_mistakes(content.get("body"), "text.body", MAX_TEXT_LENGTH)
        if not isinstance(content.get("preview_url", False), bool):
            yield Detail("text.preview_url", "must be true or false")


def _content_of(fields: Fields, kind: str) -> object:
    """Return the content of a message; Graph also takes it as a text with its JSON."""
    content = fields.get(kind)
    if isinstance(content, str):
        with suppress(MalformedRequest):
            return _decode(content.encode())
    return content
