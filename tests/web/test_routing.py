import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config.parse import API_ROOTS, STATIC_PATHS
from wats.telemetry.contract.values import Method
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.parts import HOOK_LABEL
from wats.web.routing import (
    NUMBERS_ROOT,
    UNMATCHED,
    Posture,
    Router,
    decode_segment,
    request_path,
)
from wats.web.table import route_table

PROFILE = example_profile()
TABLE = route_table(PROFILE, groups_enabled=True)
ROUTER = Router(TABLE, "/api")


@pytest.mark.parametrize(
    ("path", "label", "parameters"),
    [
        ("/healthz", "/healthz", {}),
        ("/webhooks/whatsapp", HOOK_LABEL, {}),
        ("/api/messages", "/api/messages", {}),
        ("/api/messages/text", "/api/messages/text", {}),
        ("/api/messages/wamid.X", "/api/messages/:id", {"id": "wamid.X"}),
        ("/api/messages/a/b", "/api/messages/:id", {"id": "a/b"}),
        ("/api/messages/", "/api/messages/:id", {"id": ""}),
        ("/api/messages/a%2Fb%0A", "/api/messages/:id", {"id": "a%2Fb%0A"}),
        ("/api/messages/wamid.X/read", "/api/messages/:id/read", {"id": "wamid.X"}),
        ("/api/messages/a/b/read", "/api/messages/:id/read", {"id": "a/b"}),
        ("/api/media", "/api/media", {}),
        ("/api/media/1", "/api/media/:mediaId", {"mediaId": "1"}),
        ("/api/media/1/content", "/api/media/:mediaId/content", {"mediaId": "1"}),
        ("/api/conversations/1555/window", "/api/conversations/:phone/window", {"phone": "1555"}),
        ("/api/conversations//window", "/api/conversations/:phone/window", {"phone": ""}),
        ("/api/groups", "/api/groups", {}),
        ("/api/groups/g1", "/api/groups/:groupId", {"groupId": "g1"}),
        ("/api/groups/g1/invite-link", "/api/groups/:groupId/invite-link", {"groupId": "g1"}),
    ],
)
def test_a_path_finds_its_row(path: str, label: str, parameters: dict[str, str]) -> None:
    route, found = ROUTER.match(path)

    assert route.label == label
    assert found == parameters


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "*", "/status/", "//status", "/STATUS", "/%73tatus", "/api", "/api/"),
        *("/api/conversations/window", "/api/conversations/1555", "/api/message"),
        *("/api/groups/", "/api/groups/g1/", "/api/groups/g1/nope", "/xapi/messages"),
        *("/api/media/", "/api/media/1/", "/api/media/1/x", "/api/media/1/content/x"),
        *("/webhook", "/webhooks/whatsapp/", "/api/messages:x"),
    ],
)
def test_a_path_that_is_in_no_row_is_unmatched(path: str) -> None:
    assert ROUTER.match(path) == (UNMATCHED, {})


def test_without_groups_their_paths_do_not_exist() -> None:
    router = Router(route_table(PROFILE, groups_enabled=False), "/api")

    for path in ("/api/groups", "/api/groups/g1", "/api/groups/g1/participants"):
        assert router.match(path)[0] is UNMATCHED


@pytest.mark.parametrize(
    ("raw", "resolved"),
    [
        (b"/status", "/status"),
        (b"/x/../status", "/status"),
        (b"/./status", "/status"),
        (b"/../../status", "/status"),
        (b"/x/%2e%2E/status", "/status"),
        (b"/x/.%2e/status", "/status"),
        (b"/status/.", "/status/"),
        (b"/status/x/..", "/status/"),
        (b"/x\\..\\status", "/status"),
        (b"/...", "/..."),
        (b"/.x", "/.x"),
        (b"/%2ex", "/%2ex"),
        (b"/%73tatus", "/%73tatus"),
        (b"/caf\xc3\xa9", "/caf\xc3\xa9"),
        (b"*", "*"),
    ],
)
def test_dot_segments_are_resolved_and_nothing_else_is_decoded(raw: bytes, resolved: str) -> None:
    assert request_path({"raw_path": raw, "path": raw.decode("latin-1")}) == resolved


