"""The path of the webhook is compared as it is written, on both paths through the server."""

import pytest

from tests.process.http.running import Running
from tests.process.http.wire import head, post, statuses_of, update
from wats.config import WebhookConfig
from wats.service import create_wats_service_app
from wats.testing import VERIFY_TOKEN, example_profile, example_secrets, serving

CHALLENGE = f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={VERIFY_TOKEN}"


@pytest.mark.parametrize(("path", "other"), [("/hook", "/hook/"), ("/hook/", "/hook")])
async def test_a_trailing_slash_is_part_of_the_path(path: str, other: str) -> None:
    app = create_wats_service_app(
        profile=example_profile(webhook=WebhookConfig(path=path)), secrets=example_secrets()
    )
    requests = (
        lambda target: post(update(1), path=target),
        lambda target: post(update(1), path=f"{target}?x"),
        lambda target: head(f"GET {target}?{CHALLENGE}"),
    )

    async with serving(app) as url:
        running = Running.of(url)
        for request in requests:
            answers = [
                await running.exchange(request(target), ends=True) for target in (path, other)
            ]
            assert [statuses_of(answer) for answer in answers] == [[200], [404]]
