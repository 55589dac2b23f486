from pathlib import Path

import pytest

from wats import create_wats_service_app, open_store
from wats.errors import StoreError
from wats.testing import example_profile, example_secrets, serving


async def test_an_application_that_cannot_start_raises_the_reason(tmp_path: Path) -> None:
    app = create_wats_service_app(
        profile=example_profile(),
        secrets=example_secrets(),
        persistence=open_store(f"sqlite:///{tmp_path}/missing/wats.db"),
    )

    with pytest.raises(StoreError, match="no such directory"):
        async with serving(app):
            pass
