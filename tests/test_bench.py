import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.contestants import CONTESTANTS
from bench.hiding import THRESHOLD, Contest, Verdict, contests, judge, welch_t
from bench.inbox import await_settled, sqlite_inbox
from bench.isolation import Conversations, delays_of
from bench.payloads import PHONE_NUMBER_ID, Sends, Sent, Statuses, TextPayloads, Webhooks
from bench.processes import ChildFailed
from bench.receivers import PATHS, ReceivedRequest
from bench.rivals.pywa_server import add_pywa, make_app
from bench.sent import record
from bench.soak import TABLES, Size
from bench.soak import judge as judge_growth
from wats import open_store
from wats.clock import utc_now
from wats.inbound import fast_path
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.inbound.signature import SignatureCheck
from wats.outbound.messages import parse_text
from wats.outbound.payload import text_payload
from wats.privacy import Secret
from wats.store import receive
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Direction,
    MessageRecord,
    Settlement,
)
from wats.telemetry.schema import schema_of
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.table import route_table

ROOT = Path(__file__).parent.parent
SHORT = (
    *("--rounds", "1", "--seconds", "0.05", "--connections", "4", "--pairs", "100"),
    *("--messages", "20000"),
)


def bench(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def commands_of_children(pid: int) -> dict[str, list[str]]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {child: Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children}


def head_and_body(request: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines), body


@pytest.mark.long
@pytest.mark.timeout(300)  # it starts 40 processes, one after the other
def test_everything_is_measured_in_one_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    process = bench(*SHORT, "--json", str(figures))
    output, errors = process.communicate()

    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(figures.read_bytes())
    assert set(report["results"]) == set(CONTESTANTS)
    assert all(len(result["rounds"]) == 1 for result in report["results"].values())
    settled = {
        name
        for name, result in report["results"].items()
        if result["rounds"][0]["settled_rate"] is not None
    }
    assert settled == {
        "stored",
        "statuses",
        "stored-read",
        "stored-two",
        "stored-slow",
        "stored-postgres",
    }
    counting = report["telemetry"]
    assert counting["request_ns"]["nothing"] < counting["request_ns"]["wats"]
    assert set(counting["stored_ns"]) == {"contract", "operator"}
    assert counting["sink_us"]["a sink that takes 1 ms"] > 2000
    every = schema_of(route_labels(route_table(example_profile(), groups_enabled=True)))
    assert {each.set for each in every.sets} == {"contract", "operator"}
    assert [(each["name"], each["samples"]) for each in counting["renders"]] == [
        (f"{each.set}, {form}", each.series)
        for each in every.sets
        for form in ("text", "OpenMetrics")
    ]
    assert [each["name"] for each in report["hiding"]["verdicts"]] == [
        each.name for each in contests()
    ]
    assert all(each["median_us"] > 1 for each in report["hiding"]["verdicts"])
    writer = report["writer"]
    assert writer["messages"] == 20_000
    assert [each["empty_us"] is not None for each in writer["costs"]] == [True, True, True, False]
    assert all(each["filled_us"] > 1 for each in writer["costs"])
    fanout = report["fanout"]
    assert fanout["deliveries"] == 75
    assert len(fanout["wats"]) == len(fanout["loop"]) == 1
    assert min(fanout["wats"] + fanout["loop"]) > 1
    assert output.count("goal") == 10
    bare = "aiohttp, bare: calls of Graph"
    assert f"wats, sends with a key / {bare}: " in output
    assert f"wats, sends / {bare}: " in output
    assert f"wats, sends without a store / {bare}: " in output
    assert "Traceback" not in errors


@pytest.mark.long
def test_only_the_selected_benchmarks_are_measured() -> None:
    process = bench(*SHORT, "--only", "ceiling")
    output, _ = process.communicate()

    assert process.returncode == 0
    assert "load generator" in output
    assert "wats with SQLite" not in output


def verdict(first: list[float], second: list[float]) -> Verdict:
    contest = Contest(name="x", paths=("/a", "/b"))
    return judge(contest, [round(each) for each in first], [round(each) for each in second])


def normal(mean: float, count: int = 5000) -> list[float]:
    return [random.gauss(mean, 1000) for _ in range(count)]


def test_the_t_statistic_is_that_of_welch() -> None:
    first, second = [20.0, 22.0, 19.0, 20.0, 22.0, 24.0], [28.0, 26.0, 30.0, 24.0]

    assert welch_t(first, second) == pytest.approx(3.9082, abs=1e-4)
    assert welch_t(second, first) == pytest.approx(-3.9082, abs=1e-4)
    assert welch_t([1.0, 1.0], [1.0, 1.0]) == 0


def test_equal_durations_are_not_distinguished() -> None:
    assert not verdict(normal(50_000), normal(50_000)).distinguished


@pytest.mark.parametrize("longer", [200, -200])
def test_longer_and_shorter_durations_are_distinguished(longer: float) -> None:
    seen = verdict(normal(50_000), normal(50_000 + longer))

    assert seen.distinguished
    assert seen.difference_ns == pytest.approx(longer, abs=100)


def test_interruptions_do_not_hide_a_longer_duration() -> None:
    def interrupted(times: list[float]) -> list[float]:
        return [each + 1e8 * (random.random() < 0.02) for each in times]

    seen = verdict(interrupted(normal(50_000)), interrupted(normal(50_200)))

    assert abs(seen.t) < THRESHOLD
    assert seen.distinguished


def test_paths_that_are_compared_are_of_the_same_length() -> None:
    compared = list(contests())

    assert all(len(each.paths[0]) == len(each.paths[1]) for each in compared)
    assert [each.differs for each in compared][-2:] == [False, True]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_no_process_behind(number: signal.Signals) -> None:
    process = bench("--seconds", "30", "--only", "bare", "stored")
    assert process.stderr is not None
    while not process.stderr.readline().startswith("round 1"):
        assert process.poll() is None
    children = commands_of_children(process.pid)
    (config,) = (word for words in children.values() for word in words if word.endswith(".json"))

    process.send_signal(number)
    process.communicate(timeout=30)

    assert len(children) >= 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not Path(config).parent.exists()


def test_webhooks_are_signed_understood_and_never_the_same() -> None:
    made = Webhooks(path="/webhook", app_secret="s")
    check = SignatureCheck([Secret("s")])
    keys = set()

    for _ in range(500):
        headers, body = head_and_body(made.make())
        check.verify(body, headers["x-hub-signature-256"])
        found = normalize(parse(body), received_at=utc_now())
        assert not found.skips
        (update,) = found.updates
        assert fast_path.read(body, update.received_at) == update
        assert update.phone_number_id == PHONE_NUMBER_ID
        assert headers["content-length"] == str(len(body))
        assert 700 <= len(body) <= 900
        keys.add(update.key)

    assert len(keys) == 500


def test_every_sent_message_gets_three_statuses_in_order() -> None:
    sent = Sent(run="r", count=5)
    made = Statuses(path="/webhook", app_secret="s", sent=sent)
    check = SignatureCheck([Secret("s")])
    statuses: dict[str, list[str]] = {each: [] for each in sent.ids()}

    for _ in range(15):
        headers, body = head_and_body(made.make())
        check.verify(body, headers["x-hub-signature-256"])
        update = fast_path.read(body, utc_now())
        assert update is not None
        assert update.status is not None
        statuses[str(update.status.id)].append(str(update.status.status))

    assert list(statuses.values()) == [["sent", "delivered", "read"]] * 5
    with pytest.raises(StopIteration):
        made.make()


def update(number: int, **projection: Any) -> Arrival:
    return Arrival(
        key=number.to_bytes(16, "big"),
        occurred_at=utc_now(),
        received_at=utc_now(),
        kind="message",
        phone_number_id="1",
        ordering_key=number,
        payload=b"{}",
        consumers=("a", "b"),
        **projection,
    )


@pytest.mark.parametrize(
    ("before", "last", "is_level"),
    [
        (Size(1000, 5000), Size(1000, 5000), True),
        (Size(1000, 5000), Size(1200, 6000), True),
        (Size(1000, 5000), Size(2000, 5000), False),
        (Size(1000, 5000), Size(1000, 9000), False),
    ],
)
def test_a_soak_compares_the_last_two_quarters(before: Size, last: Size, is_level: bool) -> None:
    quarters = Size(9_000, 90_000), Size(9_000, 90_000), before, last
    looks = [dict.fromkeys(TABLES, size) for size in quarters for _ in range(5)]

    verdicts = judge_growth(looks)

    assert [each.table for each in verdicts] == list(TABLES)
    assert [each.is_level for each in verdicts] == [is_level] * len(TABLES)


@pytest.mark.long
def test_a_soak_reports_every_table() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.05", "--rate", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode in (0, 1), done.stderr  # so short a run can be no verdict
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("120 webhooks in 0.05 minutes, all handled\n")
    assert all(f"\n{table} " in done.stdout for table in TABLES)


def received(*messages: int) -> list[ReceivedRequest]:
    """Return requests with *messages*, at one a second; the message 9 has another customer."""
    return [
        ReceivedRequest("good", "b" if each == 9 else "a", f"{each}", float(moment), True)
        for moment, each in enumerate(messages)
    ]


def sent_messages() -> Conversations:
    sent = Conversations(1)
    sent.sent = {"1": 0.0, "2": 0.0, "9": 0.0}
    sent.expected = {"a": ["1", "2"], "b": ["9"]}
    return sent


def test_the_delay_of_a_message_ends_at_its_first_request() -> None:
    delays = delays_of("good", received(1, 1, 9, 2), sent_messages())

    assert delays == {"1": 0.0, "9": 2.0, "2": 3.0}


@pytest.mark.parametrize("messages", [(1, 2), (2, 1, 9), (1, 2, 1, 9)])
def test_missing_and_early_messages_of_a_subscriber_are_a_failure(messages: Any) -> None:
    with pytest.raises(ChildFailed, match="in order"):
        delays_of("good", received(*messages), sent_messages())


@pytest.mark.long
@pytest.mark.parametrize("arrivals", [(), ("--random",)])
def test_the_delays_of_a_subscriber_are_measured_alone_and_next_to_others(
    arrivals: tuple[str, ...],
) -> None:
    command = [sys.executable, "-m", "bench.isolation", "--conversations", "20", "--rate", "100"]
    short = ["--fail", "0.2", "--sleep", "0.01"]
    command += [*short, *arrivals]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    title, _, *rows = done.stdout.splitlines()
    assert title == "40 webhooks, 100 per second"
    good, *others = PATHS
    titles = [good, good, "  during the outage", "  after the outage", *others, good]
    assert all(row.startswith(title) for row, title in zip(rows, titles, strict=True))


@pytest.mark.long
def test_the_instructions_of_a_request_are_counted_in_two_versions() -> None:
    command = [sys.executable, "-m", "bench.instructions", "--only", "inline", "--seconds", "0.5"]
    command += ["--tree", str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    name, *counts, ratio = done.stdout.split()
    assert name == "inline"
    assert len(counts) == 2
    assert all(int(count.replace(",", "")) > 10_000 for count in counts)
    assert 0.5 < float(ratio) < 2


def test_counting_instructions_without_valgrind_names_its_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.instructions"]
    environ = {"PATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Valgrind is missing. On Debian, install")


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_an_erasure_is_measured_and_complete(store: str) -> None:
    command = [sys.executable, "-m", "bench.erase", "--messages", "1000", "--store", store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,000 messages")
    assert "search again" in done.stdout


async def test_messages_and_other_updates_count_as_handled_when_no_handler_has_failed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "wats.db"
    sent = Sent(run="r", count=5)
    await asyncio.to_thread(record, path, sent)
    message = MessageRecord(
        phone_number_id="1",
        wa_message_id="wamid.1",
        direction=Direction.INBOUND,
        type="text",
        status="received",
        created_at=utc_now(),
        updated_at=utc_now(),
    )
    store = open_store(f"sqlite:///{path}")
    await store.open()
    await store.register([Consumer(name="a"), Consumer(name="b")])
    await receive(store, [update(1, message=message), update(2), update(3)])

    for consumer in "ab":
        claimed = (await store.claim(consumer, 9)).deliveries
        states = [DeliveryState.DONE, DeliveryState.DONE, DeliveryState.DEAD]
        await store.settle([Settlement(*each) for each in zip(claimed, states, strict=True)])

    inbox = sqlite_inbox(path)
    await asyncio.to_thread(await_settled, inbox, 2)
    with pytest.raises(ChildFailed, match="3 webhooks were acknowledged and 2 were handled"):
        await asyncio.to_thread(await_settled, inbox, 3)
    await store.close()


def test_sends_have_keys_of_their_own_on_request() -> None:
    keyed = Sends(path="/api/messages/text", token="t", keyed=True)
    plain = Sends(path="/api/messages/text", token="t", keyed=False)

    keys = {head_and_body(keyed.make())[0]["idempotency-key"] for _ in range(50)}

    assert len(keys) == 50
    assert "idempotency-key" not in head_and_body(plain.make())[0]


def test_the_bare_loop_sends_the_payloads_of_the_gateway() -> None:
    sends, payloads = Sends(path="/", token="t", keyed=False), TextPayloads()

    for _ in range(50):
        _, body = head_and_body(sends.make())
        assert json.loads(payloads.make()) == json.loads(text_payload(parse_text(body)))


@pytest.mark.long
async def test_the_rival_handles_every_update_that_it_acknowledges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCH_APP_SECRET", "s")
    monkeypatch.setenv("BENCH_PHONE_NUMBER_ID", PHONE_NUMBER_ID)
    app = make_app("starlette")
    handled = []

    async def handle(_: object, message: object) -> None:
        handled.append(message)

    add_pywa(app).on_message(handle)
    headers, body = head_and_body(Webhooks(path="/webhook", app_secret="s").make())
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/webhook",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)

    assert sent[0]["status"] == 200
    assert len(handled) == 1
