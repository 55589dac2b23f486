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
