"""The commands for operators, in this process, against a server with fixed responses."""

import json

import pytest

DOCUMENT = {"paths": {"/api/updates/ack": {}}}


def problem(code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    return 404, {}, json.dumps({"error": {"code": code, "message": message}}).encode()


def found(body: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(body).encode()


@pytest.fixture
def ask(wats, counterfeit):
    counterfeit.answers["/openapi.json"] = found(DOCUMENT)
    counterfeit.everywhere = problem("not_found", "Route not found.")
    options = "--url", counterfeit.url, "--config", str(wats.config)
    return lambda *words: wats.invoke(*words, *options)


def test_an_unknown_message_is_not_a_hidden_route(ask, counterfeit) -> None:
    counterfeit.answers["/api/admin/messages/wamid.1"] = problem("not_found", "Message not found.")

    unknown = ask("messages", "show", "wamid.1")
    hidden = ask("messages", "show", "wamid.2")

    assert unknown.err == "Error: Message not found. [not_found]\n"
    assert hidden.err == (
        f"Error: {counterfeit.url} responds with 404: not a service token, or not wats.\n"
    )


def test_the_mistakes_of_a_request_are_named(ask, counterfeit) -> None:
    reason = "must be the 'nextCursor' of an earlier response"
    error = {"code": "malformed_query", "message": "The query is invalid."}
    mistakes = [{"path": "cursor", "reason": reason}, {"path": "\x1b[2J", "reason": "is odd"}]
    body = json.dumps({"error": {**error, "details": mistakes}}).encode()
    counterfeit.everywhere = 400, {}, body

    refused = ask("inbox", "list", "--cursor", "abc")

    assert refused.err == (
        f"Error: The query is invalid. cursor {reason}. ?[2J is odd. [malformed_query]\n"
    )


def delivery(id_: str, state: str) -> object:
    return {
        "id": id_,
        "updateId": "u1",
        "phoneNumberId": None,
        "contentBytes": 1,
        "state": state,
        "consumer": "orders",
        "kind": "message",
        "attempts": 1,
        "error": None,
        "arrivedAt": "2026-11-22T12:00:00.000Z",
        "dueAt": None,
        "diedAt": None,
    }


CONSUMER = {
    "name": "orders",
    "state": "active",
    "pending": 0,
    "leased": 0,
    "retry": 0,
    "oldestSeconds": 0,
    "dead": 0,
}


def test_ids_that_do_not_exist_are_named_by_their_positions(ask, counterfeit) -> None:
    counterfeit.everywhere = problem("delivery_not_found", "Delivery not found.")
    counterfeit.answers["/api/admin/deliveries/8"] = found(delivery("8", "dead"))

    several = ask("dead-letters", "retry", "15550001234", "8", "999", "--yes")
    one = ask("dead-letters", "retry", "999", "--yes")
    replayed = ask("outbox", "discard", "8", "999", "--yes")

    assert several.err == ("Error: Delivery not found. [delivery_not_found] (position 1, 3 of 3)\n")
    assert one.err == "Error: Delivery not found. [delivery_not_found]\n"
    assert replayed.err.endswith("(position 1, 2 of 2)\n")


def test_at_most_ten_positions_are_listed(ask, counterfeit) -> None:
    counterfeit.everywhere = problem("delivery_not_found", "Delivery not found.")

    done = ask("dead-letters", "retry", *map(str, range(12)), "--yes")

    assert done.err.endswith("(position 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more of 12)\n")


def test_ids_in_another_state_are_named_by_their_positions(ask, counterfeit) -> None:
    for id_, state in (("8", "dead"), ("9", "pending")):
        counterfeit.answers[f"/api/admin/deliveries/{id_}"] = found(delivery(id_, state))

    done = ask("dead-letters", "retry", "8", "9", "--yes")

    assert done.code == 1
    assert done.err.endswith("An ID is not that of a dead letter (position 2 of 2).\n")


def test_an_unknown_consumer_of_a_filter_is_reported(ask, counterfeit) -> None:
    counterfeit.everywhere = found({"items": [], "nextCursor": None})
    counterfeit.answers["/api/admin/consumers"] = found({"items": [CONSUMER]})
    commands = ("dead-letters", "list"), ("inbox", "list"), ("dead-letters", "retry", "--yes")
    for words in commands:
        unknown = ask(*words, "--consumer", "nope")
        known = ask(*words, "--consumer", "orders")

        assert (unknown.code, known.code) == (0, 0)
        assert unknown.err == "No such consumer is known; 'wats consumers list' shows them.\n"
        assert (known.out, known.err) == (unknown.out, "")


@pytest.mark.parametrize("user", ["Ada", "+1 555", "", "1555000123456789", "+1 555 000 1234\n1"])
def test_a_user_that_cannot_be_erased_is_refused_without_a_request(
    ask, counterfeit, user: str
) -> None:
    done = ask("erase", "--user", user, "--dry-run")

    assert (done.code, done.out) == (1, "")
    assert "Must be a phone number with 7 to 15 digits, or a business-scoped user id" in done.err
    assert not user or user not in done.err
    assert counterfeit.asked == []


@pytest.mark.parametrize("user", ["+1 (555) 000-1234", "15550001234", "+15550001234"])
def test_a_number_with_separators_is_erased(ask, counterfeit, user: str) -> None:
    names = "deliveries", "deadLetters", "messages", "statuses", "windows", "responses"
    counts = {**dict.fromkeys(names, 0), "traces": None}
    view = {"subject": "5e1f", "dryRun": True, "counts": counts, "nextCursor": None}
    counterfeit.answers["/api/admin/erasures"] = found(view)

    done = ask("erase", "--user", user, "--dry-run")

    assert (done.code, done.err) == (0, "")
    assert "subject     5e1f" in done.out


def test_an_age_can_be_longer_than_all_dates(ask, counterfeit, subtests) -> None:
    counterfeit.everywhere = found({"items": [], "nextCursor": None})

    for words in (
        ("dead-letters", "list", "--older-than", "999999d"),
        ("outbox", "list", "--older-than", "999999d"),
        ("messages", "list", "--newer-than", "999999d"),
    ):
        with subtests.test(" ".join(words)):
            assert ask(*words).code == 0
