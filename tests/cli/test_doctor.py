import json
import socket
from collections.abc import Iterator

import pytest
from inline_snapshot import snapshot

from tests.commands import TELEMETRY_TOKEN, Commands
from tests.settings import config_of
from wats.inspection import meta
from wats.inspection.checklist import ITEMS
from wats.inspection.setup import PROMISES

LIVE = {"token", "number", "subscribed", "callback"}
BY_HAND = {"kept", "derived", "retained", "shared"}


def verdicts(result) -> dict[str, str]:
    return {item["item"]: item["verdict"] for item in json.loads(result.out)["items"]}


def test_our_own_service_passes_every_check_made_from_outside(service) -> None:
    result = service.ask("doctor", "--url", service.url, "--json")

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
    result = service.ask("doctor", "--url", service.url)

    assert result.code == 0
    assert result.out.replace(service.url, "URL") == snapshot("""\
The telemetry of URL:

  holds    Without a token, operator endpoints look like nonexistent paths.
  holds    With a wrong token, operator endpoints look like nonexistent paths.
  holds    With the token, every operator endpoint responds.
  holds    Without a token, the API document does not list operator endpoints.
  holds    The token is sent over an encrypted or local connection only.
  holds    The token cannot be guessed.
  holds    The token is valid for telemetry only.
  holds    /metrics has documented families, labels and label values only.
  holds    /status and /debug/diagnostics have documented fields only.
  holds    Responses contain no phone number, message id, address or token.
  holds    Responses must not be cached.
  holds    No webhook has a signature that matches no configured app secret.
  holds    The clock of the service is correct.
  holds    The number of series is within the budget.
  unknown  The token is stored in a file or secret manager, not in a repository.
           Check that the scraper's configuration uses 'credentials_file' and
           contains no token, and that no repository contains one.
  unknown  No custom metric identifies single people or messages.
           Review your handlers, telemetry sink and recording rules.
  unknown  Access to scraped data and its retention follow your privacy policy.
           Check the retention of Prometheus and the access to its dashboards.
  unknown  Public issues and logs contain no secrets or personal data.
           Share the output of 'wats support-bundle', never headers, ids or
           webhook bodies.

14 hold, 0 fail, 4 are unknown.
""")


def test_a_token_that_can_do_everything_is_not_for_scrapers(service) -> None:
    result = service.ask("doctor", "--url", service.url, "--token-env", "WATS_SERVICE_BEARER_TOKEN")

    assert result.code == 1
    assert "  FAILS    The token is valid for telemetry only.\n" in result.out
    assert "telemetry.bearerToken" in result.out
    assert "1 fail" in result.out


