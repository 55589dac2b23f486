"""docs/http-api.md, docs/errors.md and docs/simulator.md: requests between a gateway and Meta."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.webhooks import post_messages
from tests.pages import PAGES, blocks
from tests.walk import SERVE, Reader, is_installed, request
from wats.testing import BEARER_TOKEN

pytestmark = pytest.mark.long

SIMULATE = "wats simulate --config wats.config.yaml --env-file wats.env"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path, TOKEN=BEARER_TOKEN) as reader:
        reader.prepare()
        reader.start(SERVE)
        yield reader


@pytest.mark.skipif(not is_installed("curl"), reason="curl is not installed")
@pytest.mark.parametrize(("page", "sends"), [("docs/http-api.md", 2), ("docs/messages.md", 1)])
def test_each_message_that_is_shown_is_sent_once(reader: Reader, page: str, sends: int) -> None:
    reader.start(SIMULATE)

    said = [[each.out for each in reader.succeed(PAGES[page])] for _ in range(2)]

    first, second = ([out for out in outputs if '"messages"' in out] for outputs in said)
    assert (len(first), second) == (sends, first)
    _, state = request(f"{reader.meta_url}/_simulator/state")
    assert json.loads(state)["sends"] == sends


@pytest.mark.skipif(not is_installed("curl"), reason="curl is not installed")
def test_the_file_that_is_shown_is_uploaded_each_time(reader: Reader) -> None:
    reader.start(SIMULATE)

    first, second = (reader.succeed(PAGES["docs/http-api.md"])[-1].out for _ in range(2))

    assert json.loads(first)["id"] != json.loads(second)["id"]
    _, state = request(f"{reader.meta_url}/_simulator/state")
    assert json.loads(state)["uploads"] == 2


@pytest.mark.skipif(not is_installed("curl"), reason="curl is not installed")
def test_a_message_is_sent_later_as_it_is_shown(reader: Reader) -> None:
    reader.start(SIMULATE)

    said = [each.out for each in reader.succeed(PAGES["docs/sending.md"])]

    assert any("202 Accepted" in out and "/api/outbox/" in out for out in said)
    assert "0 would be changed." in "".join(said)


def test_a_webhook_gets_the_counts_that_are_shown(reader: Reader) -> None:
    (shown,) = blocks("docs/http-api.md", "json")
    post_messages(reader, "wamid.1")

    assert post_messages(reader, "wamid.1", "wamid.2", "wamid.3") == json.loads(shown)


def test_an_invalid_request_gets_the_error_that_is_shown(reader: Reader) -> None:
    (shown,) = blocks("docs/errors.md", "json")

    status, answer = request(
        f"{reader.url}/api/messages/text",
        b'{"to": "somewhere", "text": "Hi"}',
        authorization=f"Bearer {BEARER_TOKEN}",
    )

    assert status == 400
    assert json.loads(answer) == json.loads(shown)


def test_the_simulator_that_is_shown_verifies_the_webhook_and_delivers(reader: Reader) -> None:
    said = reader.succeed(PAGES["docs/simulator.md"])

    assert [each.out for each in said] == [f"{reader.meta_url} 1\n"]
