"""No URL, secret or response of a subscriber is visible, and its requests name no person."""

from base64 import b64encode
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvloop
from aiohttp import web

from tests.privacy.canaries import Canaries
from tests.privacy.conftest import pull_everything, seen_in
from tests.privacy.fake_graph import FakeGraph
from tests.privacy.service import HOOK, Setup, read_telemetry, running
from tests.privacy.wire import ask_all
from tests.subscribers.conftest import Endpoint, serving_endpoint

WEBHOOKS = 200
HEADERS = {
    "update": {"webhook-id", "webhook-timestamp", "webhook-signature"},
    "meta": {"x-hub-signature-256"},
}
ALWAYS = {"host", "accept", "accept-encoding", "content-length", "content-type", "user-agent"}
PERMITTED = {"/openapi.json": [HOOK], "/openapi.json (telemetry)": [HOOK]}


def answer_with(endpoint: Endpoint, canaries: Canaries) -> None:
    """Let *endpoint* accept, refuse and redirect in turns, with canaries in every part."""
    statuses = cycle((200, 422, 307, 200, 500, 204))

    async def answer(_: web.Request) -> web.StreamResponse:
        word = canaries.word
        headers = {"location": f"/{word('location')}", f"x-{word('header (name)')}": word("header")}
        body = "" if (status := next(statuses)) == 204 else word("body of a response")
        return web.Response(status=status, reason=word("reason"), headers=headers, text=body)

    endpoint.answer = answer


async def observe(canaries: Canaries, folder: Path) -> tuple[dict[str, str], dict[str, Endpoint]]:
    """Return the output of a service with a subscriber of each format, and the endpoints."""
    async with (
        FakeGraph(canaries) as graph,
        serving_endpoint() as update,
        serving_endpoint() as meta,
    ):
        endpoints = {"update": update, "meta": meta}
        path = f"/{canaries.word('path')}?{canaries.word('name')}={canaries.number('query')}"
        sections = []
        for name, endpoint in endpoints.items():
            answer_with(endpoint, canaries)
            endpoint.url = endpoint.url.removesuffix("/hook") + path
            section = {"name": name, "url": endpoint.url, "format": name}
            secret = {"env": f"SECRET_OF_{name.upper()}"}
            sections.append({**section, "secret": secret, "allowPrivateNetwork": True})
        environ = {
            "SECRET_OF_META": canaries.word("a secret") * 4,
            "SECRET_OF_UPDATE": f"whsec_{b64encode(canaries.word('a key').encode() * 4).decode()}",
        }
        setup = Setup(graph_url=graph.url, subscribers=sections, environ=environ)
        async with running(canaries, folder, setup) as service:
            asker = service.asker(canaries)
            await ask_all(service.url, islice(asker.webhooks(), WEBHOOKS))
            await pull_everything(service, asker)
            await service.wait_for_handlers()
            service.surfaces |= await read_telemetry(service.url, service.secrets)
            await service.stop()
    return service.surfaces, endpoints


@pytest.mark.long
def test_subscribers_see_and_show_no_more_than_their_updates(tmp_path: Path) -> None:
    canaries = Canaries()

    surfaces, endpoints = uvloop.run(observe(canaries, tmp_path))

    assert seen_in(surfaces, canaries) == PERMITTED
    for name, endpoint in endpoints.items():
        assert len(endpoint.requests) > WEBHOOKS / 4
        parts = urlsplit(endpoint.url)
        assert set(endpoint.targets) == {f"{parts.path}?{parts.query}"}
        for headers, _ in endpoint.requests:
            assert {each.lower() for each in headers} == ALWAYS | HEADERS[name]
            assert canaries.found_in("\n".join(headers.values())) == set()
