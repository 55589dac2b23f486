"""The keys of the config file as data, and as the table of the documentation. No I/O."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wats.config.fields import FILE, PROFILE, Key, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """One key of the config file, in its documented form.

    Attributes:
        path: Its position, `NAME` being the name of a profile.
        type: The valid values.
        required: Whether there is no default; in an optional section, whether the section needs it.
        default: Its value if it is omitted.
        meaning: Its purpose, in one sentence.
    """

    path: str
    type: str
    required: bool
    default: object
    meaning: str


def config_keys() -> tuple[ConfigKey, ...]:
    """Return every key that a config file can have, in the order of the file."""
    return (*(_describe("", key) for key in FILE), *_profile_keys("profiles.NAME."))


def markdown_table() -> str:
    """Return the keys as a Markdown table."""
    rows = [_row(key) for key in config_keys()]
    return "\n".join(["| Key | Must be | Default | Meaning |", "|---|---|---|---|", *rows])


def _profile_keys(path: str) -> Iterator[ConfigKey]:
    for entry in PROFILE:
        if isinstance(entry, Section):
            yield from (_describe(f"{path}{entry.name}.", key) for key in entry.keys)
        else:
            yield _describe(path, entry)


def _describe(path: str, key: Key) -> ConfigKey:
    return ConfigKey(
        path=f"{path}{key.name}",
        type=key.expects,
        required=key.required,
        default=key.default,
        meaning=key.spec.meaning,
    )


def _row(key: ConfigKey) -> str:
    if key.required:
        default = "required"
    elif key.default in (None, ()):
        default = "none"
    else:
        default = f"`{json.dumps(key.default)}`"
    kind = re.sub("('[^']+'|[{][^}]+[}])", r"`\1`", key.type).replace("`'", "`").replace("'`", "`")
    return f"| `{key.path}` | {kind} | {default} | {key.meaning} |"
