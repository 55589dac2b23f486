import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: `wats serve` runs on uvloop, and each breaks connections in its own way."""
    return "asyncio", {"use_uvloop": request.param}
