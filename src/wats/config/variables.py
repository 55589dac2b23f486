"""Env files: lines of KEY=VALUE. Reads the named file only."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wats.config.reading import read_text
from wats.errors import ConfigError, ConfigIssue

MAX_ENV_FILE_BYTES: Final = 65_536

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_QUOTED = re.compile(r"""(?:'([^']*)'|"([^"]*)")\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


def read_env_file(path: str | Path) -> Mapping[str, str]:
    """Return the variables that the env file at *path* sets.

    Raises:
        ConfigError: The file cannot be read, or has lines that cannot be used, each named.
    """
    content = read_text(Path(path), limit=MAX_ENV_FILE_BYTES, where="env-file")
    return parse_env_file(content)


def parse_env_file(content: str) -> Mapping[str, str]:
    """Return the variables that *content* sets.

    A line is `KEY=VALUE`, may begin with `export`, and may end with a comment. A value in quotes
    of either kind is taken as it stands between them. A variable with a blank value is not set, so
    that a template can be used before all of it is filled in.

    Raises:
        ConfigError: Some lines are something else, or set a variable again. Each is named by its
            number, none is shown.
    """
    issues: list[ConfigIssue] = []
    variables: dict[str, str] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(text)
        value = _value(match[2].strip()) if match else None
        if match is None or value is None:
            issues.append(_issue(number, "Must be KEY=VALUE or a comment."))
        elif match[1] in variables:
            issues.append(_issue(number, "Sets a variable that an earlier line already sets."))
        else:
            variables[match[1]] = value
    if issues:
        raise ConfigError(issues)
    return {key: value for key, value in variables.items() if value.strip()}


def _value(text: str) -> str | None:
    if _CONTROL.search(text):
        return None
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", text)
    quoted = _QUOTED.fullmatch(text)
    return (quoted[1] or quoted[2] or "") if quoted else None


def _issue(number: int, reason: str) -> ConfigIssue:
    return ConfigIssue("invalid_env_file", f"env-file:{number}", reason)
