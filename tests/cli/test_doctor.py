import json

import pytest

from wats.inspection.checklist import ITEMS

BY_HAND = {"kept", "derived", "retained", "shared"}


def verdicts(result) -> dict[str, str]:
    return {item["item"]: item["verdict"] for item in json.loads(result.out)["items"]}


def test_our_own_service_passes_every_check_made_from_outside(service) -> None:
    result = service.ask("doctor", "--telemetry", service.url, "--json")

    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert list(document) == ["url", "holds", "items"]
    assert (document["url"], document["holds"]) == (service.url, True)
    assert [list(item) for item in document["items"]] == [
        ["item", "promise", "verdict", "note"]
    ] * len(ITEMS)
    assert [item["item"] for item in document["items"]] == [item.name for item in ITEMS]
    assert {name for name, verdict in verdicts(result).items() if verdict != "holds"} == BY_HAND


def test_checks_left_to_the_operator_are_listed(service) -> None:
    result = service.ask("doctor", "--telemetry", service.url)

    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"The telemetry of {service.url}:"
    assert lines[2].startswith("  holds    Without a token, ")
    assert len([line for line in lines if line.startswith("  unknown  ")]) == len(BY_HAND)
    assert lines[-1] == f"{len(ITEMS) - len(BY_HAND)} hold, 0 fail, {len(BY_HAND)} are unknown."
    assert max(map(len, lines)) <= 80
    assert "canary" not in result.out


def test_a_token_that_can_do_everything_is_not_for_scrapers(service) -> None:
    result = service.ask(
        "doctor", "--telemetry", service.url, "--token-env", "WATS_SERVICE_BEARER_TOKEN"
    )

    assert result.code == 1
    assert "  FAILS    The token is valid for telemetry only.\n" in result.out
    assert "telemetry.bearerToken" in result.out
    assert "1 fail" in result.out


def test_with_a_wrong_token_only_the_token_check_fails(service) -> None:
    result = service.ask(
        "doctor", "--telemetry", service.url, "--json", "--token-env", "WATS_VERIFY_TOKEN"
    )

    assert result.code == 1
    found = verdicts(result)
    assert [name for name, verdict in found.items() if verdict == "fails"] == ["opened"]
    assert found["known"] == found["fields"] == found["separate"] == "unknown"


def test_a_service_that_exposes_hidden_endpoints_fails(service, counterfeit) -> None:
    body = b'http_requests_total{phone="15550001234"} 1\n'
    counterfeit.answers = {
        "/metrics": (200, {}, body),
        "/status": (401, {}, b'{"error":"no"}'),
        "/openapi.json": (200, {}, b'{"paths":{"/metrics":{}}}'),
    }

    result = service.ask("doctor", "--telemetry", counterfeit.url, "--json")

    assert result.code == 1
    assert json.loads(result.out)["holds"] is False
    failed = {name for name, verdict in verdicts(result).items() if verdict == "fails"}
    assert failed == {"hidden", "refused", "opened", "document"}
    assert "15550001234" not in result.out


def test_a_token_file_readable_by_everyone_is_reported(service, tmp_path) -> None:
    open_file = tmp_path / "token"
    open_file.write_text(service.token_file.read_text())
    open_file.chmod(0o644)

    result = service.ask(
        "doctor", "--telemetry", service.url, "--json", "--token-file", str(open_file)
    )

    assert (result.code, verdicts(result)["kept"]) == (1, "fails")


def test_the_doctor_reads_no_customer_data_and_queries_nothing_twice(service, counterfeit) -> None:
    shape = {"configShape": {"service": {"apiPrefix": "/api"}}}
    counterfeit.answers["/debug/diagnostics"] = (200, {}, json.dumps(shape).encode())

    service.ask("doctor", "--telemetry", counterfeit.url)

    with_token = {
        (method, path)
        for method, path, headers in counterfeit.asked
        if "canary" in headers.get("authorization", "")
    }
    # The last of these responds with 405 to a service token: it reads nothing.
    assert with_token == {
        ("GET", "/metrics"),
        ("GET", "/status"),
        ("GET", "/debug/diagnostics"),
        ("GET", "/api/messages/text"),
    }
    assert len(counterfeit.asked) < 120


def test_an_invalid_prefix_is_not_requested(service, counterfeit) -> None:
    shape = {"configShape": {"service": {"apiPrefix": " HTTP/1.1\r\nx: "}}}
    counterfeit.answers["/debug/diagnostics"] = (200, {}, json.dumps(shape).encode())

    result = service.ask("doctor", "--telemetry", counterfeit.url, "--json")

    assert verdicts(result)["separate"] == "unknown"


@pytest.mark.parametrize(
    "url", ["http://user:canary@127.0.0.1", "ftp://127.0.0.1", "canary", "http://127.0.0.1/?canary"]
)
def test_a_url_that_is_none_is_not_shown(service, url) -> None:
    result = service.ask("doctor", "--telemetry", url)

    assert result.code == 1
    assert "--telemetry" in result.err
    assert "canary" not in result.err


def test_a_service_that_is_not_running_is_reported(service) -> None:
    result = service.ask("doctor", "--telemetry", "http://127.0.0.1:9")

    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: http://127.0.0.1:9 does not respond: the connection was refused.\n"
