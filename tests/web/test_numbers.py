"""Tokens, numbers and scopes: each token reaches its numbers by its scopes, and nothing else."""

import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.web.conftest import Answer, FakeGraph, Service
from wats.config import GroupsConfig, NumberConfig, ServiceConfig, TokenConfig
from wats.config.numbers import ADMIN, CONSUME, NUMBER_SCOPES, TELEMETRY
from wats.errors import ConfigError
from wats.privacy import Secret
from wats.service import create_wats_service_app
from wats.store.records import Direction, MessageRecord
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, CapturingTelemetrySink, example_profile, example_secrets
from wats.web.openapi import build_document
from wats.web.table import route_table

DEFAULT, BERLIN, PARIS, UNKNOWN = "15551234567", "300001", "300002", "300009"
UNKNOWN_NAME = "rome"
NAMES = {"default": DEFAULT, "berlin": BERLIN, "paris": PARIS}
OWN_TOKEN = "an-access-token-of-paris"
CUSTOMER = "15550002222"
TEXT = {"to": CUSTOMER, "text": "Hello"}
GRAPH_TEXT = {"messaging_product": "whatsapp", "type": "text", "text": {"body": "Hello"}}
LATER = "respond-async"
SCRAPER = "a-scraper-token-for-tests"
NUMBERS = tuple(
    NumberConfig(name=name, phone_number_id=each, waba_id="1", throughput=80)
    for name, each in list(NAMES.items())[1:]
)
OPERATIONS: list[tuple[str, str, Any, str]] = [
    ("GET", "messages", None, "messages:read"),
    ("GET", "messages/wamid.X", None, "messages:read"),
    ("GET", f"conversations/{CUSTOMER}/window", None, "messages:read"),
    ("POST", "messages/text", TEXT, "messages:write"),
    ("POST", "messages/wamid.X/read", None, "messages:write"),
    ("GET", "media/123", None, "media:read"),
    ("DELETE", "media/123", None, "media:write"),
    ("GET", "groups", None, "groups:read"),
    ("POST", "groups", {"subject": "A"}, "groups:write"),
    ("PUT", "messages", None, "messages:write"),
]
ALL = frozenset(NUMBER_SCOPES)
PROFILE = "whatsapp_business_profile"
GRAPH_CALLS: list[tuple[str, str, Any, frozenset[str]]] = [
    ("POST", "{}/messages", {"to": CUSTOMER}, frozenset({"messages:write"})),
    ("POST", "{}/marketing_messages", {"to": CUSTOMER}, frozenset({"messages:write"})),
    ("POST", "{}/media", b"x", frozenset({"media:write"})),
    ("DELETE", "777?phone_number_id={}", None, frozenset({"media:write"})),
    ("GET", "{}/" + PROFILE, None, frozenset({"messages:read"})),
    ("POST", "{}/" + PROFILE, {}, ALL),
    ("GET", "{}/groups", None, frozenset({"groups:read"})),
    ("POST", "{}/groups", {}, frozenset({"groups:write"})),
]
"""Calls of Graph that name a number, with the scopes that they need."""
GRAPH_CALLS_WITHOUT_NUMBER = [
    *(("GET", "777"), ("POST", "777"), ("DELETE", "777"), ("GET", "1"), ("GET", "1/flows")),
    *(("GET", "upload:MTphdA=="), ("GET", "Y2FwaV9ncm91cDox"), ("POST", "777/publish")),
]


class Caller(NamedTuple):
    """A token with its scopes, and the numbers that it is for; `None` for all."""

    token: str
    scopes: frozenset[str]
    numbers: frozenset[str] | None


def callers() -> list[Caller]:
    """Return a token for each scope with each kind of limit, and some with several scopes."""
    limits = (None, frozenset({"berlin"}), frozenset({"default", "paris"}))
    both = (frozenset({"messages:read", "media:write"}), frozenset(NUMBER_SCOPES))
    pairs = [*product([*(frozenset({each}) for each in NUMBER_SCOPES), *both], limits)]
    pairs += [(frozenset({each}), None) for each in (CONSUME, ADMIN, TELEMETRY)]
    return [
        Caller(f"token-number-{i:02}-for-tests", scopes, numbers)
        for i, (scopes, numbers) in enumerate(pairs)
    ]


