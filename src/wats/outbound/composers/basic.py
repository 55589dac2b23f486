"""The composers of media, locations, reactions, contacts and pins. No I/O."""

from typing import Final

from wats.outbound.composers.common import (
    BODY_TEXT,
    FILENAME,
    ID,
    LABEL,
    LINK,
    LOCATION,
    media,
    required,
    under,
    unless_empty,
)
from wats.outbound.composers.composer import Composer
from wats.outbound.composers.rules import AnyOf
from wats.outbound.composers.values import (
    Array,
    Choice,
    Constant,
    Field,
    Flag,
    Number,
    Record,
    Refused,
    Shaped,
    TextValue,
    Value,
)

_CAPTION: Final = Field("caption", "caption", BODY_TEXT)
_NO_CAPTION: Final = Field("caption", "caption", Refused())


def _media(kind: str, summary: str, *more: Field) -> Composer:
    record = media(*more)
    return Composer(kind, kind, summary, under(kind, *record.members), record.rules)


def _list(item: Record) -> Array:
    return Array(item, 1, 20)


def _either(name: str, other: str, value: Value) -> Field:
    return Field(name, other, value, aliases=(other,))


_TYPE: Final = Field("type", "type", LABEL)

_NAME: Final = Record(
    (
        Field("formattedName", "formatted_name", BODY_TEXT, required=True, aliases=("formatted",)),
        _either("firstName", "first_name", LABEL),
        _either("lastName", "last_name", LABEL),
        _either("middleName", "middle_name", LABEL),
        Field("prefix", "prefix", LABEL),
        Field("suffix", "suffix", LABEL),
    ),
)
_PHONE: Final = Record(
    (Field("phone", "phone", LABEL), _either("waId", "wa_id", LABEL), _TYPE),
    rules=(AnyOf(("phone", "waId"), aliases=("wa_id",)),),
)
_ADDRESS_PARTS: Final = ("street", "city", "state", "zip", "country")
_ADDRESS: Final = Record(
    (
        *(Field(part, part, BODY_TEXT) for part in _ADDRESS_PARTS),
        _either("countryCode", "country_code", BODY_TEXT),
        Field("type", "type", BODY_TEXT),
    ),
    rules=(AnyOf((*_ADDRESS_PARTS, "countryCode", "type"), aliases=("country_code",)),),
)
_ORGANIZATION: Final = Record(
    tuple(Field(part, part, BODY_TEXT) for part in ("company", "department", "title"))
)
_URL: Final = TextValue(1024, pattern=LINK.pattern, form=LINK.form)
_CONTACT: Final = Record(
    (
        required("name", "name", _NAME),
        Field("phones", "phones", _list(_PHONE)),
        Field(
            "emails", "emails", _list(Record((required("email", "email", TextValue(1024)), _TYPE)))
        ),
        Field("urls", "urls", _list(Record((required("url", "url", _URL), _TYPE)))),
        Field("addresses", "addresses", _list(_ADDRESS)),
        Field("org", "org", Shaped(_ORGANIZATION, unless_empty)),
        Field("birthday", "birthday", TextValue(32)),
    )
)

COMPOSERS: Final = (
    _media("image", "A picture.", _CAPTION),
    _media("video", "A video.", _CAPTION),
    _media(
        "audio",
        "A sound, or a voice message.",
        _NO_CAPTION,
        Field("voice", "voice", Shaped(Flag(), unless_empty)),
    ),
    _media("document", "A file.", _CAPTION, FILENAME),
    _media("sticker", "A sticker.", _NO_CAPTION),
    Composer("location", "location", "A place.", under("location", *LOCATION)),
    Composer(
        "reaction",
        "reaction",
        "An emoji on a message.",
        under(
            "reaction",
            required("messageId", "message_id", ID),
            required("emoji", "emoji", TextValue(32)),
        ),
        is_reply=False,
    ),
    Composer(
        "removeReaction",
        "reaction",
        "Remove our emoji from a message.",
        under("reaction", required("messageId", "message_id", ID), Constant("emoji", "")),
        is_reply=False,
    ),
    Composer(
        "contacts",
        "contacts",
        "Contact cards.",
        (required("contacts", "contacts", Array(_CONTACT, 1, 257)),),
    ),
    Composer(
        "pin",
        "pin",
        "Pin a message in a group, or remove the pin. `to` is the id of the group.",
        under(
            "pin",
            required("pinType", "type", Choice(("pin", "unpin"))),
            required("messageId", "message_id", ID),
            required("expirationDays", "expiration_days", Number(1, 30)),
        ),
        is_reply=False,
        is_for_groups=True,
    ),
)
