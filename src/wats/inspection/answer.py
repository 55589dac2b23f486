"""The response of a running service. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, with the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
