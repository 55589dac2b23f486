"""The sections of further numbers and of API tokens, and the rules between them. No I/O."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from wats.config import checks
from wats.config.checks import key
from wats.config.secret_sources import SOURCE, SecretSource
from wats.sends import OUTBOX

NUMBERS_CODE: Final = "invalid_numbers"
TOKENS_CODE: Final = "invalid_tokens"

DEFAULT_NUMBER: Final = "default"
"""The name of the number of the section `whatsapp`."""

ADMIN: Final = "admin"
TELEMETRY: Final = "telemetry"

NUMBER_SCOPES: Final = (
    "messages:read",
    "messages:write",
    "media:read",
    "media:write",
    "groups:read",
    "groups:write",
)
"""The scopes of the API; a token with only these can be limited to numbers."""

CONSUME: Final = "updates:consume"
"""The scope of polls, which return the updates of all numbers of a puller."""

SCOPES: Final = (*NUMBER_SCOPES, CONSUME, ADMIN, TELEMETRY)

OtherNumbers: TypeAlias = Literal["handle", "store", "ignore", "refuse"]
"""The policy for updates of numbers that are not configured."""

CONSUMERS: Final = ("subscribers", "pullers")
"""The sections of consumers, which can be limited to numbers."""

Mistake: TypeAlias = tuple[str, str, str]
"""A code, a path below the profile, and the valid values."""

throughput_check: Final = checks.whole(1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberConfig:
    """A business number, and the source of its access token if it has one of its own."""

    name: str = field(
        metadata=key(
            checks.short_name,
            NUMBERS_CODE,
            "The name of the number in the config and in the status; `default` is the number of "
            "the section `whatsapp`.",
        )
    )
    phone_number_id: str = field(
        metadata=key(
            checks.phone_number_id,
            NUMBERS_CODE,
            "The id of the business phone number, which is part of its paths.",
            shy=True,
        )
    )
    waba_id: str = field(
        metadata=key(
            checks.account_id,
            NUMBERS_CODE,
            "The id of the WhatsApp Business Account of the number.",
            shy=True,
        )
    )
    display_phone_number: str | None = field(
        default=None,
        metadata=key(
            checks.display_phone_number,
            NUMBERS_CODE,
            "The number as Meta's webhooks have it, for subscribers with the format `meta`.",
            shy=True,
        ),
    )
    access_tokens: tuple[SecretSource, ...] = field(
        default=(),
        metadata=key(
            SOURCE,
            "invalid_env_ref",
            "The bearer token for Graph calls of this number; `auth.accessToken` by default.",
            name="accessToken",
            secret=checks.token,
        ),
    )
    throughput: int | None = field(
        default=None,
        metadata=key(
            throughput_check,
            NUMBERS_CODE,
            "The number of messages per second that Meta permits for the number.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """A bearer token of a client, limited to scopes and perhaps to numbers."""

    name: str = field(
        metadata=key(checks.short_name, TOKENS_CODE, "The name of the token, for operators.")
    )
    tokens: tuple[SecretSource, ...] = field(
        metadata=key(
            SOURCE,
            "invalid_env_ref",
            "The bearer token, which no other entry has; a list during rotation.",
            name="token",
            secret=checks.bearer_token,
            repeats=True,
        )
    )
    scopes: tuple[str, ...] = field(
        metadata=key(
            checks.one_of(*SCOPES),
            TOKENS_CODE,
            "The operations that the token permits.",
            repeats=True,
        )
    )
    numbers: tuple[str, ...] = field(
        default=(),
        metadata=key(
            checks.number_reference,
            TOKENS_CODE,
            "The names or ids of the numbers that the token is limited to; all by default. Not "
            "with the scopes `admin` and `telemetry`, which are not limited to numbers.",
            repeats=True,
            selects=True,
        ),
    )


def name_numbers(found: Mapping[str, Any]) -> None:
    """Replace the ids of numbers by their names, in each list of numbers of a profile."""
    names = {
        each.get("phone_number_id"): each.get("name")
        for _, each in _sections(found.get("numbers", ()))
    }
    names[found.get("whatsapp", {}).get("phone_number_id")] = DEFAULT_NUMBER
    lists = found.get("service", {}).get("tokens", ()), *(found.get(each, ()) for each in CONSUMERS)
    for section in (section for sections in lists for _, section in _sections(sections)):
        if "numbers" in section:
            section["numbers"] = tuple(names.get(each) or each for each in section["numbers"])


def mistakes_between(found: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield the mistakes between the numbers, tokens, subscribers and pullers of a profile."""
    numbers = _sections(found.get("numbers", ()))
    yield from _repeated_numbers(numbers, found.get("whatsapp", {}).get("phone_number_id"))
    names = {DEFAULT_NUMBER, *(each.get("name") for _, each in numbers)}
    tokens = _sections(found.get("service", {}).get("tokens", ()))
    yield from _repeated_names(tokens, "service.tokens", TOKENS_CODE, "token", set())
    for i, token in tokens:
        place = f"service.tokens[{i}]"
        yield from _unknown_names(token, place, TOKENS_CODE, names)
        if token.get("numbers") and {CONSUME, ADMIN, TELEMETRY} & set(token.get("scopes", ())):
            expects = "left out with the scopes 'updates:consume', 'admin' and 'telemetry'"
            yield TOKENS_CODE, f"{place}.numbers", expects
    noun = f"subscriber or puller, {OUTBOX!r} included"
    consumers = {OUTBOX}
    for name in CONSUMERS:
        sections, code = _sections(found.get(name, ())), f"invalid_{name}"
        yield from _repeated_names(sections, name, code, noun, consumers)
        for i, each in sections:
            yield from _unknown_names(each, f"{name}[{i}]", code, names)


def _sections(values: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return the items of a list that are sections, with their positions."""
    return [(i, each) for i, each in enumerate(values) if isinstance(each, dict)]


def _repeated_numbers(
    numbers: Sequence[tuple[int, Mapping[str, Any]]], default_id: str | None
) -> Iterator[Mistake]:
    yield from _repeated_names(
        numbers, "numbers", NUMBERS_CODE, "number, 'default' included", {DEFAULT_NUMBER}
    )
    seen = {default_id}
    for i, each in numbers:
        phone_number_id = each.get("phone_number_id")
        if phone_number_id is not None and phone_number_id in seen:
            expects = "another id than that of each other number"
            yield NUMBERS_CODE, f"numbers[{i}].phoneNumberId", expects
        seen.add(phone_number_id)


def _repeated_names(
    sections: Sequence[tuple[int, Mapping[str, Any]]],
    place: str,
    code: str,
    noun: str,
    taken: set[str],
) -> Iterator[Mistake]:
    """Yield a mistake for each name that is *taken*, and add the other names to *taken*."""
    for i, each in sections:
        name = each.get("name")
        if name in taken:
            yield code, f"{place}[{i}].name", f"another name than that of each other {noun}"
        if name is not None:
            taken.add(name)


def _unknown_names(
    section: Mapping[str, Any], place: str, code: str, names: Collection[Any]
) -> Iterator[Mistake]:
    for i, name in enumerate(section.get("numbers", ())):
        if isinstance(name, str) and name not in names:
            yield (
                code,
                f"{place}.numbers[{i}]",
                "'default', or the name or id of an item of 'numbers'",
            )
