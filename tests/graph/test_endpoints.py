from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from wats.graph.endpoints import ENDPOINTS, Endpoints, version_of
from wats.telemetry.contract.values import Method

NUMBER: Final = "15550001111"
ACCOUNT: Final = "15550002222"
EXAMPLES: Final = {
    "{number}": NUMBER,
    "{account}": ACCOUNT,
    "{id}": "15550003333",
    "{group}": "Y2FwaV9ncm91cDox",
    "{code}": "A1B2C3",
    "{upload}": "upload:MTphdHRhY2g6?=".removesuffix("?=") + "=",
}
TABLE: Final = Endpoints({NUMBER}, {ACCOUNT}, has_groups=True)


def test_every_row_is_found_by_a_path_of_its_form() -> None:
    for row in ENDPOINTS:
        path = [EXAMPLES.get(each, each) for each in row.path.split("/")]

        assert TABLE.find(path) is row


def test_groups_are_not_served_unless_they_are_enabled() -> None:
    table = Endpoints({NUMBER}, {ACCOUNT}, has_groups=False)

    assert table.find([EXAMPLES["{group}"]]) is None
    assert table.find([NUMBER, "groups"]) is None


def test_a_path_that_is_not_listed_is_not_served() -> None:
    for path in (
        *("me", "debug_token", "oauth/access_token", "", "15550003333/", "act_1", "1_2"),
        *("15550003333/messages", f"{ACCOUNT}/messages", f"{NUMBER}/message_templates"),
        *(f"{NUMBER}/deregister", f"{NUMBER}/subscribed_apps", f"{NUMBER}/messages/x"),
        *(
            f"0{NUMBER}",
            f"0{ACCOUNT}",
            "0",
            "15550003333/groups",
            "../x",
            ".",
            "15550003333%2Fmessages",
            "15550003333\n",
        ),
    ):
        assert TABLE.find(path.split("/")) is None, path


def test_a_call_that_would_remove_webhooks_or_the_number_is_not_served() -> None:
    for path in ([NUMBER], [ACCOUNT], [ACCOUNT, "subscribed_apps"]):
        row = TABLE.find(path)

        assert row is not None
        assert row.methods == (Method.GET,)


def test_a_qr_code_is_changed_by_its_path_as_whatsapp_api_js_does() -> None:
    row = TABLE.find([NUMBER, "message_qrdls", EXAMPLES["{code}"]])

    assert row is not None
    assert row.methods == (Method.GET, Method.POST, Method.DELETE)


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_other_segments_are_not_served_as_our_number(segments: list[str]) -> None:
    row = TABLE.find(segments)

    assert row is None or "{number}" not in row.path


def test_a_version_is_ordered_by_its_numbers() -> None:
    assert version_of("v25.0") == version_of("v25") == (25, 0)
    assert (version_of("v9.1") or ()) < (version_of("v10.0") or ())
    assert [version_of(each) for each in ("25.0", "v", "vv1", "v1.0.0", "v1x")] == [None] * 5
