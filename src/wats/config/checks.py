"""The rules for values of the config file, and the properties of its keys. No I/O."""

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeGuard
from urllib.parse import SplitResult, urlsplit

from wats.ids import is_safe_id

MAX_PORT: Final = 65_535
MIN_BEARER_CHARACTERS: Final = 16
MIN_BEARER_ALPHABET: Final = 8
ENVIRONMENT: Final = "environment"
_MAX_PATH: Final = 255
_MAX_ID: Final = 10**32

_URL = re.compile(r"[!-~]{1,2048}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"(?:/[^\x00-\x20/\\?#:*{}\x7f-\U0010ffff]+)+")
_PLAIN_PATH = re.compile("[A-Za-z0-9._~=@/-]+")
_VERSION_AT_END = re.compile("/v[0-9]+[.][0-9]+$")
_ENCODED_DOT = re.compile(r"%(?:25)*2e", re.IGNORECASE)
_ENCODED_SLASH = re.compile(r"%(?:25)*(?:2f|5c)", re.IGNORECASE)


_LONGEST_WORD: Final = 40

_DURATION = re.compile("([1-9][0-9]{0,6})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Check:
    """A rule for one value.

    Attributes:
        expects: The valid values, to follow the words "Must be". The documentation shows it as the
            key's type, so it is both the rule and its explanation.
        accept: Returns the accepted value in its final form, or None to refuse it.
        words: The valid values, if they are too many for *expects*.
    """

    expects: str
    accept: Callable[[object], object]
    words: Sequence[str] = ()

    def reason(self, value: object) -> str:
        """Return why *value* is refused, with the nearest word instead of the value."""
        if not self.words:
            hint = ", without quotes" if self._is_quoted(value) else ""
            return f"Must be {self.expects}{hint}."
        near = get_close_matches(str(value)[:_LONGEST_WORD], self.words, n=1)
        words = ", ".join(f"'{each}'" for each in self.words)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"Must be {self.expects}: {words}.{hint}"

    def _is_quoted(self, value: object) -> bool:
        """Return whether *value* is the text of a number or truth value that is accepted."""
        if not isinstance(value, str):
            return False
        try:
            return self.accept(json.loads(value)) is not None
        except (ValueError, RecursionError):
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The properties of a config key, except its name and default.

    Attributes:
        check: The rule for its value; for a secret, the rule for its source.
        code: The code of an issue with this key.
        meaning: One sentence for the documentation.
        name: The key in the file, where it is not the attribute in camelCase.
        section: The section of a secret, since all secrets are kept together.
        secret: The rule for the secret itself.
        repeats: Whether a list may replace one value. The attribute is always a tuple.
        selects: Whether the default is everything. An empty list, which would select nothing, is
            refused, so that it is not taken for the default.
        shy: Whether `redact` hides the value.
    """

    check: Check
    code: str
    meaning: str
    name: str | None = None
    section: str | None = None
    secret: Check | None = None
    repeats: bool = False
    selects: bool = False
    shy: bool = False


def key(check: Check, code: str, meaning: str, **more: Any) -> Mapping[str, Spec]:
    """Return the metadata of a field of the profile."""
    return {"spec": Spec(check=check, code=code, meaning=meaning, **more)}


def text(pattern: str, expects: str) -> Check:
    """Accept a string that *pattern* matches from end to end."""
    compiled = re.compile(pattern)

    def accept(value: object) -> str | None:
        return value if isinstance(value, str) and compiled.fullmatch(value) else None

    return Check(expects, accept)


def printable(limit: int, expects: str) -> Check:
    """Accept up to *limit* characters of any script: not blank, and none invisible."""

    def accept(value: object) -> str | None:
        return value if _is_printable(value) and len(value) <= limit else None

    return Check(expects, accept)


def whole(low: int, high: int) -> Check:
    """Accept an integer from *low* to *high*; `true` is not one."""

    def accept(value: object) -> int | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if low <= value <= high else None

    expects = f"the number {low}" if low == high else f"a whole number from {low} to {high}"
    return Check(expects, accept)


def number(low: float, high: float) -> Check:
    """Accept any number from *low* to *high*, as a float."""

    def accept(value: object) -> float | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if low <= value <= high else None

    return Check(f"a number from {low:g} to {high:g}", accept)


def duration(longest_seconds: float) -> Check:
    """Accept a duration with its unit, such as '90s' or '2h', or a number of seconds."""

    def accept(value: object) -> float | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if 0 < value <= longest_seconds else None
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
        return float(seconds) if 0 < seconds <= longest_seconds else None

    days = longest_seconds / _UNIT_SECONDS["d"]
    form = "a duration such as '30s', '5m', '2h' or '1d', or a number of seconds"
    return Check(f"{form}, at most {days:g} days", accept)


def one_of(*words: str) -> Check:
    """Accept one of *words*."""
    expects = " or ".join(f"'{word}'" for word in words)
    return Check(expects, lambda value: value if value in words else None)


def _accept_bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _accept_mapping(value: object) -> object:
    return value if isinstance(value, dict) and value else None


def _is_printable(value: object) -> TypeGuard[str]:
    # Lone surrogates are not printable either: accepted text can be encoded.
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _accept_account_id(value: object) -> str | None:
    # YAML reads an id without quotes as a number; its digits are unchanged.
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_ID:
        return str(value)
    return value if is_safe_id(value) and _is_printable(value) else None


def _accept_phone_number_id(value: object) -> str | None:
    identifier = _accept_account_id(value)
    return identifier if identifier and re.fullmatch("[0-9]{1,32}", identifier) else None


def _accept_path(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > _MAX_PATH:
        return None
    path = value.removesuffix("/")
    # Proxies decode a path once or more before they compare it; a part that could become a dot
    # segment or another slash would give them and us different paths.
    segments = _ENCODED_DOT.sub(".", path).split("/")
    is_safe = _PATH.fullmatch(path) and not _ENCODED_SLASH.search(path)
    return path if is_safe and not {".", ".."} & set(segments) else None


def _accept_webhook_path(value: object) -> str | None:
    path = _accept_path(value)
    # A trailing slash stays: Meta sends exactly the path that its dashboard has.
    return str(value) if path is not None and _PLAIN_PATH.fullmatch(str(value)) else None


def split_url(value: object) -> SplitResult | None:
    """Return the parts of *value* if it is a URL in visible ASCII."""
    # `urlsplit` silently drops line breaks and tabs, hence the pattern before it.
    if not isinstance(value, str) or not _URL.fullmatch(value) or "\\" in value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_host(host: str) -> bool:
    """Return whether *host* is a name or an address, IPv6 without brackets."""
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _accept_public_database_url(value: object) -> str | None:
    url = database_url.accept(value)
    if not isinstance(url, str) or url.startswith("sqlite:"):
        return url if isinstance(url, str) else None
    parts = split_url(url)
    # libpq takes a password as a parameter too.
    is_public = parts is not None and parts.password is None and "password" not in parts.query
    return url if is_public else None


def _accept_web_url(value: object) -> str | None:
    parts = split_url(value)
    if parts is None or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        return None
    if not is_host(parts.hostname or "") or "?" in str(value) or "#" in str(value):
        return None
    return str(value).rstrip("/")


def _accept_graph_url(value: object) -> str | None:
    url = _accept_web_url(value)
    return None if url is None or _VERSION_AT_END.search(url) else url


def is_plain_beyond_loopback(url: str) -> bool:
    """Return whether the requests to *url*, a `web_url`, can be read on a network."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _accept_proxy(value: object) -> str | None:
    match value:
        case "environment":
            return ENVIRONMENT
        case {"url": url, **more} if not more:
            found = _accept_web_url(url)
            return found if isinstance(found, str) else None
    return None


def _accept_bearer_token(value: object) -> str | None:
    # Guessing is not limited in number. This check cannot verify that a token is random, but it
    # refuses tokens that certainly are not.
    if not isinstance(value, str) or token.accept(value) is None:
        return None
    is_long_enough = len(value) >= MIN_BEARER_CHARACTERS
    return value if is_long_enough and len(set(value)) >= MIN_BEARER_ALPHABET else None


def _accept_short_name(value: object) -> str | None:
    # A longer run of digits could be the number of a person, which telemetry refuses.
    is_name = isinstance(value, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_-]{0,39}", value)
    return str(value) if is_name and not re.search("([0-9]-*){7}", str(value)) else None


def _accept_webhook_secret(value: object) -> str | None:
    try:
        key = base64.b64decode(str(value).removeprefix("whsec_"), validate=True)
    except ValueError:
        return None
    return str(value) if str(value).startswith("whsec_") and 24 <= len(key) <= 64 else None


MAX_THROUGHPUT = 1000


def _accept_throughput(value: object) -> int | None:
    # Programs that write YAML by the rules of version 1.1 write a plain `off` as false.
    if value is False or value == "off":
        return 0
    found = whole(1, MAX_THROUGHPUT).accept(value)
    return found if isinstance(found, int) else None


throughput = Check(f"a whole number from 1 to {MAX_THROUGHPUT}, or 'off'", _accept_throughput)
version = whole(1, 1)
flag = Check("true or false", _accept_bool)
name = printable(128, "a name of at most 128 printable characters")
short_name = Check(
    "at most 40 letters, digits, '_' and '-', the first one a letter or '_', without 7 digits in a "
    "row",
    _accept_short_name,
)
profiles = Check("a mapping of names to profiles, with at least one profile", _accept_mapping)
graph_version = text("v[0-9]{1,3}[.][0-9]{1,3}", "a version such as 'v25.0'")
web_url = Check(
    "an http or https URL without credentials, query or fragment",
    _accept_web_url,
)
graph_url = Check(
    "an http or https URL without API version, credentials, query or fragment",
    _accept_graph_url,
)
proxy = Check(
    "'environment', or {url: URL} with an http or https URL without credentials", _accept_proxy
)
database_url = text(
    r"sqlite:///[^?#\x00-\x1f\x7f\ud800-\udfff]{1,4096}|postgres(?:ql)?://[!-~]{1,2048}",
    "'sqlite:///FILE' or 'postgresql://USER:PASSWORD@HOST:PORT/NAME'",
)
public_database_url = Check(
    "'sqlite:///FILE', or 'postgresql://USER@HOST:PORT/NAME' without a password",
    _accept_public_database_url,
)
password = printable(1024, "a password of at most 1024 printable characters")
account_id = Check("an id of at most 256 printable characters", _accept_account_id)
phone_number_id = Check("an id of 1 to 32 digits", _accept_phone_number_id)
number_reference = Check(
    "the name of a number, or its id",
    lambda value: _accept_short_name(value) or _accept_phone_number_id(value),
)
display_phone_number = text("[0-9]{1,20}", "1 to 20 digits, in quotes")
absolute_path = Check(
    "a path such as '/api' in visible ASCII, without '\\', '?', '#', ':', '*', '{', '}', "
    "empty segments, dot segments or encoded slashes",
    _accept_path,
)
webhook_path = Check(
    "a path such as '/webhooks/whatsapp' of letters, digits, '-', '.', '_', '~', '=' and '@', "
    "without empty segments or dot segments",
    _accept_webhook_path,
)
bind_host = text("[A-Za-z0-9._:%-]{1,253}", "an address or a host name, IPv6 without brackets")
port = whole(1, MAX_PORT)
bind_port = whole(0, MAX_PORT)
workers = whole(1, 64)
function = text(
    r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*",
    "'package.module:function'",
)
variable_name = text("[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of an environment variable")
token = text("[!-~]{1,4096}", "1 to 4096 visible ASCII characters without spaces or line breaks")
bearer_token = Check(
    f"{MIN_BEARER_CHARACTERS} to 4096 visible ASCII characters without spaces or line breaks, with "
    f"at least {MIN_BEARER_ALPHABET} different characters; 'wats token' generates one",
    _accept_bearer_token,
)
webhook_secret = Check("'whsec_' and 24 to 64 bytes in base64", _accept_webhook_secret)
verify_token = printable(512, "at most 512 printable characters")
