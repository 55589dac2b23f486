"""The packages that an extra of wats installs, and the command that installs a missing one."""

from collections.abc import Mapping
from typing import Final

EXTRAS: Final[Mapping[str, str]] = {
    "asyncpg": "postgres",
    "opentelemetry": "otel",
    "prometheus_client": "inspect",
    "pywa": "pywa",
    "rich": "inspect",
}
"""The extra of each optional package, as in `pyproject.toml`."""


def install_command(error: BaseException) -> str | None:
    """Return the command that installs the package missing by *error*; `None` if no extra does."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    extra = EXTRAS.get((name or "").partition(".")[0])
    return None if extra is None else f"pip install 'wats[{extra}]'"
