import json
from pathlib import Path

import msgspec
import pytest

from wats.clock import utc_now
from wats.inbound.normalize import normalize
from wats.subscribers.envelopes import encode_entries, encode_envelope, entry_of

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()]
NUMBER = "15550001111"
NOW = utc_now()


def test_the_envelope_of_an_update_gives_the_same_update(subtests: pytest.Subtests) -> None:
    for row in ROWS:
        for update in normalize(row["body"], received_at=NOW).updates:
            with subtests.test(row["name"], key=update.key):
                again = normalize(json.loads(encode_envelope(update, NUMBER)), received_at=NOW)

                assert again.updates == [update]
                assert again.skips == []


def test_one_envelope_gives_the_updates_of_all_kinds_in_order() -> None:
    several = {
        update.kind: update
        for row in ROWS
        for update in normalize(row["body"], received_at=NOW).updates
    }
    updates = list(several.values())

    body = encode_entries([entry_of(each, NUMBER) for each in updates])

    again = normalize(json.loads(body), received_at=NOW)
    assert again.updates == updates
    assert again.skips == []


def test_a_webhook_with_one_message_is_unchanged() -> None:
    body = next(row["body"] for row in ROWS if row["name"] == "message_text")
    (update,) = normalize(body, received_at=NOW).updates

    assert json.loads(encode_envelope(update, NUMBER)) == body


def test_the_errors_of_a_call_are_next_to_it() -> None:
    [body] = [row["body"] for row in ROWS if row["name"] == "call_terminate_failed_with_errors"]
    [update] = normalize(body, received_at=NOW).updates

    sent = json.loads(encode_envelope(update, NUMBER))

    assert sent["entry"][0]["changes"] == body["entry"][0]["changes"]


def test_a_call_with_an_unknown_event_stays_a_call() -> None:
    [body] = [row["body"] for row in ROWS if row["name"] == "call_terminate_missed"]
    call = body["entry"][0]["changes"][0]["value"]["calls"][0]
    [update] = normalize(
        json.loads(json.dumps(body).replace('"terminate"', '"transfer"')), received_at=NOW
    ).updates

    sent = json.loads(encode_envelope(update, NUMBER))

    assert sent["entry"][0]["changes"][0]["value"]["calls"] == [{**call, "event": "transfer"}]


def test_the_number_of_the_webhook_takes_precedence_over_the_configured_one() -> None:
    body = next(row["body"] for row in ROWS if row["name"] == "message_text")
    (update,) = normalize(body, received_at=NOW).updates
    older = msgspec.structs.replace(update, display_phone_number=None)

    shown = [
        json.loads(encode_envelope(each, "15559999999"))["entry"][0]["changes"][0]["value"]
        for each in (update, older)
    ]

    numbers = [each["metadata"]["display_phone_number"] for each in shown]
    assert numbers == [NUMBER, "15559999999"]
