"""Search a text for private values of a config, in any encoding and in parts. No I/O."""

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from wats.config import (
    EnvRef,
    NumberConfig,
    ProfileSource,
    Secrets,
    SecretSource,
    SecretSources,
    SubscriberConfig,
    database_of,
)
from wats.config.numbers import DEFAULT_NUMBER
from wats.privacy import Secret
from wats.web.parts import HOOK_LABEL

PART_CHARACTERS: Final = 10
"""This many consecutive characters reveal a secret."""

PART_DIGITS: Final = 8
"""This many consecutive digits reveal an id."""

_BETWEEN_DIGITS: Final = re.compile(r"(?<=[0-9])[ ().+/_-]{1,3}(?=[0-9])")

_ANYWHERE: Final = ("0.0.0.0", "::", "127.0.0.1", "::1", "localhost")  # noqa: S104 - not bound

PUBLIC: Final = frozenset({"", *_ANYWHERE, "graph.facebook.com", HOOK_LABEL})
"""Values of a config that identify no installation."""

_URL_PARTS: Final = re.compile("[/?&=;]")

_WORD: Final = re.compile("[a-z]{1,9}")
"""A lowercase word shorter than `PART_CHARACTERS`."""

_SHORTEST_PART: Final = 4
"""A shorter part of a URL, such as `v2`, is in every text."""

WORDS: Final = frozenset(
    {
        *("checkpoint", "concurrency", "conversations", "deliveries", "diagnostics"),
        *("implementation", "interactive", "persistence", "processing", "subscribers"),
        *("throughput",),
    }
)
"""Longer words that are in the report of any installation; a test compares them with a report."""


class SearchMode(Enum):
    """How the text is searched for a value."""

    SECRET = "secret"  # noqa: S105 - a word, not a secret
    """In every encoding, any part."""
    NUMBER = "number"
    """In any grouping of digits, any part."""
    NAME = "name"
    """As a complete word."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A forbidden value: its position in the config, which may be shown, and the value."""

    key: str
    value: Secret
    mode: SearchMode


def needles(profile: ProfileSource, secrets: Secrets) -> list[Needle]:
    """Return every secret and every identifier of a config, with their sources."""
    found = [*_secrets(secrets), *_sources(profile.secrets)]
    service = profile.service
    database = database_of(profile, secrets)[0] or ""
    for each in profile.all_numbers:
        place = "whatsapp" if each.name == DEFAULT_NUMBER else "numbers"
        found += _of_number(each, place, secrets)
    for token in service.tokens:
        found += _of_list("service.tokens.token", token.tokens, secrets.api_tokens, token.name)
    names = {
        "webhook.path": profile.webhook.path,
        "service.host": service.host,
        "service.publicUrl": urlsplit(service.public_url or "").hostname or "",
        "graph.baseUrl": urlsplit(profile.graph.base_url).hostname or "",
        "persistence.url": database.removeprefix("sqlite:///"),
    }
    if not database.startswith("sqlite:"):
        names["persistence.url"] = urlsplit(database).hostname or ""
        password = urlsplit(database).password
        if password:
            found.append(Needle("persistence.url", Secret(unquote(password)), SearchMode.SECRET))
    found += [
        Needle(k, Secret(name), SearchMode.NAME) for k, name in names.items() if _identifies(name)
    ]
    # A service in a cluster is often called like the subscriber, whose name the report may hold.
    shown = {each.name for each in profile.subscribers} | {each.name for each in profile.pullers}
    for subscriber in profile.subscribers:
        found += _of_subscriber(subscriber, secrets, shown)
    return found


def _identifies(value: str) -> bool:
    """Return whether *value* is more than a common word, which every report may contain."""
    return not (value in PUBLIC or value in WORDS or _WORD.fullmatch(value))


def _of_number(number: NumberConfig, place: str, secrets: Secrets) -> Iterator[Needle]:
    ids = {
        "wabaId": number.waba_id,
        "phoneNumberId": number.phone_number_id,
        "displayPhoneNumber": number.display_phone_number,
    }
    for key, value in ids.items():
        if value is not None:
            mode = SearchMode.NUMBER if value.isdecimal() else SearchMode.NAME
            yield Needle(f"{place}.{key}", Secret(value), mode)
    own = {name: (each,) for name, each in secrets.access_tokens.items()}
    yield from _of_list("numbers.accessToken", number.access_tokens, own, number.name)