CALLERS = callers()
EVERYTHING = frozenset({*NUMBER_SCOPES, ADMIN, TELEMETRY})


@pytest.fixture
async def service(graph: tuple[FakeGraph, str], tmp_path: Path) -> AsyncIterator[Service]:
    fake, graph_url = graph
    tokens = tuple(
        TokenConfig(
            name=f"t{i}",
            tokens=(),
            scopes=tuple(caller.scopes),
            numbers=tuple(caller.numbers or ()),
        )
        for i, caller in enumerate(CALLERS)
    )
    profile = example_profile(
        graph_url=graph_url,
        groups=GroupsConfig(enabled=True),
        numbers=NUMBERS,
        service=ServiceConfig(host="127.0.0.1", port=8787, api_prefix="/api", tokens=tokens),
    )
    secrets = example_secrets(
        telemetry_tokens=(Secret(SCRAPER),),
        access_tokens={"paris": Secret(OWN_TOKEN)},
        api_tokens={f"t{i}": (Secret(each.token),) for i, each in enumerate(CALLERS)},
    )
    store = SQLiteStore(str(tmp_path / "wats.db"))
    table = route_table(profile, groups_enabled=True)
    document = json.loads(build_document(table, profile=profile, complete=True))
    running = Service(document, fake, store)
    running.app = create_wats_service_app(
        profile=profile,
        secrets=secrets,
        persistence=store,
        telemetry_sink=CapturingTelemetrySink(),
        log=running.log.append,
        now=running.clock,
    )
    await running.app.start()
    yield running
    await running.app.stop()


def is_hidden(answer: Answer, missing: Answer) -> bool:
    """Return whether *answer* is that of a path that does not exist, in every byte."""
    return answer == missing


def expected(caller: Caller, number: str | None, scope: str) -> str:
    if not caller.scopes:
        return "unauthorized"
    if scope not in caller.scopes:
        return "insufficient_scope"
    default = None if caller.numbers is None else DEFAULT
    wanted = NAMES.get(number, number) if number else default
    permitted = None if caller.numbers is None else {NAMES[name] for name in caller.numbers}
    if wanted is None:
        return "permitted"
    if wanted in {UNKNOWN, UNKNOWN_NAME} or (permitted is not None and wanted not in permitted):
        return "hidden"
    return "permitted"


async def test_a_token_reaches_its_numbers_by_its_scopes_and_nothing_else(
    service: Service,
) -> None:
    missing = await service.ask("GET", "/nothing-is-here")
    others = [
        Caller("no-token-of-the-service", frozenset(), None),
        Caller(BEARER_TOKEN, EVERYTHING, None),
        Caller(SCRAPER, frozenset({TELEMETRY}), None),
    ]
    found, wanted = {}, {}
    for caller in (*others, *CALLERS):
        for (method, path, body, scope), number in product(
            OPERATIONS, (None, DEFAULT, BERLIN, PARIS, UNKNOWN, *NAMES, UNKNOWN_NAME)
        ):
            prefix = "/api" if number is None else f"/api/numbers/{number}"
            answer = await service.ask(method, f"{prefix}/{path}", body, token=caller.token)
            case = (caller, method, path, number)
            wanted[case] = expected(caller, number, scope)
            if is_hidden(answer, missing):
                found[case] = "hidden"
            elif answer.status in {401, 403}:
                found[case] = answer.code
            else:
                found[case] = "permitted"
        for path, scope in (
            ("/status", TELEMETRY),
            ("/api/admin/consumers", ADMIN),
            ("/api/admin/messages", ADMIN),
        ):
            answer = await service.ask("GET", path, token=caller.token)
            found[caller, path] = "hidden" if is_hidden(answer, missing) else answer.status
            wanted[caller, path] = 200 if scope in caller.scopes else "hidden"

    assert found == wanted
    logged = str(service.log)
    assert not any(each in logged for each in (DEFAULT, BERLIN, PARIS, UNKNOWN, BEARER_TOKEN))


