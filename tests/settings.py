"""What the services of the tests are configured with."""

from typing import Any

HOOK = "/webhooks/whatsapp"
NOBODY = "http://127.0.0.1:9"
"""Where no Graph answers."""


def config_of(graph_url: str = NOBODY, **sections: Any) -> dict[str, Any]:
    """Return the document of a config file with what it must have, in a profile named `local`.

    *sections* replace or add to those of the profile. The secrets are in the environment, under
    names that begin with `WATS_`.
    """
    profile = {
        "graph": {"apiVersion": "v25.0", "baseUrl": graph_url},
        "whatsapp": {"wabaId": "123456789012345", "phoneNumberId": "15551234567"},
        "auth": {"accessToken": {"env": "WATS_ACCESS_TOKEN"}},
        "webhook": {
            "path": HOOK,
            "verifyToken": {"env": "WATS_VERIFY_TOKEN"},
            "appSecret": {"env": "WATS_APP_SECRET"},
        },
        "service": {
            "host": "127.0.0.1",
            "port": 8787,
            "apiPrefix": "/api",
            "bearerToken": {"env": "WATS_SERVICE_BEARER_TOKEN"},
        },
        **sections,
    }
    return {"version": 1, "defaultProfile": "local", "profiles": {"local": profile}}
