import json
import re

import pytest

from wats.inspection.client import MAX_ANSWER_BYTES

STATUS = {
    "service": "wats",
    "version": "1.0.0",
    "uptimeSeconds": 5,
    "graphApiVersion": "v25.0",
    "serviceMode": "webhook",
    "routes": [],
    "featureFlags": {"groupRoutes": False, "persistence": False},
    "persistence": None,
}
METRICS = b'http_requests_total{route="/webhook"} 7\n'
CONTROL = "\x1b[2J\x1b]0;canary\x07\x9b31m\u202e\r"
COMMANDS = {
    "status": ["status", "--url"],
    "status --json": ["status", "--json", "--url"],
    "doctor": ["doctor", "--url"],
    "doctor --json": ["doctor", "--json", "--url"],
    "support-bundle": ["support-bundle", "--url"],
}
READERS = {name: words for name, words in COMMANDS.items() if name != "status --json"}
"""The commands that request /metrics."""

DOCUMENTS = {
    "not JSON": b"\xff\xfe{",
    "endless": b" " * (MAX_ANSWER_BYTES + 1),
    "nested": b"[" * 100_000,
    "nested in an unknown field": json.dumps(STATUS).encode()[:-1] + b',"x":' + b"[" * 100_000,
    "nested and closed": b'{"configShape":' + b"[" * 950 + b"]" * 950 + b"}",
    "a number of many digits": b'{"configShape":1' + b"0" * 5000 + b"}",
    "a long text": json.dumps({**STATUS, "version": "a" * 100_000}).encode(),
}
EXPOSITIONS = {
    "not UTF-8": b'a{b="\xff"} 1\n',
    "no name": b"# TYPE \xc2\xa0 counter\n",
    "a long line": b'a{b="' + b'\\"' * 50_000 + b'"} 1\n',
    "many lines": b"a 1\n" * 50_000,
    "a large number": b"a 1" + b"0" * 400 + b"\n",
    "infinity": b"http_requests_total +Inf\n",
}


def hostile(counterfeit, document=None, exposition=METRICS, headers=None) -> None:
    body = json.dumps(STATUS).encode() if document is None else document
    for path in ("/status", "/debug/diagnostics", "/openapi.json"):
        counterfeit.answers[path] = (200, headers or {}, body)
    counterfeit.answers["/metrics"] = (200, {}, exposition)


def ask(service, counterfeit, words):
    result = service.ask(words[0], *words[1:], counterfeit.url)
    assert set(re.sub(r"[ -~\n·…]", "", result.out + result.err)) == set()
    assert "canary" not in re.sub(r"\?|0;canary", "", result.out + result.err)
    return result


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_hostile_document_is_refused(service, counterfeit, words, document) -> None:
    hostile(counterfeit, document)

    result = ask(service, counterfeit, words)

    # A text of any length is valid in a status, and cut to the width of the terminal, but for JSON.
    is_status = words[0] == "status" and b"aaa" in document
    is_short = not (is_status and "--json" in words)
    assert (result.code, len(result.out) < 10_000) == (0 if is_status else 1, is_short)


@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
@pytest.mark.parametrize("exposition", EXPOSITIONS.values(), ids=EXPOSITIONS)
def test_a_hostile_exposition_is_refused(service, counterfeit, words, exposition) -> None:
    hostile(counterfeit, exposition=exposition)

    assert ask(service, counterfeit, words).code == 1


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_text_of_a_service_controls_the_terminal(service, counterfeit, words) -> None:
    texts = {"version": CONTROL, "graphApiVersion": CONTROL, "serviceMode": CONTROL}
    label = CONTROL.replace("\n", "")
    hostile(
        counterfeit,
        json.dumps({**STATUS, **texts, "routes": [CONTROL]}).encode(),
        f'http_requests_total{{route="{label}"}} 7\n'.encode(),
    )

    ask(service, counterfeit, words)


@pytest.mark.parametrize(
    "date",
    ["", "canary", "Mon, 01 Jan 2026 00:00:00 +99999999999999999999", "1 Jan 99999999999 0:0:0"],
)
def test_a_hostile_date_is_refused(service, counterfeit, date) -> None:
    hostile(counterfeit, headers={"Date": date})

    assert ask(service, counterfeit, COMMANDS["doctor"]).code == 1