def expected_of_graph(
    caller: Caller, number: str | None, scopes: frozenset[str], *, is_write: bool
) -> str:
    if not caller.scopes:
        return "unauthorized"
    if ALL.isdisjoint(caller.scopes):
        return "insufficient_scope"
    permitted = {NAMES[name] for name in caller.numbers or NAMES}
    is_for_it = caller.numbers is None if number is None else number in permitted
    if not is_for_it:
        return "hidden"
    if is_write and caller.numbers is not None:
        return "insufficient_scope"
    return "permitted" if scopes <= caller.scopes else "insufficient_scope"


async def test_a_token_reaches_calls_of_graph_for_its_numbers_by_its_scopes(
    service: Service,
) -> None:
    missing = await service.ask("GET", "/nothing-is-here")
    service.graph.body = {"data": []}
    others = [
        Caller("no-token-of-the-service", frozenset(), None),
        Caller(BEARER_TOKEN, EVERYTHING, None),
        Caller(SCRAPER, frozenset({TELEMETRY}), None),
    ]
    calls = [
        (method, path.format(number), body, number, scopes)
        for method, path, body, scopes in GRAPH_CALLS
        for number in (DEFAULT, BERLIN, PARIS, UNKNOWN)
    ]
    calls += [(method, path, None, None, ALL) for method, path in GRAPH_CALLS_WITHOUT_NUMBER]
    found, wanted = {}, {}
    for caller in (*others, *CALLERS):
        for method, path, body, number, scopes in calls:
            is_write = method == "POST" and path.endswith((PROFILE, "/groups"))
            sent = len(service.graph.asked)
            answer = await service.ask(method, f"/api/graph/v25.0/{path}", body, token=caller.token)
            case = (caller, method, path)
            wanted[case] = expected_of_graph(caller, number, scopes, is_write=is_write)
            if is_hidden(answer, missing):
                found[case] = "hidden"
            elif answer.status in {401, 403}:
                found[case] = answer.json["error"]["wats"]["code"]
            else:
                found[case] = "permitted"
            if wanted[case] != "permitted":
                assert len(service.graph.asked) == sent, case

    assert found == wanted
    logged = str(service.log)
    assert not any(each in logged for each in (DEFAULT, BERLIN, PARIS, UNKNOWN, BEARER_TOKEN))


async def test_a_limited_token_does_not_learn_which_other_numbers_and_accounts_exist(
    service: Service,
) -> None:
    missing = await service.ask("GET", "/nothing-is-here")

    for caller in CALLERS:
        if caller.numbers == {"berlin"}:
            for method in ("GET", "POST", "DELETE"):
                for path in (PARIS, UNKNOWN, "1", "2", "me", f"{PARIS}/x", f"{UNKNOWN}/x"):
                    target = f"/api/graph/v25.0/{path}"
                    assert await service.ask(method, target, token=caller.token) == missing
    assert service.graph.asked == []
    below = f"/api/numbers/{BERLIN}/graph/v25.0/{BERLIN}"
    assert await service.ask("GET", below) == missing


async def test_a_call_of_graph_has_the_token_of_its_number_and_no_token_in_its_response(
    service: Service,
) -> None:
    sent_tokens, proofs = [], []
    for path in (DEFAULT, BERLIN, PARIS, "777", "1"):
        service.graph.body = {"data": [*filter(None, (*proofs, *sent_tokens)), "end"]}
        answer = await service.ask("GET", f"/api/graph/v25.0/{path}")
        assert answer.json == {"data": [*[""] * len({*proofs} | {*sent_tokens}), "end"]}
        token = service.graph.received_headers["authorization"].removeprefix("Bearer ")
        sent_tokens = list(dict.fromkeys([*sent_tokens, token]))
        proofs = list(dict.fromkeys([*proofs, service.graph.proofs[-1]]))

    own = example_secrets().access_token.reveal()
    assert sent_tokens == [own, OWN_TOKEN]
    default, paris = proofs
    assert None not in proofs
    assert service.graph.proofs == [default, default, paris, default, default]