@pytest.mark.parametrize(
    ("raw", "root", "resolved"),
    [
        (b"/mounted/status", "/mounted", "/status"),
        (b"/mounted", "/mounted", "/"),
        (b"/mountedx", "/mounted", "/mountedx"),
        (b"/status", "/mounted", "/status"),
        (b"/gate%20way/status", "/gate way", "/status"),
        (b"/caf%C3%A9/x%20y", "/caf\u00e9", "/x%20y"),
        (b"/a%2db/g/status", "/a-b/g", "/status"),
        (b"/a%2db/g/x%20y", "/a-b/g", "/x%20y"),
    ],
)
def test_the_place_where_the_application_is_mounted_is_not_part_of_its_paths(
    raw: bytes, root: str, resolved: str
) -> None:
    scope = {"raw_path": raw, "path": unquote(raw.decode()), "root_path": root}

    assert request_path(scope) == resolved


def test_a_server_that_keeps_the_raw_path_to_itself_is_served_too() -> None:
    assert request_path({"path": "/messages/a b"}) == "/messages/a%20b"


def test_head_is_served_wherever_get_is() -> None:
    for route in TABLE:
        assert (Method.HEAD in route.methods) == (Method.GET in route.methods)
        assert route.operation(Method.HEAD) is route.operation(Method.GET)


def test_labels_are_used_once_except_the_shared_ones_and_operations_once() -> None:
    labels = [each.template for each in route_labels(TABLE)]
    shared = {"/api/admin", "/api/:resource"}
    others = [route.label for route in (*TABLE, UNMATCHED) if route.label not in shared]
    others.remove("/api/messages/:id")  # also of the state of a message in the outbox
    names = [operation.name for route in TABLE for operation in route.operations]

    assert len(set(labels)) == len(labels) == len(others) + len(shared)
    assert len(set(names)) == len(names)


def test_the_inventory_keeps_its_documented_order() -> None:
    assert [each.template for each in route_labels(TABLE)] == [
        *("/healthz", "/readyz", "/openapi.json", "/status", "/metrics", "/debug/diagnostics"),
        *("/webhook", "/api/messages/text", "/api/messages", "/api/messages/:id/read"),
        *("/api/messages/:id", "/api/conversations/:phone/window"),
        "/api/marketing_messages",
        *("/api/media", "/api/media/:mediaId", "/api/media/:mediaId/content"),
        "/api/:resource",
        *("/api/groups", "/api/groups/:groupId"),
        *("/api/groups/:groupId/invite-link", "/api/groups/:groupId/participants"),
        "/api/groups/:groupId/join-requests",
        "/api/admin",
        "unmatched",
    ]


def test_hidden_routes_are_telemetry_and_open_routes_check_for_themselves() -> None:
    by_posture = {
        posture: {route.label for route in TABLE if route.posture is posture} for posture in Posture
    }

    assert by_posture[Posture.HIDDEN] == {"/status", "/metrics", "/debug/diagnostics"}
    assert by_posture[Posture.ADMIN] == {"/api/admin"}
    assert by_posture[Posture.OPEN] == {"/healthz", "/readyz", "/openapi.json", HOOK_LABEL}
    assert all(label.startswith("/api/") for label in by_posture[Posture.API])
    assert not any(label.startswith("/api/admin") for label in by_posture[Posture.API])


def test_the_config_reserves_every_path_of_the_table() -> None:
    fixed = {route.path for route in TABLE if not route.path.startswith("/api/")}
    roots = {re.match(r"/api/(\w+)", route.path)[1] for route in TABLE if "/api/" in route.path}  # type: ignore[index]

    assert fixed - {PROFILE.webhook.path} == STATIC_PATHS
    assert {*roots, NUMBERS_ROOT} == set(API_ROOTS)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_encoded_segment_is_decoded(text: str) -> None:
    assert decode_segment(quote(text, safe="")) == text


def test_a_segment_is_decoded_once() -> None:
    assert decode_segment("%2541+") == "%41+"


@pytest.mark.parametrize("segment", ["%", "%4", "%zz", "a%", "%ff", "%c3", "%ed%a0%80", "\xff"])
def test_a_segment_that_does_not_encode_text_is_refused(segment: str) -> None:
    assert decode_segment(segment) is None
