"""The configuration of services in tests, and the number of their outstanding deliveries."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from wats.testing import APP_SECRET, BEARER_TOKEN, VERIFY_TOKEN

HOOK = "/webhooks/whatsapp"
WABA_ID = "123456789012345"
NUMBER_ID = "15551234567"
NOBODY = "http://127.0.0.1:9"
"""An address at which no Graph listens."""

SECRETS = {
    "WATS_ACCESS_TOKEN": "an-access-token-for-tests",
    "WATS_VERIFY_TOKEN": VERIFY_TOKEN,
    "WATS_APP_SECRET": APP_SECRET,
    "WATS_SERVICE_BEARER_TOKEN": BEARER_TOKEN,
}
"""The environment for `config_of`."""


def config_of(graph_url: str = NOBODY, **sections: Any) -> dict[str, Any]:
    """Return the document of a config file with the required keys, in a profile named `local`.

    *sections* replace or add to those of the profile. The secrets are in the environment, under
    names that begin with `WATS_`.
    """
    profile = {
        "graph": {"apiVersion": "v25.0", "baseUrl": graph_url},
        "whatsapp": {"wabaId": WABA_ID, "phoneNumberId": NUMBER_ID},
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
            "drainSeconds": 0,
            "bearerToken": {"env": "WATS_SERVICE_BEARER_TOKEN"},
        },
        **sections,
    }
    return {"version": 1, "defaultProfile": "local", "profiles": {"local": profile}}


def outstanding(database: Path) -> int:
    """Count the deliveries that are not settled, from outside of the service."""
    with closing(sqlite3.connect(database)) as connection:
        left: int = connection.execute("SELECT count(*) FROM wats_outstanding").fetchone()[0]
        return left