async def test_only_a_token_without_limits_may_ask_for_nested_fields(service: Service) -> None:
    limited = next(each for each in CALLERS if each.numbers == {"berlin"} and each.scopes == ALL)
    path = f"/api/graph/v25.0/{BERLIN}?fields="

    for token, fields, status in (
        (limited.token, "id,name", 200),
        (limited.token, "id,account{id}", 400),
        (limited.token, "id&FIELDS=account.limit(1)", 400),
        (limited.token, "id&fields[]=account{id}", 400),
        (limited.token, "id&%20fields=account{id}", 400),
        (BEARER_TOKEN, "id,account{id}", 200),
    ):
        assert (await service.ask("GET", path + fields, token=token)).status == status


async def test_only_a_token_without_limits_may_read_the_callbacks_of_a_number(
    service: Service,
) -> None:
    limited = next(each for each in CALLERS if each.scopes == {"messages:read"})
    path = f"/api/graph/v25.0/{BERLIN}"

    for query in ("fields=webhook_configuration", "fields=id&Fields=id,Webhook_Configuration"):
        assert (await service.ask("GET", f"{path}?{query}", token=limited.token)).status == 400
        assert (await service.ask("GET", f"{path}?{query}", token=BEARER_TOKEN)).status == 200
    passed = []
    for token, query in (
        (limited.token, ""),
        (limited.token, "?fields=id&fields=%20,"),
        (BEARER_TOKEN, ""),
    ):
        await service.ask("GET", path + query, token=token)
        passed.append(service.graph.asked[-1].query)

    assert passed[0]["fields"].startswith("id,display_phone_number,")
    assert "webhook_configuration" not in passed[0]["fields"]
    assert passed[1:] == [{"fields": "id"}, {}]


async def test_the_document_of_a_telemetry_token_has_no_admin_routes(service: Service) -> None:
    paths = (await service.ask("GET", "/openapi.json", token=SCRAPER)).json["paths"]

    assert "/metrics" in paths
    assert not [path for path in paths if path.startswith("/api/admin")]


async def test_a_call_of_graph_that_is_sent_later_names_a_path_that_its_token_can_read(
    service: Service,
) -> None:
    text = {**GRAPH_TEXT, "to": CUSTOMER}
    for caller in (each for each in CALLERS if each.scopes == ALL):
        for number in caller.numbers or NAMES:
            path = f"/api/graph/v25.0/{NAMES[number]}/messages"
            answer = await service.ask("POST", path, text, token=caller.token, prefer=LATER)
            found = await service.ask("GET", answer.headers["location"], token=caller.token)
            assert (answer.status, found.status) == (202, 200)
            assert answer.json["id"] == found.json["id"]


async def test_only_paths_of_the_api_exist_for_a_number(service: Service) -> None:
    missing = await service.ask("GET", "/nothing-is-here")

    for path in (
        f"/api/numbers/{BERLIN}",
        f"/api/numbers/{BERLIN}/",
        f"/api/numbers/{BERLIN}/admin/consumers",
        f"/api/numbers/{BERLIN}/numbers/{BERLIN}/messages",
        f"/api/numbers/{BERLIN}//messages",
        f"/api/numbers/{BERLIN[:-1]}%31/messages",
        "/api/numbers//messages",
        "/api/numbers/rome/messages",
        "/api/numbers",
    ):
        assert await service.ask("GET", path) == missing, path
    assert (await service.ask("GET", f"/api/numbers/{PARIS}/../{BERLIN}/messages")).status == 200


@pytest.mark.parametrize("has_store", [False])
async def test_without_numbers_no_path_of_a_number_exists(
    graph: tuple[FakeGraph, str], has_store: bool
) -> None:
    profile = example_profile(graph_url=graph[1])
    document = json.loads(
        build_document(route_table(profile, groups_enabled=True), profile=profile, complete=True)
    )
    plain = Service(document, graph[0], None)
    plain.app = create_wats_service_app(
        profile=profile, secrets=example_secrets(), log=plain.log.append
    )
    await plain.app.start()

    answers = [
        await plain.ask("GET", path, token=token)
        for path in ("/nothing-is-here", f"/api/numbers/{DEFAULT}/messages")
        for token in (BEARER_TOKEN, None)
    ]

    assert len(set(map(str, answers))) == 1
    assert not any("numbers" in path for path in document["paths"])
    assert "numbers" not in (await plain.ask("GET", "/status")).json
    await plain.app.stop()


