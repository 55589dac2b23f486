"""The message projection against a model of dicts and lists."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.folders import in_memory
from tests.store.sqlite.writers import open_writer
from wats.clock import EPOCH
from wats.store.records import (
    ALL_MESSAGES,
    STATUS_RANK,
    Arrival,
    Direction,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import inbox, message_index, messages, statuses
from wats.store.sqlite.connection import Writer

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)

NUMBERS = ("1", "2")
NAMES = ("wamid.a", "wamid.b", "wamid.plumless", "wamid.buckeroo")  # the last two share a hash
TIMES = (EPOCH, NOON - 400 * DAY, NOON - 7 * DAY, NOON, NOON + timedelta(seconds=90), NOON + DAY)

Identity: TypeAlias = tuple[str, str, Direction]
End: TypeAlias = Callable[[Writer], None]


@dataclass
class Expected:
    """The expected contents of the store."""

    messages: dict[Identity, MessageRecord] = field(default_factory=dict)
    history: dict[tuple[str, str], list[StatusRecord]] = field(default_factory=dict)
    windows: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def record(self, message: MessageRecord) -> bool:
        identity = message.phone_number_id, message.wa_message_id, message.direction
        if identity in self.messages:
            return False
        self.messages[identity] = message
        if message.direction is Direction.OUTBOUND:
            for status in self.history.get(identity[:2], ()):
                self._advance(status)
        return True

    def _advance(self, status: StatusRecord) -> None:
        identity = status.phone_number_id, status.wa_message_id, Direction.OUTBOUND
        message = self.messages.get(identity)
        if message is not None and STATUS_RANK[status.status] > STATUS_RANK[message.status]:
            self.messages[identity] = msgspec.structs.replace(
                message,
                status=status.status,
                updated_at=max(message.updated_at, status.occurred_at),
            )

    def change(self, status: StatusRecord) -> bool:
        history = self.history.setdefault((status.phone_number_id, status.wa_message_id), [])
        if status in history:
            return False
        history.append(status)
        self._advance(status)
        return True

    def open_window(self, window: WindowRecord) -> None:
        key, at = (window.phone_number_id, window.customer), window.last_inbound_at
        self.windows[key] = max(self.windows.get(key, at), at)


class Model:
    """Two writers of one file, and the messages that they must have recorded together."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "wats.db")
        self.writers = [open_writer(self.path), open_writer(self.path)]
        self.expected = Expected()
        self.stated: dict[Identity, datetime] = {}

    def restart(self, writer: int) -> None:
        self.writers[writer].close()
        self.writers[writer] = open_writer(self.path)

    def skip(self, row_ids: int) -> None:
        self.writers[0].execute(
            "UPDATE wats_marks SET last_row_id = last_row_id + ? WHERE id = 1", (row_ids,)
        )

    def merge(self, writer: int) -> None:
        message_index.merge(self.writers[writer])

    def receive(
        self,
        writer: int,
        updates: list[tuple[str, str, str, datetime, datetime]],
        end: End,
    ) -> None:
        connection, before = self.writers[writer], copy.deepcopy(self.expected)
        stated_before = dict(self.stated)
        arrivals = [self.arrival(*update) for update in updates]
        new = self.expect(arrivals)
        connection.execute("BEGIN IMMEDIATE")
        (results,) = inbox.receive(connection, [arrivals], {})
        end(connection)
        assert [each is not None for each in results] == new
        if end is Writer.roll_back:
            self.expected, self.stated = before, stated_before

    def arrival(
        self, kind: str, number: str, name: str, stated_at: datetime, received_at: datetime
    ) -> Arrival:
        message = status = window = None
        if kind == "message":
            # Meta repeats the time of the first delivery.
            stated_at = self.stated.setdefault((number, name, Direction.INBOUND), stated_at)
            message = MessageRecord(
                phone_number_id=number,
                wa_message_id=name,
                direction=Direction.INBOUND,
                from_phone="3",
                type="text",
                status="received",
                created_at=received_at,
                updated_at=received_at,
            )
            window = WindowRecord(
                phone_number_id=number, customer="3", last_inbound_at=min(stated_at, received_at)
            )
        elif kind == "call":
            window = WindowRecord(phone_number_id=number, customer="3", last_inbound_at=stated_at)
        else:
            status = StatusRecord(
                phone_number_id=number, wa_message_id=name, status=kind, occurred_at=stated_at
            )
        return Arrival(
            key=f"{kind} {number} {name}".encode(),
            occurred_at=stated_at,
            received_at=received_at,
            kind="message",
            phone_number_id=number,
            ordering_key=1,
            payload=b"",
            message=message,
            status=status,
            window=window,
        )

    def expect(self, arrivals: list[Arrival]) -> list[bool]:
        """Change the expectation; messages are applied first, as in the store."""
        new = [self.is_new(number, arrivals) for number in range(len(arrivals))]
        for arrival, is_new in zip(arrivals, new, strict=True):
            if is_new and arrival.message is not None:
                self.expected.record(arrival.message)
        for arrival, is_new in zip(arrivals, new, strict=True):
            if is_new and arrival.status is not None:
                self.expected.change(arrival.status)
            if is_new and arrival.window is not None:
                self.expected.open_window(arrival.window)
        return new

    def is_new(self, number: int, arrivals: list[Arrival]) -> bool:
        message, status = arrivals[number].message, arrivals[number].status
        if message is not None:
            identity = message.phone_number_id, message.wa_message_id, message.direction
            return identity not in self.expected.messages and not any(
                (each.phone_number_id, each.wa_message_id) == identity[:2]
                for earlier in arrivals[:number]
                if (each := earlier.message) is not None
            )
        identities = [(each.key, each.occurred_at) for each in arrivals]
        if identities[number] in identities[:number]:
            return False
        if status is not None:
            key = status.phone_number_id, status.wa_message_id
            return status not in self.expected.history.get(key, ())
        return identities[number] not in self.known_calls()

    def known_calls(self) -> set[tuple[bytes, datetime]]:
        rows = self.writers[0].execute("SELECT key, occurred_at FROM wats_inbox")
        return {(key, EPOCH + timedelta(milliseconds=at)) for key, at in rows}

    def record(self, writer: int, number: str, name: str, created_at: datetime, end: End) -> None:
        identity = number, name, Direction.OUTBOUND
        stated_before, before = dict(self.stated), copy.deepcopy(self.expected)
        created_at = self.stated.setdefault(identity, created_at)
        message = MessageRecord(
            phone_number_id=number,
            wa_message_id=name,
            direction=Direction.OUTBOUND,
            to_phone="3",
            type="text",
            status="accepted",
            created_at=created_at,
            updated_at=created_at,
        )
        self.expected.record(message)
        connection = self.writers[writer]
        connection.execute("BEGIN IMMEDIATE")
        messages.record(connection, [message, message])
        end(connection)
        if end is Writer.roll_back:
            self.expected, self.stated = before, stated_before

    def check(self) -> None:
        for connection in self.writers:
            page = messages.page(connection, 100, None, ALL_MESSAGES).items
            found = {
                (each.phone_number_id, each.wa_message_id, each.direction): msgspec.structs.replace(
                    each, row_id=""
                )
                for each in page
            }
            assert len(page) == len(found)
            assert found == self.expected.messages
            for name in NAMES:
                newest = next((each for each in page if each.wa_message_id == name), None)
                assert messages.get(connection, name) == newest
                histories = [self.expected.history.get((each, name), []) for each in NUMBERS]
                actual = statuses.history(connection, name)
                assert [
                    [each for each in actual if each.phone_number_id == number]
                    for number in NUMBERS
                ] == histories
            for number in NUMBERS:
                opened = messages.last_inbound_at(connection, number, "3")
                assert opened == self.expected.windows.get((number, "3"))

    def close(self) -> None:
        for connection in self.writers:
            connection.close()


