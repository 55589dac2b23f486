import copy
from collections.abc import Callable
from typing import Any

import pytest

MINIMAL: dict[str, Any] = {
    "version": 1,
    "defaultProfile": "local",
    "profiles": {
        "local": {
            "graph": {"apiVersion": "v25.0", "baseUrl": "https://graph.facebook.com"},
            "whatsapp": {"wabaId": "123456789012345", "phoneNumberId": "15551234567"},
            "auth": {"accessToken": {"env": "WATS_ACCESS_TOKEN"}},
            "webhook": {
                "path": "/webhooks/whatsapp",
                "verifyToken": {"env": "WATS_VERIFY_TOKEN"},
                "appSecret": {"env": "WATS_APP_SECRET"},
            },
            "service": {
                "host": "127.0.0.1",
                "port": 8787,
                "apiPrefix": "/api",
                "bearerToken": {"env": "WATS_SERVICE_BEARER_TOKEN"},
            },
        }
    },
}


@pytest.fixture
def document() -> dict[str, Any]:
    """A config file with what it must have and nothing more."""
    return copy.deepcopy(MINIMAL)


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
