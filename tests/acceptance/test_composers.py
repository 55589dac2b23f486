"""Each composer through a gateway to a simulated Meta, over sockets."""

import json
from pathlib import Path

import pytest

from wats.config import GroupsConfig
from wats.outbound.composers import COMPOSERS
from wats.outbound.composers.examples import example_of

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "outbound/composers/golden.json").read_text("utf-8")
)
PATH = "/api/messages"


@pytest.fixture
async def with_groups(open_gateway):
    async with open_gateway(groups=GroupsConfig(enabled=True)) as gateway:
        yield gateway


async def group_of(gateway) -> str:
    """Create a group and return its id."""
    await gateway.ask("POST", "/api/groups", {"subject": "A group"})
    [group] = (await gateway.ask("GET", "/api/groups")).json["data"]["groups"]
    group_id: str = group["id"]
    return group_id


async def test_meta_accepts_every_composer_and_gets_the_golden_payload(with_groups) -> None:
    group = await group_of(with_groups)
    for golden in GOLDEN:
        body, payload = golden["body"], golden["payload"]
        if body["type"] == "pin":
            body, payload = {**body, "to": group}, {**payload, "to": group}

        answer = await with_groups.ask("POST", PATH, body)

        assert answer.status == 200, (body["type"], answer.body)
        assert with_groups.simulator.accepted[-1].payload == payload
        [sent] = answer.json["messages"]
        record = (await with_groups.ask("GET", f"{PATH}/{sent['id']}")).json
        assert record["type"] == payload["type"] == COMPOSERS[body["type"]].graph_type
    assert with_groups.simulator.counts.sends == len(GOLDEN)


async def test_the_customer_sees_the_message(gateway, subtests) -> None:
    sent = [composer for kind, composer in COMPOSERS.items() if kind != "pin"]
    for number, composer in enumerate(sent, start=1):
        with subtests.test(composer.kind):
            body = example_of(composer)

            await gateway.ask("POST", PATH, body)

            assert len(gateway.simulator.messages) == number
            shown = gateway.simulator.messages[-1]
            assert (shown.direction, shown.recipient) == ("outbound", body["to"])
            assert shown.type == composer.graph_type
            assert_all_texts_are_shown(body, shown)


def assert_all_texts_are_shown(body, shown) -> None:
    for card in (body, *body.get("cards", ())):
        assert card.get("bodyText", card.get("caption", "")) in shown.text
        titles = [each["title"] for each in card.get("buttons", ()) if "title" in each]
        titles += [
            button["displayText"]
            for button in (card, card.get("urlButton", {}))
            if "displayText" in button
        ]
        assert set(titles) <= set(shown.buttons)


async def test_the_statuses_of_a_composed_message_arrive(gateway) -> None:
    body = example_of(COMPOSERS["interactiveButtons"])
    sent = (await gateway.ask("POST", PATH, body)).json["messages"][0]["id"]
    await gateway.simulator.settle()

    record = (await gateway.ask("GET", f"{PATH}/{sent}")).json
    assert (record["type"], record["status"]) == ("interactive", "read")


async def test_a_retry_of_a_composed_message_is_replayed(gateway) -> None:
    body = example_of(COMPOSERS["image"])
    headers = {"idempotency-key": "k"}

    first = await gateway.ask("POST", PATH, body, headers=headers)
    other = await gateway.ask("POST", PATH, {**body, "caption": "x"}, headers=headers)
    again = await gateway.ask("POST", PATH, body, headers=headers)

    assert (first.status, again.body) == (200, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status, other.code) == (409, "idempotency_conflict")
    assert gateway.simulator.counts.sends == 1


async def test_a_mistake_is_reported_with_its_path_before_a_call_to_meta(gateway) -> None:
    body = {**example_of(COMPOSERS["interactiveButtons"]), "buttons": [{"id": "1"}], "to": "x"}

    answer = await gateway.ask("POST", PATH, body)

    error = answer.json["error"]
    assert (answer.status, error["code"]) == (400, "malformed_body")
    assert error["message"] == "Message body is invalid or unsupported."
    assert [detail["path"] for detail in error["details"]] == ["to", "buttons[0].title"]
    assert gateway.simulator.counts.requests == 0


async def test_a_misspelt_key_is_ignored_unless_strict_handling_is_preferred(gateway) -> None:
    body = {**example_of(COMPOSERS["image"]), "captoin": "x"}

    lenient = await gateway.ask("POST", PATH, body)
    strict = await gateway.ask("POST", PATH, body, headers={"prefer": "handling=strict"})

    assert lenient.status == 200
    assert (strict.status, strict.code) == (400, "malformed_body")
    assert [detail["path"] for detail in strict.json["error"]["details"]] == ["captoin"]
