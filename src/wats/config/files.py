"""Config files become plain values, and env files variables. Reads the named files only."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from typing_extensions import override

from wats.errors import ConfigError, ConfigIssue
from wats.faults import fault_of

MAX_CONFIG_BYTES: Final = 1_048_576
MAX_VALUES: Final = 10_000


class _Unreadable(ValueError):
    """The text breaks a rule of config files that its format does not have."""


def read_text(path: Path, *, limit: int, where: str, shown: str = "The file") -> str:
    """Return the text of the file at *path*, without a byte order mark.

    Args:
        path: The file.
        limit: The maximum number of bytes.
        where: The key or option that names the file.
        shown: The subject of a refusal; a path that the operator gave on the command line.

    Raises:
        ConfigError: At *where*: the file cannot be read, is larger than *limit* bytes or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = f"{shown} cannot be read: {fault_of(error).meaning}."
        raise _error("file_read_error", where, reason) from None
    if len(content) > limit:
        raise _error("file_read_error", where, f"{shown} has more than {limit} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _error("parse_error", where, f"{shown} is not UTF-8.") from None


def read_document(path: Path) -> object:
    """Return the contents of the config file at *path*, as plain values.

    Raises:
        ConfigError: The file cannot be read, is not in the format of its extension, repeats a key,
            or expands beyond any reasonable size.
    """
    decode = _DECODERS.get(path.suffix.lower())
    if decode is None:
        raise _error("unsupported_format", "$", "Must be a '.yaml', '.yml' or '.json' file.")
    content = read_text(path, limit=MAX_CONFIG_BYTES, where="$", shown=repr(str(path)))
    try:
        document = decode(content)
    except _Unreadable as error:
        raise _error("parse_error", "$", str(error)) from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise _error("parse_error", "$", f"The file is not valid{_position(error)}.") from None
    if not _is_bounded(document):
        reason = f"The file has more than {MAX_VALUES} values after its aliases are expanded."
        raise _error("parse_error", "$", reason)
    return document


def _error(code: str, where: str, reason: str) -> ConfigError:
    return ConfigError([ConfigIssue(code, where, reason)])


_REASONS: Final = (
    "could not determine a constructor for the tag",
    "could not find expected ':'",
    "expected ',' or ']'",
    "expected ',' or '}'",
    "expected '<document start>'",
    "expected <block end>",
    "expected the node content",
    "found another document",
    "found character '\\t'",
    "found duplicate anchor",
    "found undefined alias",
    "found undefined tag handle",
    "found unexpected document separator",
    "found unexpected end of stream",
    "found unknown escape character",
    "invalid indentation",
    "mapping keys are not allowed here",
    "mapping values are not allowed here",
    "sequence entries are not allowed here",
    "special characters are not allowed",
    "Expecting ',' delimiter",
    "Expecting ':' delimiter",
    "Expecting property name enclosed in double quotes",
    "Expecting value",
    "Extra data",
    "Illegal trailing comma",
    "Invalid \\escape",
    "Invalid control character",
    "Unterminated string",
)
"""The beginnings of the messages of both parsers; their ends may quote the file."""


def _position(error: Exception) -> str:
    """Return line, column and reason, as far as they are known."""
    message, place = getattr(error, "problem", None) or getattr(error, "reason", None), ""
    if isinstance(error, json.JSONDecodeError):
        message, place = error.msg, f" in line {error.lineno}, column {error.colno}"
    elif mark := getattr(error, "problem_mark", None):
        place = f" in line {mark.line + 1}, column {mark.column + 1}"
    message = str(message).removeprefix("but ")
    reason = next((each for each in _REASONS if message.startswith(each)), None)
    return f"{place}: {reason}" if reason else place


def _is_bounded(document: object) -> bool:
    """Return whether *document* is small with every alias expanded."""
    pending, count = [document], 1
    while pending:
        value = pending.pop()
        inner: Collection[object] = ()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
        # Counted before they are stored, so that a file cannot make us hold more either.
        count += len(inner)
        if count > MAX_VALUES:
            return False
        pending.extend(inner)
    return True


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        reason = "A mapping in the file has a duplicate key."
        raise _Unreadable(reason)
    return mapping


def _refuse_constant(_: str) -> object:
    reason = "The file has a number that is not valid JSON."
    raise _Unreadable(reason)


def _decode_json(content: str) -> object:
    return json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse_constant)


_SCALARS: Final = {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?",
}
_TAGS: Final = [f"tag:yaml.org,2002:{name}" for name in (*_SCALARS, "str", "seq", "map")]


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of its 1.2 core schema, and with unique keys that are text.

    PyYAML's own rules are those of 1.1: there `0123` is 83, `1:30` is 90 and `no` is false, so an
    id without quotes could silently become another one.
    """

    # PyYAML reads its tables from the class and types them as if they were an object's.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # see above
    yaml_constructors = {  # noqa: RUF012  # see above
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*_TAGS, None)
    }

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # the spelling of `!!map` in an earlier version
            raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_scalar(key_node)
            if key in mapping:
                line = key_node.start_mark.line + 1
                reason = f"Line {line} has a key that its mapping already has."
                raise _Unreadable(reason)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


for _tag, _pattern in zip(_TAGS, _SCALARS.values(), strict=False):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})\Z"), None)


def _decode_yaml(content: str) -> object:
    loader = _Loader(content)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


_DECODERS: Final[dict[str, Callable[[str], object]]] = {
    ".json": _decode_json,
    ".yaml": _decode_yaml,
    ".yml": _decode_yaml,
}


MAX_ENV_FILE_BYTES: Final = 65_536
MAX_ENV_FILE_ISSUES: Final = 10
"""The number of invalid lines that are reported one by one."""

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_QUOTED = re.compile(r"""(?:'([^']*)'|"([^"]*)")\s*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


def read_env_file(path: str | Path, directory: Path | None = None) -> Mapping[str, str]:
    """Return the variables that the env file at *path* sets.

    A relative *path* starts at the working directory or, if there is no such file, at *directory*.

    Raises:
        ConfigError: The file cannot be read, or has lines that cannot be used.
    """
    found = Path(path) if directory is None else find_env_file(path, directory)
    content = read_text(found, limit=MAX_ENV_FILE_BYTES, where="env-file", shown=repr(str(path)))
    return parse_env_file(content)


def find_env_file(path: str | Path, directory: Path) -> Path:
    """Return *path*, or *path* in *directory* if only that exists."""
    fallback = directory / path
    return fallback if not _exists(Path(path)) and _exists(fallback) else Path(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that cannot be searched: reading the file gives the reason
        return True


def parse_env_file(content: str) -> Mapping[str, str]:
    """Return the variables that *content* sets.

    A line is `KEY=VALUE`, may begin with `export`, and may end with a comment. A value in quotes of
    either kind is taken literally. A variable with a blank value is not set, so that a template can
    be used before it is completely filled in.

    Raises:
        ConfigError: Some lines have another form, or set a variable again. Each is named by its
            number, none is shown. Many are one issue: then the file is not an env file.
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
    if len(issues) > MAX_ENV_FILE_ISSUES:
        first = issues[0].path.removeprefix("env-file:")
        reason = f"Is not an env file: {len(issues)} lines are invalid, the first is line {first}."
        issues = [ConfigIssue("invalid_env_file", "env-file", reason)]
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
