"""Select the form of the exposition for a scraper: RFC 9110 for the available forms. No I/O.

A client without an acceptable form gets plain text, which every scraper reads.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_OPENMETRICS: Final = ("application", "openmetrics-text", "1.0.0")
_TEXT: Final = ("text", "plain", "0.0.4")
_WEIGHT: Final = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?", re.ASCII)
_MAX_CHARACTERS: Final = 1024
"""A scraper's header has less than 400; a longer header is not read to the end."""


class _Range(NamedTuple):
    """One element of the header: the form and its weight."""

    value: str
    parameters: Mapping[str, str]
    weight: float


def prefers_openmetrics(accept: str | None) -> bool:
    """Return whether *accept*, an `Accept` header, prefers OpenMetrics 1.0 to text 0.0.4."""
    ranges = list(_ranges(accept))
    return _weight_of_form(_OPENMETRICS, ranges) > _weight_of_form(_TEXT, ranges)


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Return whether *accept_encoding*, an `Accept-Encoding` header, prefers gzip."""
    weights: dict[str, float] = {}
    for each in _ranges(accept_encoding):
        coding = "gzip" if each.value == "x-gzip" else each.value
        weights[coding] = max(each.weight, weights.get(coding, 0.0))
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0.0 and gzip >= weights.get("identity", 0.0)


def _weight_of_form(form: tuple[str, str, str], ranges: list[_Range]) -> float:
    """Return the weight that the most specific of *ranges* gives to *form*."""
    kind, subtype, version = form
    weights: dict[int, float] = {}
    for value, parameters, weight in ranges:
        asked = parameters.get("version")
        if value == f"{kind}/{subtype}" and asked in {None, version}:
            specificity = 2 if asked is None else 3
        elif value in {f"{kind}/*", "*/*"}:
            specificity = int(value != "*/*")
        else:
            continue
        weights[specificity] = max(weight, weights.get(specificity, 0.0))
    return weights[max(weights)] if weights else 0.0


def _ranges(header: str | None) -> Iterator[_Range]:
    """Yield the elements of *header*; an invalid weight is 0."""
    for element in (header or "")[:_MAX_CHARACTERS].lower().split(","):
        value, *rest = (part.strip() for part in element.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip(): text.strip().strip('"') for key, _, text in pairs}
        weight = parameters.pop("q", "1")
        yield _Range(value, parameters, float(weight) if _WEIGHT.fullmatch(weight) else 0.0)
