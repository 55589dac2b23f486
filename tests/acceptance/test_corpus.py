"""The 221 bodies of the corpus through the front door: signed, over HTTP, into a file."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from apsw import Connection

from wats.testing import sign

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()]
REFUSALS = {
    "malformed_object_other_product": "unsupported_object",
    "malformed_object_missing": "missing_object_field",
    "malformed_entry_not_array": "invalid_entry_array",
}
ACCEPTED = [row for row in ROWS if row["name"] not in REFUSALS]
EMITTED = Counter(kind for row in ROWS for kind in row["emit"])
TOLD_TWICE = {
    "envelope_entry_id_integer": "account",
    "group_multiple_items": "groupParticipants",
}
"""Bodies with an event of another body: among other events, or with a number as an id."""
EVENTS = EMITTED - Counter(TOLD_TWICE.values())

LISTS = {
    "messages": ("messages", "statuses"),
    "calls": ("calls", "statuses"),
    "group_lifecycle_update": ("groups",),
    "group_participants_update": ("groups",),
    "group_settings_update": ("groups",),
    "group_status_update": ("groups",),
    "user_preferences": ("user_preferences",),
    "user_id_update": ("user_id_update",),
    "history": ("history", "messages"),
    "message_echoes": ("message_echoes",),
    "smb_message_echoes": ("message_echoes",),
    "smb_app_state_sync": ("state_sync",),
    "automatic_events": ("automatic_events",),
}
"""The members of the values of a field that hold items, each of which is an update."""


class UpdateRecorder:
    """A handler that keeps the updates it receives."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    async def __call__(self, update: Any) -> None:
        self.kinds.append(update.kind.value)


def envelope_of(*entries: Any) -> dict[str, Any]:
    return {"object": "whatsapp_business_account", "entry": list(entries)}


def entries_of(rows: list[Any]) -> list[Any]:
    """Return every readable entry, with its readable changes."""
    entries = []
    for row in rows:
        for entry in deepcopy(row["body"]["entry"]):
            if isinstance(entry, dict) and entry.get("id") and "changes" in entry:
                changes = [c for c in entry["changes"] if isinstance(c, dict)]
                changes = [c for c in changes if isinstance(c.get("value"), dict)]
                entries.append({**entry, "changes": changes})
    return entries


def each_entry_alone() -> Iterator[Any]:
    for entry in entries_of(ACCEPTED):
        yield envelope_of(entry)


def many_entries_together() -> Iterator[Any]:
    entries = iter(entries_of(ACCEPTED))
    while some := list(islice(entries, 25)):
        yield envelope_of(*some)


def all_in_one() -> Iterator[Any]:
    yield envelope_of(*entries_of(ACCEPTED))


def changes_of_one_account_and_time_together() -> Iterator[Any]:
    entries: dict[Any, Any] = {}
    for entry in entries_of(ACCEPTED):
        same = entries.setdefault((str(entry["id"]), entry.get("time")), {**entry, "changes": []})
        same["changes"] += entry["changes"]
    yield envelope_of(*entries.values())


def one_item_each() -> Iterator[Any]:
    for entry in entries_of(ACCEPTED):
        for change in entry["changes"]:
            value = change["value"]
            names = [
                name
                for name in LISTS.get(change.get("field"), ())
                if isinstance(value.get(name), list)
            ]
            around = {name: value[name] for name in value if name not in names}
            if not names:
                yield envelope_of({**entry, "changes": [change]})
            for name in names:
                for item in value[name]:
                    alone = {**change, "value": {**around, name: [item]}}
                    yield envelope_of({**entry, "changes": [alone]})


def items_of_one_number_in_one_value() -> Iterator[Any]:
    """After an outage the platform sends everything that waited for one number in one value."""
    together: dict[Any, Any] = {}
    rest = []
    for entry in entries_of(ACCEPTED):
        for change in entry["changes"]:
            value = change["value"]
            names = [name for name in ("messages", "statuses") if isinstance(value.get(name), list)]
            around = {"messaging_product", "metadata", "contacts", *names}
            if change.get("field") != "messages" or not names or value.keys() - around:
                rest.append({**entry, "changes": [change]})
                continue
            where = (str(entry["id"]), entry.get("time"), json.dumps(value.get("metadata")))
            same = together.setdefault(where, (entry, defaultdict(list)))[1]
            for name in (*names, "contacts"):
                same[name] += value.get(name) or []
            same["metadata"] = value.get("metadata")
    for entry, value in together.values():
        change = {"field": "messages", "value": {"messaging_product": "whatsapp", **value}}
        yield envelope_of({**entry, "changes": [change]})
    yield envelope_of(*rest)


def one_item_each_in_another_order() -> Iterator[Any]:
    envelopes = list(one_item_each())
    random.Random(20261122).shuffle(envelopes)
    for number in range(0, len(envelopes), 7):
        yield envelope_of(*(e for one in envelopes[number : number + 7] for e in one["entry"]))