def _of_list(
    key: str, sources: Sequence[SecretSource], held: Mapping[str, Sequence[Secret]], name: str
) -> Iterator[Needle]:
    """Yield the secrets of the item *name* of a list, and their sources."""
    for secret in held.get(name, ()):
        yield Needle(key, secret, SearchMode.SECRET)
    for source in sources:
        yield from _place_of(key, source)


def _of_subscriber(
    subscriber: SubscriberConfig, secrets: Secrets, shown: Collection[str]
) -> Iterator[Needle]:
    name = subscriber.name
    yield from _of_list("subscribers.secret", subscriber.secrets, secrets.subscribers, name)
    url = urlsplit(subscriber.url)
    parts = _URL_PARTS.split(f"{url.path}?{url.query}")
    decoded = [unquote(part) for part in parts]
    for part in dict.fromkeys((url.hostname or "", *parts, *decoded)):
        if len(part) >= _SHORTEST_PART and part not in shown and _identifies(part):
            yield Needle("subscribers.url", Secret(part), SearchMode.NAME)


def _secrets(secrets: Secrets) -> Iterator[Needle]:
    for key, attribute in _keys():
        held: Secret | tuple[Secret, ...] = getattr(secrets, attribute)
        for secret in (held,) if isinstance(held, Secret) else held:
            yield Needle(key, secret, SearchMode.SECRET)


def _sources(sources: SecretSources) -> Iterator[Needle]:
    for key, attribute in _keys():
        for source in getattr(sources, attribute):
            yield from _place_of(key, source)


def _place_of(key: str, source: SecretSource) -> Iterator[Needle]:
    place = source.name if isinstance(source, EnvRef) else source.path
    if _identifies(place):
        yield Needle(f"the place of {key}", Secret(place), SearchMode.NAME)


def _keys() -> Iterator[tuple[str, str]]:
    for attribute in fields(SecretSources):
        spec = attribute.metadata["spec"]
        yield f"{spec.section}.{spec.name}", attribute.name


class Haystack:
    """A text in all encodings that may hide a value."""

    def __init__(self, text: str) -> None:
        plain = re.sub(r'\\(["\\/])', r"\1", text)
        self._words = tuple(dict.fromkeys((text, plain, unquote(text))))
        self._folded = tuple(each.casefold() for each in self._words)
        self._digits = _BETWEEN_DIGITS.sub("", text)

    def keys_of(self, sought: Iterable[Needle]) -> list[str]:
        """Return the keys of those needles that are in the text, each once."""
        return list(dict.fromkeys(needle.key for needle in sought if self._has(needle)))

    def _has(self, needle: Needle) -> bool:
        value = needle.value.reveal()
        if needle.mode is SearchMode.SECRET:
            return self._has_secret(value)
        if needle.mode is SearchMode.NUMBER:
            return any(part in self._digits for part in _parts(value, PART_DIGITS))
        word = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
        return any(word.search(each) for each in self._words)

    def _has_secret(self, value: str) -> bool:
        folded = _parts(value.casefold(), PART_CHARACTERS)
        # An octet is two hexadecimal digits, and four thirds of a character in base64.
        encoded = (
            *_parts(value.encode().hex(), 2 * PART_CHARACTERS, step=2),
            *_parts(quote(value, safe="").casefold(), PART_CHARACTERS),
        )
        return any(part in each for part in {*folded, *encoded} for each in self._folded) or any(
            part in each for part in _base64_parts(value) for each in self._words
        )


def _parts(value: str, length: int, step: int = 1) -> Sequence[str]:
    """Return every substring of *value* of *length*; *value* itself if it is shorter."""
    last = max(len(value) - length, 0)
    return [value[at : at + length] for at in range(0, last + 1, step)]


def _base64_parts(value: str) -> Iterator[str]:
    # The bytes before a secret shift its bits; there are three ways.
    for shift in range(3):
        octets = b"\0" * shift + value.encode()
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(octets).decode().rstrip("=")
            whole = text[-(-shift * 4 // 3) : len(octets) * 4 // 3]
            yield from _parts(whole, PART_CHARACTERS * 4 // 3)
