from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pages import blocks
from wats.simulator.phone import MAX_NAME, MAX_TEXT, Phone, harmless
from wats.testing import FakeClock

BUSINESS = "15550001111"
PERSON = "15550002222"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.fixture
def phone(clock: FakeClock) -> Phone:
    return Phone(clock, capacity=5)


def text(body: str, **others: Any) -> dict[str, Any]:
    return {"type": "text", "text": {"body": body}, **others}


def written(body: str, wamid: str = "wamid.in", **others: Any) -> dict[str, Any]:
    return text(body, **{"from": PERSON, "id": wamid, **others})


def test_both_directions_are_kept_in_order(phone: Phone, clock: FakeClock) -> None:
    phone.send(BUSINESS, written("Hi"))
    clock.advance(1)
    phone.receive(BUSINESS, "wamid.out", PERSON, text("Hello", context={"message_id": "wamid.in"}))

    assert [each.as_json() for each in phone.messages] == [
        {
            "cursor": 1,
            "at": "2026-01-02T03:04:05.000Z",
            "direction": "inbound",
            "from": PERSON,
            "to": BUSINESS,
            "id": "wamid.in",
            "type": "text",
            "text": "Hi",
            "buttons": [],
            "reply_to": None,
        },
        {
            "cursor": 2,
            "at": "2026-01-02T03:04:06.000Z",
            "direction": "outbound",
            "from": BUSINESS,
            "to": PERSON,
            "id": "wamid.out",
            "type": "text",
            "text": "Hello",
            "buttons": [],
            "reply_to": "wamid.in",
        },
    ]


def test_messages_and_their_parts_are_bounded(phone: Phone) -> None:
    for number in range(9):
        huge = "x" * 100_000
        phone.send(BUSINESS, written(huge, huge, **{"from": huge, "context": {"id": huge}}))
        assert phone.messages[-1].cursor == number + 1

    assert [each.cursor for each in phone.messages] == [5, 6, 7, 8, 9]
    for each in phone.messages:
        assert len(each.text) == MAX_TEXT
        assert {len(each.id), len(each.sender), len(each.reply_to)} == {MAX_NAME}


@pytest.mark.parametrize(
    ("after", "limit", "cursors"),
    [
        (None, 2, [8, 9]),
        (None, 0, []),
        (None, 99, [5, 6, 7, 8, 9]),
        (0, 2, [5, 6]),
        (6, 99, [7, 8, 9]),
        (9, 99, []),
        (99, 99, []),
    ],
)
def test_a_page_is_the_last_ones_or_those_after_a_cursor(
    phone: Phone, after: int | None, limit: int, cursors: list[int]
) -> None:
    for _ in range(9):
        phone.send(BUSINESS, written("Hi"))

    assert [each.cursor for each in phone.page(after, limit)] == cursors


def test_a_read_mark_is_shown_to_the_author(phone: Phone) -> None:
    phone.send(BUSINESS, written("Hi"))

    phone.mark_read(BUSINESS, "wamid.in", is_typing=False)
    phone.mark_read(BUSINESS, "wamid.in", is_typing=True)

    _, read, typing = phone.messages
    assert (read.type, read.recipient, read.reply_to) == ("read", PERSON, "wamid.in")
    assert (read.text, typing.text) == ("", "typing…")


def test_a_read_mark_of_another_message_shows_nothing(phone: Phone) -> None:
    phone.receive(BUSINESS, "wamid.out", PERSON, text("Hello"))

    phone.mark_read(BUSINESS, "wamid.out", is_typing=False)
    phone.mark_read(BUSINESS, "wamid.unknown", is_typing=False)

    assert len(phone.messages) == 1


def test_each_message_is_written_as_one_line(phone: Phone) -> None:
    lines: list[str] = []
    phone.write = lines.append
    buttons = [{"reply": {"title": "Small"}}, {"reply": {"title": "Large"}}]
    size = {"body": {"text": "Which size?"}, "action": {"buttons": buttons}}

    phone.send(BUSINESS, written("Hi,\nI want a shirt.\nThe blue one"))
    phone.mark_read(BUSINESS, "wamid.in", is_typing=False)
    phone.receive(BUSINESS, "wamid.out", PERSON, {"type": "interactive", "interactive": size})
    phone.send(BUSINESS, written("Small", context={"id": "wamid.out"}))
    phone.send(
        BUSINESS, written("", "wamid.cake", type="image", image={"caption": "It"}, group_id="group")
    )
    phone.receive(
        BUSINESS, "wamid.2", PERSON, text("So", context={"message_id": "wamid.forgotten"})
    )

    assert lines == [
        "03:04:05 15550002222 → 15550001111: Hi, ⏎ I want a shirt. ⏎ The blue one",
        '03:04:05 15550001111 → 15550002222: [read] (to "Hi, ⏎ I want a shirt. ⏎ The blue o…")',
        "03:04:05 15550001111 → 15550002222: [interactive] Which size? [Small] [Large]",
        '03:04:05 15550002222 → 15550001111: Small (to "Which size?")',
        "03:04:05 15550002222 → group: [image] It",
        "03:04:05 15550001111 → 15550002222: So (to an unknown message)",
    ]


def test_a_conversation_gives_the_lines_that_are_shown() -> None:
    lines: list[str] = []
    phone = Phone(FakeClock())
    phone.write = lines.append
    shirt = {"type": "text", "text": {"body": "I want a shirt"}}
    buttons = [{"reply": {"title": "Small"}}, {"reply": {"title": "Large"}}]
    size = {"body": {"text": "Which size?"}, "action": {"buttons": buttons}}
    thumb = {"message_id": "wamid.size", "emoji": "👍"}

    phone.send(BUSINESS, {"from": "15550001234", "id": "wamid.shirt", **shirt})
    phone.mark_read(BUSINESS, "wamid.shirt", is_typing=False)
    phone.receive(
        BUSINESS, "wamid.size", "15550001234", {"type": "interactive", "interactive": size}
    )
    phone.send(
        BUSINESS, {"from": "15550001234", "id": "wamid.3", "type": "reaction", "reaction": thumb}
    )

    (block,) = (each for each in blocks("docs/simulator.md", "text") if "shirt" in each)
    shown = [line.partition(" ")[2] for line in block.splitlines()]
    assert [line.partition(" ")[2] for line in lines] == shown


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\r\x08b\x9b\x7f", r"a\r\x08b\x9b\x7f"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800", r"\ud800"),
        ("one\ntwo", "one ⏎ two"),
        ("naïve 👩\u200d🌾", "naïve 👩\u200d🌾"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(given_text: str, expected: str) -> None:
    assert harmless(given_text) == expected


@given(st.text(), st.text(), st.text())
def test_no_line_controls_a_terminal(body: str, sender: str, wamid: str) -> None:
    lines: list[str] = []
    phone = Phone(FakeClock(datetime(2026, 1, 2, tzinfo=UTC)))
    phone.write = lines.append

    phone.send(BUSINESS, written(body, wamid, type=sender or "text", **{"from": sender}))
    phone.receive(BUSINESS, "wamid.2", sender, text("Hi", context={"message_id": wamid}))

    assert all(line.replace("\u200d", "").isprintable() for line in lines)
    assert all(line.encode() for line in lines)