REBATCHED = (
    each_entry_alone,
    many_entries_together,
    all_in_one,
    changes_of_one_account_and_time_together,
    one_item_each,
    items_of_one_number_in_one_value,
    one_item_each_in_another_order,
)


def of_outcome(counts: dict[str, float], outcome: str) -> dict[str, float]:
    """Return the counts of *outcome* by kind."""
    return {
        series.partition('update_kind="')[2].rstrip('"}'): count
        for series, count in counts.items()
        if f'outcome="{outcome}"' in series
    }


def test_there_are_221_bodies() -> None:
    assert len(ROWS) == 221


async def test_every_body_gets_the_expected_response_and_is_handled_once(
    open_gateway, until
) -> None:
    handler = UpdateRecorder()
    async with open_gateway(handlers=[handler]) as gateway:
        for row in ROWS:
            answer = await gateway.webhook(row["body"])
            if row["name"] in REFUSALS:
                assert (answer.status, answer.code) == (400, REFUSALS[row["name"]]), row["name"]
            else:
                received = len(row["emit"])
                new = received - (row["name"] in TOLD_TWICE)
                receipt = answer.json
                assert list(receipt) == ["status", "received", "dispatched", "skipped"]
                assert (answer.status, receipt["status"]) == (200, "ok"), row["name"]
                assert (receipt["received"], receipt["dispatched"]) == (received, new), row["name"]
        await until(lambda: len(handler.kinds) >= EVENTS.total())
        await until(lambda: not gateway.rows()["wats_outstanding"])

        assert Counter(handler.kinds) == EVENTS
        counts = await gateway.normalized()
        assert of_outcome(counts, "success") == EVENTS
        assert of_outcome(counts, "deduped") == Counter(TOLD_TWICE.values())
        assert of_outcome(counts, "error") == {}
        # Messages are recognized by their records, and old statuses by their rows of the inbox too.
        assert gateway.rows()["wats_inbox"] == EVENTS.total() - EVENTS["message"]
        assert gateway.rows()["wats_messages"] == EVENTS["message"]


async def test_redeliveries_change_only_a_count(open_gateway, until) -> None:
    handler = UpdateRecorder()
    async with open_gateway(handlers=[handler]) as gateway:
        for row in ROWS:
            await gateway.webhook(row["body"])
        await until(lambda: len(handler.kinds) >= EVENTS.total())
        await until(lambda: not gateway.rows()["wats_outstanding"])
        async with asyncio.timeout(60):  # counts follow the commit
            while of_outcome(before := await gateway.normalized(), "success") != EVENTS:
                await asyncio.sleep(0.01)
        rows, messages = gateway.rows(), await gateway.messages()

        for row in ROWS:
            answer = await gateway.webhook(row["body"])
            assert answer.status == (400 if row["name"] in REFUSALS else 200)
            assert answer.json.get("dispatched", 0) == 0

        after = await gateway.normalized()
        assert of_outcome(after, "deduped") == EMITTED + Counter(TOLD_TWICE.values())
        assert of_outcome(after, "success") == of_outcome(before, "success")
        assert of_outcome(after, "error") == {}
        assert (gateway.rows(), await gateway.messages()) == (rows, messages)
        assert len(handler.kinds) == EVENTS.total()


@pytest.mark.parametrize("rebatch", REBATCHED, ids=lambda rebatch: rebatch.__name__)
async def test_redeliveries_in_other_envelopes_change_nothing(gateway, rebatch) -> None:
    for row in ROWS:
        await gateway.webhook(row["body"])
    before = await gateway.normalized()
    rows, messages = gateway.rows(), await gateway.messages()

    received = 0
    for envelope in rebatch():
        answer = await gateway.webhook(envelope)
        assert (answer.status, answer.json["dispatched"]) == (200, 0), envelope
        received += answer.json["received"]

    after = await gateway.normalized()
    deduped = Counter(of_outcome(after, "deduped"))
    assert received >= EVENTS.total()
    assert deduped - Counter(of_outcome(before, "deduped")) >= EVENTS
    assert of_outcome(after, "success") == of_outcome(before, "success") == EVENTS
    assert (gateway.rows(), await gateway.messages()) == (rows, messages)


async def test_nothing_is_stored_of_a_body_with_an_invalid_signature(open_gateway) -> None:
    handler = UpdateRecorder()
    async with open_gateway(handlers=[handler]) as gateway:
        before = await gateway.normalized()
        for row in ROWS:
            body = json.dumps(row["body"]).encode()
            answer = await gateway.webhook(body, signature=sign(body, "another-secret"))
            assert (answer.status, answer.code) == (401, "signature_mismatch")

        assert await gateway.normalized() == before == {}
        kept = {table for table, rows in gateway.rows().items() if rows}
        assert kept <= {"wats_consumers", "wats_leader", "wats_marks", "wats_queue"}
        with closing(Connection(str(gateway.database))) as connection:
            marks = connection.execute("SELECT * FROM wats_marks").fetchall()
        assert marks == [(1, 0, 0, 0)]  # no message was ever recorded
        assert await gateway.messages() == []
        assert handler.kinds == []
