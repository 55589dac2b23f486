from collections.abc import Callable
from typing import Any

import pytest

from tests.settings import config_of


@pytest.fixture
def document() -> dict[str, Any]:
    """A config file with the required keys only."""
    return config_of("https://graph.facebook.com")


@pytest.fixture
def put(document: dict[str, Any]) -> Callable[[str, object], dict[str, Any]]:
    """Set a key of the profile in the document by its dotted path, and return the document."""

    def place(path: str, value: object) -> dict[str, Any]:
        *sections, key = path.split(".")
        mapping = document["profiles"]["local"]
        for section in sections:
            mapping = mapping.setdefault(section, {})
        mapping[key] = value
        return document

    return place


@pytest.fixture
def environ() -> dict[str, str]:
    return {
        "WATS_ACCESS_TOKEN": "access",
        "WATS_VERIFY_TOKEN": "verify me",
        "WATS_APP_SECRET": "app",
        "WATS_SERVICE_BEARER_TOKEN": "a-service-token-for-tests",
    }
