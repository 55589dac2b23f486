import pytest

from wats.config.paths import API_ROOTS, STATIC_PATHS, prefix_collides, webhook_collides


@pytest.mark.parametrize("path", sorted(STATIC_PATHS))
def test_neither_webhook_nor_prefix_is_a_path_of_the_service(path: str) -> None:
    assert webhook_collides(path, "/api")
    assert prefix_collides(path)


@pytest.mark.parametrize("root", API_ROOTS)
@pytest.mark.parametrize("below", ["", "/text", "/1/window"])
def test_the_webhook_hides_no_route_of_the_api(root: str, below: str) -> None:
    assert webhook_collides(f"/api/{root}{below}", "/api")


@pytest.mark.parametrize("path", ["/webhook", "/api/webhook", "/api/messages2", "/messages", "/ap"])
def test_the_webhook_may_be_elsewhere(path: str) -> None:
    assert not webhook_collides(path, "/api")


def test_the_webhook_is_not_the_prefix() -> None:
    assert webhook_collides("/api", "/api")
