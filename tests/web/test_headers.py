"""Header values on the wire: white space around them, and repeated lines."""

import pytest

from tests.process.http.running import Running
from tests.process.http.wire import HOOK, head, post, statuses_of, update
from tests.web.conftest import Service
from wats.testing import BEARER_TOKEN, serving, sign

CLOSE = "connection: close"


@pytest.mark.parametrize("path", [HOOK, HOOK + "?x"], ids=["fast", "slow"])
async def test_a_padded_signature_is_valid(path: str) -> None:
    sent = post(update(1), path=path, signature=f" \t{sign(update(1))}\t ")
    async with Running() as running:
        assert statuses_of(await running.exchange(sent, ends=True)) == [200]


@pytest.mark.parametrize("path", [HOOK, HOOK + "?x"], ids=["fast", "slow"])
@pytest.mark.parametrize("second", [sign(update(1)), "x", ""], ids=["same", "other", "empty"])
async def test_two_signatures_are_refused_on_both_paths(path: str, second: str) -> None:
    sent = post(update(1), f"X-Hub-Signature-256: {second}", CLOSE, path=path)
    async with Running() as running:
        answer = await running.exchange(sent)

    assert statuses_of(answer) == [400]
    assert b'"code":"invalid_signature_format"' in answer


@pytest.mark.parametrize("value", [f"Bearer {BEARER_TOKEN} \t", f"\t Bearer {BEARER_TOKEN}"])
async def test_a_padded_token_is_valid(value: str) -> None:
    async with Running() as running:
        sent = head("GET /status", f"authorization: {value}", CLOSE)
        assert statuses_of(await running.exchange(sent)) == [200]


async def test_a_padded_idempotency_key_is_the_same_key(service: Service) -> None:
    body = b'{"to": "15550001234", "text": "Hello"}'
    answers = []
    async with serving(service.app) as url:
        running = Running.of(url)
        for key in ("order-1", "  order-1\t", "order-1 "):
            fields = (f"authorization: Bearer {BEARER_TOKEN}", f"idempotency-key: {key}", CLOSE)
            sent = head("POST /api/messages/text", *fields, f"content-length: {len(body)}") + body
            answers.append(await running.exchange(sent))

    assert [statuses_of(answer) for answer in answers] == [[200]] * 3
    assert len(service.graph.asked) == 1