def test_a_token_of_a_number_that_is_not_configured_is_refused() -> None:
    token = TokenConfig(name="t", tokens=(), scopes=("messages:read",), numbers=("rome",))
    service = ServiceConfig(host="127.0.0.1", port=8787, api_prefix="/api", tokens=(token,))

    with pytest.raises(ConfigError) as caught:
        create_wats_service_app(profile=example_profile(service=service), secrets=example_secrets())

    assert [issue.code for issue in caught.value.issues] == ["invalid_numbers"]


async def test_a_number_sends_by_its_own_id_and_access_token(service: Service) -> None:
    for number in (None, BERLIN, PARIS):
        prefix = "/api" if number is None else f"/api/numbers/{number}"
        answer = await service.ask("POST", f"{prefix}/messages/text", TEXT, key="same")
        assert (answer.status, answer.headers.get("idempotency-replayed")) == (200, None)
    again = await service.ask("POST", f"/api/numbers/{DEFAULT}/messages/text", TEXT, key="same")

    assert again.headers["idempotency-replayed"] == "true"
    sent = [asked.path for asked in service.graph.asked]
    assert sent == [f"/v25.0/{number}/messages" for number in (DEFAULT, BERLIN, PARIS)]
    first, second, third = service.graph.proofs
    assert first == second != third


async def test_a_path_with_the_name_of_a_number_is_that_with_its_id(service: Service) -> None:
    body = {**TEXT, "text": "By name"}

    first = await service.ask("POST", "/api/numbers/berlin/messages/text", body, key="name-1")
    again = await service.ask("POST", f"/api/numbers/{BERLIN}/messages/text", body, key="name-1")
    later = await service.ask("POST", "/api/numbers/berlin/messages/text", body, prefer=LATER)

    assert (first.status, again.headers["idempotency-replayed"]) == (200, "true")
    assert [asked.path for asked in service.graph.asked] == [f"/v25.0/{BERLIN}/messages"]
    assert later.headers["location"].startswith(f"/api/numbers/{BERLIN}/outbox/")
    assert (await service.ask("GET", "/api/numbers/Berlin/messages")).status == 404


async def test_messages_and_windows_are_those_of_a_number(service: Service) -> None:
    assert service.store is not None
    now = service.clock()
    for number, wamid in ((BERLIN, "wamid.B"), (PARIS, "wamid.P"), (UNKNOWN, "wamid.U")):
        await service.store.record_sent(
            MessageRecord(
                phone_number_id=number,
                wa_message_id=wamid,
                direction=Direction.OUTBOUND,
                to_phone=CUSTOMER,
                type="text",
                status="sent",
                created_at=now,
                updated_at=now,
            )
        )
    listed = {}
    for number in (None, BERLIN, PARIS):
        prefix = "/api" if number is None else f"/api/numbers/{number}"
        items = (await service.ask("GET", f"{prefix}/messages")).json["items"]
        listed[number] = {each["waMessageId"]: each["phoneNumberId"] for each in items}
    berlin = next(
        each
        for each in CALLERS
        if each.numbers == {"default", "paris"} and each.scopes == {"messages:read"}
    )
    operator = next(each for each in CALLERS if each.scopes == {ADMIN})

    assert listed == {
        None: {"wamid.B": BERLIN, "wamid.P": PARIS, "wamid.U": UNKNOWN},
        BERLIN: {"wamid.B": BERLIN},
        PARIS: {"wamid.P": PARIS},
    }
    assert (await service.ask("GET", f"/api/numbers/{PARIS}/messages/wamid.P")).status == 200
    assert (await service.ask("GET", f"/api/numbers/{PARIS}/messages/wamid.B")).status == 404
    limited = await service.ask("GET", "/api/messages", token=berlin.token)
    assert limited.json["items"] == []
    hidden = await service.ask("GET", "/api/messages/wamid.B", token=berlin.token)
    assert (hidden.status, hidden.code) == (404, "not_found")
    for_operators = await service.ask("GET", "/api/admin/messages", token=operator.token)
    assert len(for_operators.json["items"]) == 3
    path = f"/api/admin/messages?phoneNumberId={PARIS}"
    (of_paris,) = (await service.ask("GET", path, token=operator.token)).json["items"]
    assert of_paris["waMessageId"] == "wamid.P"
    query = f"messages?phoneNumberId={PARIS}"
    for path, token in ((f"numbers/{BERLIN}/{query}", BEARER_TOKEN), (query, berlin.token)):
        answer = await service.ask("GET", f"/api/{path}", token=token)
        assert (answer.status, answer.code) == (400, "malformed_query")
    shown = await service.ask("GET", "/api/admin/messages/wamid.P", token=operator.token)
    assert shown.json["phoneNumberId"] == PARIS


