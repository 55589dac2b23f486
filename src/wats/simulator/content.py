"""The content of a message as a phone shows it: a text, buttons and what it refers to. No I/O.

Any JSON is accepted: a missing or malformed member shows nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeAlias

MAX_BUTTONS: Final = 12
_DEGREES: Final = MappingProxyType({"latitude": 90, "longitude": 180})

Member: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PhoneContent:
    """The visible content of a message.

    Attributes:
        text: The text, or the caption of a media message.
        buttons: The titles that a customer can tap, also the rows of a list.
        reply_to: The id of the message that this one answers.
    """

    text: str
    buttons: tuple[str, ...] = ()
    reply_to: str = ""


def content_of(message: Member) -> PhoneContent:
    """Return the visible content of *message*, which has the form of Graph or of a webhook."""
    kind = _text(message, "type")
    read = _READERS.get(kind, _nothing)
    shown = read(_member(message, kind))
    return PhoneContent(
        shown.text,
        shown.buttons[:MAX_BUTTONS],
        shown.reply_to
        # Graph and webhooks name it differently.
        or _text(message, "context", "message_id")
        or _text(message, "context", "id"),
    )


def _nothing(_content: Member) -> PhoneContent:
    return PhoneContent("")


def _body(content: Member) -> PhoneContent:
    return PhoneContent(_text(content, "body"))


def _media(content: Member) -> PhoneContent:
    return PhoneContent(_lines(_text(content, "filename"), _text(content, "caption")))


def _button(content: Member) -> PhoneContent:
    return PhoneContent(_text(content, "text"))


def _reaction(content: Member) -> PhoneContent:
    return PhoneContent(_text(content, "emoji"), reply_to=_text(content, "message_id"))


def _location(content: Member) -> PhoneContent:
    position = ", ".join(filter(None, (_degrees(content, key) for key in _DEGREES)))
    return PhoneContent(_lines(_text(content, "name"), _text(content, "address"), position))


def _degrees(content: Member, key: str) -> str:
    value = content.get(key)
    # Python refuses to write very long integers.
    is_valid = isinstance(value, int | float) and abs(value) <= _DEGREES[key]
    return str(value) if is_valid else _text(content, key)


def _contacts(content: Member) -> PhoneContent:
    people = _members(content.get("contacts"))
    return PhoneContent(_lines(*(_text(each, "name", "formatted_name") for each in people)))


def _interactive(content: Member) -> PhoneContent:
    header = _member(content, "header")
    header_type = _text(header, "type")
    text = _lines(
        _text(header, "text") or (f"[{header_type}]" if header_type else ""),
        _text(content, "body", "text"),
        _text(content, "footer", "text"),
        *(_text(content, reply, "title") for reply in ("button_reply", "list_reply")),
        _text(content, "nfm_reply", "body"),
        *(_text(card, "body", "text") for card in _cards(content)),
    )
    actions = (_member(each, "action") for each in (content, *_cards(content)))
    return PhoneContent(text, tuple(chain.from_iterable(map(_choices, actions))))


def _cards(content: Member) -> list[Member]:
    return _members(_member(content, "action").get("cards"))


def _choices(action: Member) -> Iterator[str]:
    """Yield the titles of buttons; a list shows its own button first, and then its rows."""
    parameters = _member(action, "parameters")
    yield from filter(
        None,
        (
            _text(action, "button"),
            *(
                _text(each, reply, "title")
                for each in _members(action.get("buttons"))
                for reply in ("reply", "quick_reply")
            ),
            *(
                _text(row, "title")
                for section in _members(action.get("sections"))
                for row in _members(section.get("rows"))
            ),
            _text(parameters, "display_text"),
            _text(parameters, "flow_cta"),
        ),
    )


def _template(content: Member) -> PhoneContent:
    """Show the name and the parameters: only Meta has the text that they complete."""
    components = _members(content.get("components"))
    buttons = [each for each in components if _is_button(each)]
    others = [each for each in components if not _is_button(each)]
    language = _text(content, "language", "code")
    heading = _text(content, "name") + (f" ({language})" if language else "")
    return PhoneContent(
        _lines(heading, *map(_component, others)),
        tuple(filter(None, map(_component_button, buttons))),
    )


def _is_button(component: Member) -> bool:
    return _text(component, "type").lower() == "button"


def _component(component: Member) -> str:
    values = _parameters(component)
    return f"{_text(component, 'type').lower()}: {values}" if values else ""


def _component_button(component: Member) -> str:
    parts = (_text(component, "sub_type").lower(), _parameters(component))
    return " ".join(filter(None, parts))


def _parameters(component: Member) -> str:
    return ", ".join(map(_parameter, _members(component.get("parameters"))))


def _parameter(parameter: Member) -> str:
    kind = _text(parameter, "type")
    value = (
        _text(parameter, "text")
        or _text(parameter, "payload")
        or _text(parameter, kind, "fallback_value")
        or f"[{kind}]"
    )
    name = _text(parameter, "parameter_name")
    return f"{name}={value}" if name else value


def _lines(*parts: str) -> str:
    return "\n".join(filter(None, parts))


def _text(value: object, *path: str) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _member(value: Member, key: str) -> Member:
    found = value.get(key)
    if isinstance(found, list):
        return {key: found}
    return found if isinstance(found, Mapping) else {}


def _members(value: object) -> list[Member]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


_READERS: Final[Mapping[str, Callable[[Member], PhoneContent]]] = MappingProxyType(
    {
        "audio": _media,
        "button": _button,
        "contacts": _contacts,
        "document": _media,
        "image": _media,
        "interactive": _interactive,
        "location": _location,
        "reaction": _reaction,
        "sticker": _media,
        "template": _template,
        "text": _body,
        "video": _media,
    }
)
"""The reader of each message type; other types show their name only."""