WRITERS = st.integers(0, 1)
ENDS = st.sampled_from([Writer.commit, Writer.commit, Writer.roll_back])
KINDS = st.sampled_from(["message", "message", "sent", "delivered", "read", "failed", "call"])
UPDATES = st.tuples(
    KINDS,
    st.sampled_from(NUMBERS),
    st.sampled_from(NAMES),
    st.sampled_from(TIMES),
    st.sampled_from(TIMES),
)
STEPS = st.one_of(
    st.tuples(st.just("receive"), WRITERS, st.lists(UPDATES, min_size=1, max_size=6), ENDS),
    st.tuples(
        st.just("record"),
        WRITERS,
        st.sampled_from(NUMBERS),
        st.sampled_from(NAMES),
        st.sampled_from(TIMES),
        ENDS,
    ),
    st.tuples(st.sampled_from(["restart", "merge", "merge"]), WRITERS),
)


SKIPS = st.sampled_from(
    [0, 1, message_index.INDEX_BATCH, message_index.INDEX_BATCH, 1 << 14, 1 << 18]
)


@settings(max_examples=2 * settings.default.max_examples)
@given(st.lists(st.tuples(SKIPS, STEPS), max_size=30))
def test_two_writers_record_exactly_the_new_messages_and_find_them_all(
    steps: list[tuple[int, tuple[object, ...]]],
) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        model = Model(Path(folder))

        for row_ids, (name, *arguments) in steps:
            model.skip(row_ids)
            getattr(model, str(name))(*arguments)
        model.check()

        model.close()
