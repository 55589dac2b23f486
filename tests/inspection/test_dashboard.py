import io
import re
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from rich.cells import cell_len
from rich.console import Console

from wats.inspection.dashboard import View
from wats.inspection.history import History
from wats.inspection.samples import LARGEST_VALUE, Samples
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import (
    Adapter,
    AuthSurface,
    EndpointFamily,
    ErrorCategory,
    FamilySet,
    FinalOutcome,
    InboxState,
    Method,
    Outcome,
    RejectionReason,
    RouteLabel,
    StoreOperation,
    UpdateKind,
)
from wats.web.ops.status import FeatureFlags, InboxView, OutboxCounts, ServiceStatus, StoreView

URL = "http://127.0.0.1:8787"
TEMPLATES = ("/webhook", "/api/messages/text", "/api/conversations/:phone/window", "unmatched")


def frame(
    view: View,
    *,
    columns: int = 80,
    lines: int | None = None,
    has_colors: bool = False,
    encoding: str = "utf-8",
) -> str:
    """Return *view* as text without trailing spaces; with *lines*, as a screen of that height."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(
        file=file,
        width=columns,
        height=lines or 25,
        color_system="standard" if has_colors else None,
        force_terminal=has_colors,
    )
    if lines is None:
        console.print(view)
    else:
        console.screen().update(view)
    file.seek(0)
    shown = re.sub(r" +$", "", file.read(), flags=re.MULTILINE)
    return shown if lines is None else shown.rstrip("\n") + "\n"


def telemetry(families: FamilySet) -> Telemetry:
    routes = [RouteLabel(each, (Method.GET, Method.POST)) for each in TEMPLATES]
    made = Telemetry(routes=routes, adapter=Adapter.SQLITE, families=families)
    made.use_targets(["shop:answer", "crm:record"])
    return made


def work(service: Telemetry, webhooks: int, sends: int) -> None:
    """Let *service* have taken some webhooks and sent some messages, of which a few failed."""
    for number in range(webhooks):
        service.http.request(0, Method.POST, 200, 0.002)
        service.store.operation(Adapter.SQLITE, StoreOperation.RECEIVE, Outcome.SUCCESS, 0.002)
        failed = Outcome.ERROR if number % 40 == 39 else Outcome.SUCCESS
        service.webhooks.update(UpdateKind.MESSAGE, failed)
        service.webhooks.dispatched(0, UpdateKind.MESSAGE, failed, 0.1)
        service.webhooks.dispatched(1, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)
    for number in range(sends):
        failed = Outcome.ERROR if number % 8 == 7 else Outcome.SUCCESS
        status = 500 if failed is Outcome.ERROR else 200
        service.http.request(1, Method.POST, 502 if status == 500 else 200, 0.15)
        service.graph.operation(EndpointFamily.MESSAGES, status, failed, 0.14)
        service.messages.send_outcome(EndpointFamily.MESSAGES, failed)
        if failed is Outcome.SUCCESS:
            service.messages.final_status(FinalOutcome.DELIVERED, ErrorCategory.NONE)
            service.messages.delivered(3.0)
    service.http.request(3, Method.GET, 404, 0.0001)


def scrape(service: Telemetry) -> Samples:
    return Samples.parse(service.render().body.decode())


def status(**changes: object) -> ServiceStatus:
    store = StoreView(
        ok=True,
        backend="sqlite",
        current_version=1,
        redacted_location="[REDACTED_SQLITE_DATABASE]",
    )
    fields = {
        "service": "wats",
        "version": "1.2.3",
        "uptime_seconds": 11_520,
        "graph_api_version": "v25.0",
        "service_mode": "webhook+persistence",
        "routes": TEMPLATES,
        "feature_flags": FeatureFlags(group_routes=False, persistence=True),
        "persistence": store,
    }
    return ServiceStatus(**{**fields, **changes})


@lru_cache
def watched(families: FamilySet = FamilySet.CONTRACT, pauses: tuple[int, ...] = ()) -> View:
    """Return the frame after forty seconds of watching a service."""
    service, history = telemetry(families), History()
    for look in range(21):
        work(service, webhooks=10 * (look % 8), sends=look)
        if look in pauses:
            history.miss()
        else:
            history.look(2.0 * look, scrape(service))
    if families is FamilySet.OPERATOR:
        for state, depth in zip(InboxState, (12, 3, 1, 2, 0), strict=True):
            service.store.inbox_depth(state, depth)
        service.store.inbox_oldest_age(4.2)
        service.http.auth_failure(AuthSurface.API)
        history.look(42.0, scrape(service))
    notes = ("failures in 42 s", "Ctrl-C ends")
    return View(url=URL, status=status(), latest=history.latest, history=history, notes=notes)


def test_the_first_frame_of_a_service_has_no_rates() -> None:
    service = telemetry(FamilySet.CONTRACT)
    work(service, webhooks=80, sends=16)

    shown = frame(View(url=URL, status=status(), latest=scrape(service)))

    assert shown == snapshot("""\