async def test_graph_checks_that_a_file_is_of_the_number(service: Service) -> None:
    service.graph.body = {
        "messaging_product": "whatsapp",
        "url": "https://lookaside.fbsbx.com/a",
        "mime_type": "image/png",
    }

    for path in ("/api/media/123", f"/api/numbers/{BERLIN}/media/123"):
        await service.ask("GET", path)
        await service.ask("DELETE", path)
    refused = await service.ask("GET", f"/api/media/{PARIS}")

    queries = [asked.query for asked in service.graph.asked]
    assert queries == [{}] * 3 + [{"phone_number_id": BERLIN}] * 3
    assert (refused.status, refused.code) == (400, "malformed_path")


async def test_the_status_lists_numbers_without_ids(service: Service) -> None:
    answer = await service.ask("GET", "/status")

    assert answer.json["numbers"] == [
        {"name": "default", "hasOwnToken": False, "throughput": None},
        {"name": "berlin", "hasOwnToken": False, "throughput": 80},
        {"name": "paris", "hasOwnToken": True, "throughput": 80},
    ]
    assert not any(each.encode() in answer.body for each in (DEFAULT, BERLIN, PARIS))


async def test_a_path_of_a_number_has_the_label_of_the_path_without_it(service: Service) -> None:
    for number in (BERLIN, PARIS, UNKNOWN):
        await service.ask("GET", f"/api/numbers/{number}/messages")

    text = service.app.telemetry.render().body.decode()
    counted = 'http_requests_total{method="GET",route="/api/messages",status_class="%s"} %d'
    assert counted % ("2xx", 2) in text
    assert counted % ("4xx", 1) in text
    assert not any(each in text for each in (BERLIN, PARIS, UNKNOWN, "berlin", "paris"))


async def test_updates_are_for_the_tokens_with_their_scope_and_not_of_one_number(
    service: Service,
) -> None:
    body = {"updates": [{"receipt": "invalid"}]}
    for caller in CALLERS:
        answer = await service.ask("POST", "/api/updates/ack", body, token=caller.token)
        below = await service.ask(
            "POST", f"/api/numbers/{NAMES['berlin']}/updates/ack", body, token=caller.token
        )
        assert answer.status == (200 if CONSUME in caller.scopes else 403)
        assert below.status == 404


async def test_the_document_has_each_path_of_the_api_for_a_number(service: Service) -> None:
    paths = (await service.ask("GET", "/openapi.json")).json["paths"]
    public = (await service.ask("GET", "/openapi.json", token=CALLERS[0].token)).json["paths"]

    others = ("/api/admin", "/api/updates", "/api/graph")
    of_api = [path for path in paths if "/api/" in path and not path.startswith(others)]
    of_numbers = [path for path in of_api if "{phoneNumberId}" in path]
    assert len(of_api) == 2 * len(of_numbers) > 0
    assert paths["/api/numbers/{phoneNumberId}/messages"]["post"]["operationId"] == (
        "sendMessageOfNumber"
    )
    assert "/api/admin/consumers" not in public
    assert "/api/admin/consumers" in paths
    assert set(of_numbers) <= set(public)