def test_with_a_wrong_token_only_the_token_check_fails(service) -> None:
    result = service.ask(
        "doctor", "--url", service.url, "--json", "--token-env", "WATS_VERIFY_TOKEN"
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

    result = service.ask("doctor", "--url", counterfeit.url, "--json")

    assert result.code == 1
    assert json.loads(result.out)["holds"] is False
    failed = {name for name, verdict in verdicts(result).items() if verdict == "fails"}
    assert failed == {"hidden", "refused", "opened", "document"}
    assert "15550001234" not in result.out


def test_a_token_file_readable_by_everyone_is_reported(service, tmp_path) -> None:
    open_file = tmp_path / "token"
    open_file.write_text(service.token_file.read_text())
    open_file.chmod(0o644)

    result = service.ask("doctor", "--url", service.url, "--json", "--token-file", str(open_file))

    assert (result.code, verdicts(result)["kept"]) == (1, "fails")


def test_the_doctor_reads_no_customer_data_and_queries_nothing_twice(service, counterfeit) -> None:
    shape = {"configShape": {"service": {"apiPrefix": "/api"}}}
    counterfeit.answers["/debug/diagnostics"] = (200, {}, json.dumps(shape).encode())

    service.ask("doctor", "--url", counterfeit.url)

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

    result = service.ask("doctor", "--url", counterfeit.url, "--json")

    assert verdicts(result)["separate"] == "unknown"


def test_a_service_that_is_not_running_is_reported(service) -> None:
    result = service.ask("doctor", "--url", "http://127.0.0.1:9")

    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: http://127.0.0.1:9 does not respond: the connection was refused.\n"


@pytest.fixture
def setup(wats, monkeypatch) -> Iterator[Commands]:
    """A gateway and a fake Meta that run with the config of the working directory."""
    wats.config = wats.folder / "wats.config.yaml"
    monkeypatch.chdir(wats.folder)
    monkeypatch.delenv("WATS_CONFIG", raising=False)
    ports = [free_port(), free_port()]
    wats.write(
        service={**config_of()["profiles"]["local"]["service"], "port": ports[0]},
        graph={"apiVersion": "v25.0", "baseUrl": f"http://127.0.0.1:{ports[1]}"},
        telemetry={"bearerToken": {"env": "SCRAPER"}},
        persistence={"url": "sqlite:///wats.db"},
    )
    wats.environ["SCRAPER"] = TELEMETRY_TOKEN
    monkeypatch.setenv("SCRAPER", TELEMETRY_TOKEN)
    with wats.running("simulate"), wats.running("serve"):
        yield wats


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_a_setup_that_runs_holds_without_any_argument(setup) -> None:
    result = setup.invoke("doctor", "--json")

    assert (result.code, result.err) == (0, "")
    found = verdicts(result)
    assert [*found] == [*PROMISES, *meta.PROMISES, *(item.name for item in ITEMS)]
    assert {name for name, verdict in found.items() if verdict != "holds"} == {*LIVE, *BY_HAND}


def test_the_objects_at_meta_are_checked_if_that_is_permitted(setup) -> None:
    result = setup.invoke("doctor", "--live")

    assert result.code == 0
    assert f"{len(ITEMS) + 12 - len(BY_HAND)} hold, 0 fail, 4 are unknown." in result.out
    assert "canary" not in result.out


def test_a_setup_that_does_not_run_is_checked_as_far_as_possible(wats, monkeypatch) -> None:
    monkeypatch.chdir(wats.folder)
    wats.write(
        service={**config_of()["profiles"]["local"]["service"], "port": free_port()},
        handlers=["nowhere_at_all:handle"],
    )

    result = wats.invoke("doctor", "--config", "wats.config.json")

    assert result.code == 1
    assert "  FAILS    The handlers and the telemetry sink can be imported.\n" in result.out
    assert (
        f"  unknown  All {len(ITEMS)} items.\n           The service does not respond."
        in result.out
    )
    assert "5 hold, 2 fail" in result.out


def test_a_setup_with_a_broken_config_is_reported_and_not_shown(wats) -> None:
    wats.write(graph={"apiVersion": "a-canary", "baseUrl": "https://graph.example"})

    result = wats.invoke("doctor", "--config", str(wats.config), "--json")

    assert result.code == 1
    document = json.loads(result.out)
    assert (document["url"], document["holds"]) == (None, False)
    assert [name for name, verdict in verdicts(result).items() if verdict != "unknown"] == [
        "config"
    ]
    assert "canary" not in result.out + result.err


def test_without_config_and_url_the_error_names_the_ways_to_give_one(
    tmp_path, monkeypatch, wats
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    result = wats.invoke("doctor")

    assert (result.code, result.out) == (1, "")
    for name in ("--url", "--config", "WATS_CONFIG", "wats init"):
        assert name in result.err


def test_only_a_setup_can_be_checked_at_meta(service) -> None:
    result = service.ask("doctor", "--url", service.url, "--live")

    assert result.code == 1
    assert "leave out --url" in result.err


def test_a_config_that_is_only_found_need_not_be_usable_for_another_url(
    service, wats, monkeypatch
) -> None:
    wats.config.rename(wats.folder / "wats.config.yaml")
    monkeypatch.chdir(wats.folder)
    monkeypatch.delenv("WATS_CONFIG", raising=False)
    options = ("--url", service.url, "--token-file", str(service.token_file))

    found = wats.invoke("doctor", *options, environ={})
    named = wats.invoke("doctor", *options, "--config", "wats.config.yaml", environ={})

    assert (found.code, found.err) == (0, "")
    assert "missing_secret" in named.err
