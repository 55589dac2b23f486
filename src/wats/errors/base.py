"""The root of the errors, and those of the configuration. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Detail:
    """One mistake: its position, as a path such as `text.body`, and the reason. Never the value.

    With *quotes*, the path ends with an unknown key of the caller, which only the response shows.
    """

    path: str
    reason: str
    quotes: bool = False

    @override
    def __str__(self) -> str:
        return self.reason if self.quotes else f"{self.path}: {self.reason}"


class WatsError(Exception):
    """The root of the tree."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    text: ClassVar[str] = "The service failed."

    def __init__(self, message: str | None = None) -> None:
        self.message = message if message is not None else self.text
        super().__init__(self.message)

    def with_code(self) -> str:
        """Return the message for an operator, with the stable code."""
        return f"{self} ({self.code})"


MAX_SHOWN_ISSUES = 50
"""The number of mistakes in the text of a `ConfigError`: a file can have ten thousand."""


class ConfigError(WatsError):
    """The configuration cannot work. `issues` holds every mistake, each with its path."""

    code = "invalid_config"
    text = "The configuration is invalid."

    def __init__(self, issues: Sequence["ConfigIssue"], message: str | None = None) -> None:
        super().__init__(message)
        self.issues = tuple(issues)

    @override
    def __str__(self) -> str:
        shown = [f"  {issue}" for issue in self.issues[:MAX_SHOWN_ISSUES]]
        if len(self.issues) > MAX_SHOWN_ISSUES:
            shown.append(f"  {len(self.issues) - MAX_SHOWN_ISSUES} more mistakes are not shown.")
        return "\n".join([self.message, *shown])

    @override
    def with_code(self) -> str:
        return str(self)  # each issue has a code of its own


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """One mistake of the operator, with a stable code, the path of the key and the remedy."""

    code: str
    path: str
    reason: str

    @override
    def __str__(self) -> str:
        return f"{self.path}: {self.reason} ({self.code})"