wats 1.2.3 · Graph v25.0 · up 3 h 12 min · webhook+persistence
http://127.0.0.1:8787 · sqlite ok, schema 1

Requests                                   total     4xx     5xx     p50     p99
/webhook                                      80       0       0  <5.0ms  <5.0ms
/api/messages/text                            16       0       2   175ms   248ms
unmatched                                      1       1       0  <5.0ms  <5.0ms

Updates                                    total  failed deduped skipped
message                                       80       2       0       0

Graph                                      total     4xx     5xx
messages                                      16       0       2

Messages                                   total  failed
accepted by Meta                              14       2

Store                                      total  failed
sqlite                                        80       0

Also    rejected webhooks 0
""")


def test_a_service_that_is_watched_has_rates_and_graphs_with_a_gap() -> None:
    shown = frame(watched(pauses=(9,)))

    assert shown == snapshot("""\
wats 1.2.3 · Graph v25.0 · up 3 h 12 min · webhook+persistence
http://127.0.0.1:8787 · sqlite ok, schema 1

Requests               per s                         4xx     5xx     p50     p99
/webhook                20.0 ▃▄▅▆▇█▁ ▃▄▅▆▇█▁▂▃▄▅       0       0  <5.0ms  <5.0ms
/api/messages/text      10.0 ▂▂▂▃▃▃▄ ▄▅▅▆▆▆▇▇▇██       0      18   175ms   248ms
unmatched               0.50 ███████ ███████████      20       0  <5.0ms  <5.0ms

Updates                per s                      failed deduped skipped
message                 20.0 ▃▄▅▆▇█▁ ▃▄▅▆▇█▁▂▃▄▅       9       0       0

Graph                  per s                         4xx     5xx
messages                10.0 ▂▂▂▃▃▃▄ ▄▅▅▆▆▆▇▇▇██       0      18

Messages               per s                      failed
accepted by Meta        9.00 ▂▂▃▃▃▄▄ ▄▅▅▆▆▆▆▇▇██      18

Store                  per s                      failed
sqlite                  20.0 ▃▄▅▆▇█▁ ▃▄▅▆▇█▁▂▃▄▅       0

Also    rejected webhooks 0
failures in 42 s · Ctrl-C ends
""")


def test_a_small_terminal_shows_the_busiest_series_of_all_families() -> None:
    shown = frame(watched(FamilySet.OPERATOR), lines=19)

    assert shown == snapshot("""\
wats 1.2.3 · Graph v25.0 · up 3 h 12 min · webhook+persistence
http://127.0.0.1:8787 · sqlite ok, schema 1
Requests (+2)          per s                         4xx     5xx     p50     p99
/webhook                   0 ▄▅▆▇█▁▂▃▄▅▆▇█▁▂▃▄▅▁       0       0  <5.0ms  <5.0ms
Updates                per s                      failed deduped skipped
message                    0 ▄▅▆▇█▁▂▃▄▅▆▇█▁▂▃▄▅▁       9       0       0
Handlers               per s                      failed
shop:answer                0 ▄▅▆▇█▁▂▃▄▅▆▇█▁▂▃▄▅▁       9
crm:record                 0 ▄▅▆▇█▁▂▃▄▅▆▇█▁▂▃▄▅▁       0
Graph                  per s                         4xx     5xx     p50     p99
messages                   0 ▂▂▃▃▃▄▄▅▅▅▆▆▆▇▇▇██▁       0      18   175ms   248ms
Messages               per s                      failed             p50     p99
accepted by Meta           0 ▂▃▃▃▄▄▄▅▅▅▆▆▆▆▇▇██▁      18
delivered                  0 ▂▃▃▃▄▄▄▅▅▅▆▆▆▆▇▇██▁       0            3.0s    5.0s
Store                  per s                      failed             p50     p99
sqlite                     0 ▄▅▆▇█▁▂▃▄▅▆▇█▁▂▃▄▅▁       0          <5.0ms  <5.0ms
Inbox   pending 12  leased 3  retry 1  dead 2  orphaned 0  oldest 4.2s
Also    workers 1  rejected webhooks 0  auth failures 1  sink failures 0
failures in 42 s · Ctrl-C ends
""")


@pytest.mark.parametrize("columns", [1, 9, 20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("lines", [1, 5, 12, 24, 60])
def test_a_frame_is_never_larger_than_its_terminal(columns, lines) -> None:
    shown = frame(watched(FamilySet.OPERATOR), columns=columns, lines=lines).splitlines()

    assert len(shown) <= lines
    assert max(map(cell_len, shown)) <= columns


def test_a_narrow_terminal_shows_fewer_numbers_and_none_in_part() -> None:
    lines = frame(watched(), columns=40).splitlines()

    assert lines[3:5] == snapshot(
        ["Requests               per s         4xx", "/webhook                20.0 ▅▆█       0"]
    )


@pytest.mark.parametrize("columns", range(52, 72))
def test_numbers_are_aligned_with_their_heads_in_every_width(columns) -> None:
    lines = frame(watched(), columns=columns).splitlines()

    head, row = lines[3:5]
    assert head.endswith("p99" if columns >= 60 else "p50")
    assert row.endswith("<5.0ms")
    assert len(head) == len(row) <= columns


def test_a_wide_terminal_has_wide_graphs() -> None:
    (row,) = [line for line in frame(watched(), columns=120).splitlines() if "/webhook" in line]

    assert len(row) == 120
    assert len(row[28:88].strip()) == 20


def test_only_alarms_are_red() -> None:
    view = watched(FamilySet.OPERATOR)

    red = [
        line.split("\x1b[1;31m")[1].split("\x1b")[0].strip()
        for line in frame(view, has_colors=True).splitlines()
        if "\x1b[1;31m" in line
    ]

    assert red == ["18", "9", "9", "18", "18", "dead 2", "auth failures 1"]


def test_a_service_that_does_not_respond_keeps_its_last_numbers() -> None:
    view = watched()
    silent = View(
        url=URL,
        status=view.status,
        latest=view.latest,
        history=view.history,
        trouble="For 12 s: http://127.0.0.1:8787 does not respond: the connection was refused.",
    )

    lines = frame(silent).splitlines()

    assert (
        lines[1] == "For 12 s: http://127.0.0.1:8787 does not respond: the connection was refused."
    )
    assert lines[2:17] == frame(view).splitlines()[2:17]


def test_the_backlog_of_a_service_is_shown_without_the_operator_families() -> None:
    backlog = InboxView(pending=7, leased=1, retry=0, dead=2, orphaned=0, oldest_seconds=90.0)
    view = View(url=URL, status=status(inbox=backlog), latest=scrape(telemetry(FamilySet.CONTRACT)))

    (line,) = [line for line in frame(view).splitlines() if line.startswith("Inbox")]

    assert line == "Inbox   pending 7  leased 1  retry 0  dead 2  orphaned 0  oldest 90s"


def test_the_messages_that_are_sent_later_are_shown() -> None:
    counts = OutboxCounts(pending=7, processing=1, dead=2, orphaned=3, oldest_seconds=90.0)
    view = View(url=URL, status=status(outbox=counts), latest=scrape(telemetry(FamilySet.CONTRACT)))

    (line,) = [line for line in frame(view).splitlines() if line.startswith("Outbox")]

    assert line == "Outbox  pending 7  processing 1  dead 2  orphaned 3  oldest 90s"


def test_a_service_that_never_responded_has_no_numbers() -> None:
    view = View(
        url=URL, status=None, latest=Samples(), history=History(), trouble="It does not answer."
    )

    assert frame(view) == f"wats at {URL}\nIt does not answer.\n"


@pytest.mark.parametrize(
    ("persistence", "line"),
    [
        (None, f"{URL} · no store"),
        (
            StoreView(
                ok=False, backend="unknown", current_version=0, redacted_location="[REDACTED]"
            ),
            f"{URL} · unknown CANNOT BE READ, schema 0",
        ),
    ],
)
def test_the_state_of_the_store_is_shown_at_the_top(persistence, line) -> None:
    view = View(url=URL, status=status(persistence=persistence), latest=Samples())

    assert frame(view).splitlines()[1] == line
    assert ("\x1b[1;31m" in frame(view, has_colors=True).splitlines()[1]) == (
        persistence is not None
    )


def test_ascii_is_enough() -> None:
    shown = frame(watched(FamilySet.OPERATOR), encoding="ascii")

    assert shown.isascii()
    assert "wats 1.2.3 | Graph v25.0 | up 3 h 12 min" in shown


@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_text_of_a_service_cannot_control_the_terminal(columns, encoding) -> None:
    control = "\x1b[2J\x9b2J\x07\r\n\t\u202e[bold red]:bomb:"
    store = StoreView(ok=True, backend=control, current_version=1, redacted_location=control)
    hostile = status(
        version=control, graph_api_version=control, service_mode=control, persistence=store
    )
    label = control.replace("\n", "\\n")
    latest = Samples.parse(
        f'http_requests_total{{route="{label}"}} 3\nwats_inbox_depth{{state="{label}"}} 1\n'
    )
    view = View(url=URL, status=hostile, latest=latest)

    shown = frame(view, columns=columns, encoding=encoding)

    assert set(shown) & set("\x1b\x9b\x07\r\t\u202e") == set()
    assert len(shown.splitlines()) == 7
    assert "[bold red]:bomb:" in shown or columns == 20


LOOK = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(), st.floats(-LARGEST_VALUE, LARGEST_VALUE)),
    max_size=3,
)


@given(looks=st.lists(LOOK, max_size=3), uptime=st.integers(-(10**30), 10**30))
def test_no_numbers_of_a_service_fail_or_widen_a_frame(looks, uptime) -> None:
    history = History()
    for at, look in enumerate(looks):
        text = "".join(
            f'http_request_duration_seconds_bucket{{route="{route}",le="{bound}"}} {value}\n'
            f'http_requests_total{{route="{route}"}} {value}\n'
            for route, bound, value in look
        )
        history.look(at, Samples.parse(f"# TYPE http_requests_total counter\n{text}"))
    view = View(
        url=URL, status=status(uptime_seconds=uptime), latest=history.latest, history=history
    )

    assert max(map(cell_len, frame(view).splitlines())) <= 80


def test_webhooks_with_the_signature_of_no_app_secret_are_an_alarm() -> None:
    service = telemetry(FamilySet.CONTRACT)
    text = "3 webhooks with a signature of no configured app secret"
    before = frame(View(url=URL, status=status(), latest=scrape(service)))

    for _ in range(3):
        service.webhooks.rejected(RejectionReason.SIGNATURE_MISMATCH)
    after = frame(View(url=URL, status=status(), latest=scrape(service)))

    assert "app secret" not in before
    assert after.splitlines()[2] == text
