import json
import re
from dataclasses import replace

import pytest

from wats.inspection.secret_search import WORDS
from wats.version import __version__

IDENTIFIERS = ("123456789012345", "15551234567", "/webhooks/whatsapp", "WATS_ACCESS_TOKEN")


def test_a_bundle_holds_only_data_that_may_be_shared(service) -> None:
    result = service.ask("support-bundle", "--url", service.url)

    assert (result.code, result.err) == (0, "")
    bundle = json.loads(result.out)
    assert list(bundle) == ["bundle", "versions", "config", "service"]
    assert bundle["bundle"]["wats"] == __version__
    assert bundle["versions"].keys() >= {"python", "platform", "sqlite", "aiohttp", "uvicorn"}
    graph = {"apiVersion": "v25.0", "baseUrl": "[REDACTED]", "appSecretProof": True}
    assert bundle["config"]["graph"].items() >= graph.items()
    assert bundle["config"]["telemetry"]["families"] == "operator"
    assert bundle["config"]["service"]["port"] == 8787
    assert bundle["service"]["status"]["persistence"]["backend"] == "sqlite"
    assert bundle["service"]["diagnostics"]["runtime"] == "python"
    metrics = bundle["service"]["metrics"]
    assert metrics["leftOut"] == 0
    assert metrics["notZero"]["http_requests_total{method=GET,route=/status,status_class=2xx}"] > 0


def test_a_bundle_holds_no_secret_and_no_personal_data(service) -> None:
    result = service.ask("support-bundle", "--url", service.url)

    assert result.code == 0
    assert "canary" not in result.out
    assert [each for each in IDENTIFIERS if each in result.out] == []
    assert str(service.config.parent) not in result.out


def test_a_bundle_lists_the_searches_it_passed(service) -> None:
    searched = json.loads(service.ask("support-bundle").out)["bundle"]["searchedFor"]

    assert {"auth.accessToken", "webhook.appSecret", "webhook.verifyToken"} <= set(searched)
    assert {"service.bearerToken", "telemetry.bearerToken", "whatsapp.wabaId"} <= set(searched)
    assert "the place of auth.accessToken" in searched


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9911/whatsapp", "https://crm.example/whatsapp", "http://bot:8080/webhook"],
)
def test_a_bundle_is_written_with_a_usual_subscriber(service, url, tmp_path) -> None:
    config = json.loads(service.config.read_text())
    changed = replace(service, config=tmp_path / "wats.config.json")
    (tmp_path / "scraper").write_text(service.token_file.read_text())
    (tmp_path / "crm").write_text("whsec_q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ")
    crm = {"name": "crm", "url": url, "secret": {"file": "crm"}, "allowPrivateNetwork": True}
    for profile in config["profiles"].values():
        profile |= {"subscribers": [crm], "persistence": {"url": "sqlite:///wats.db"}}
    changed.config.write_text(json.dumps(config))

    result = changed.ask("support-bundle", "--url", service.url)

    assert (result.code, result.err) == (0, "")
    assert "subscribers.secret" in json.loads(result.out)["bundle"]["searchedFor"]


def test_the_long_words_of_a_bundle_are_known(service) -> None:
    result = service.ask("support-bundle", "--url", service.url)

    assert set(re.findall(r"(?<!\w)[a-z]{10,}(?!\w)", result.out)) <= WORDS


def test_without_a_service_a_bundle_describes_the_config(service) -> None:
    bundle = json.loads(service.ask("support-bundle").out)

    assert bundle["service"] is None
    assert bundle["config"]["whatsapp"]["phoneNumberId"] == "[REDACTED]"


def test_without_a_config_a_bundle_lists_what_is_missing(wats) -> None:
    result = wats.invoke("support-bundle")

    assert result.code == 0
    assert json.loads(result.out)["config"] is None
    assert json.loads(result.out)["bundle"]["searchedFor"] == []
    assert (
        result.err == "Without a config, the report was not searched for the secrets of a config.\n"
    )


def leaking(counterfeit, service, **changes) -> None:
    """Let the counterfeit return the status of the service with *changes*."""
    result = json.loads(service.ask("support-bundle", "--url", service.url).out)["service"]
    answers = {"/status": result["status"], "/debug/diagnostics": result["diagnostics"]}
    answers["/status"].update(changes)
    counterfeit.answers = {
        path: (200, {}, json.dumps(answer).encode()) for path, answer in answers.items()
    }
    counterfeit.answers["/metrics"] = (200, {}, b"strange_total 1\n")


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("an-app-secret-canary", "webhook.appSecret"),
        ("YW4tYWNjZXNzLXRv", "auth.accessToken"),
        ("612d7365727669636520746f6b656e".replace("20", "2d"), "service.bearerToken"),
        ("a-telemetry-tok…", "telemetry.bearerToken, the token"),
        ("1 (555) 123-4567", "whatsapp.phoneNumberId"),
        ("123456789012345", "whatsapp.wabaId"),
    ],
)
def test_a_leak_is_refused_and_named_by_its_key(service, counterfeit, tmp_path, said, key) -> None:
    leaking(counterfeit, service, serviceMode=said)
    out = tmp_path / "bundle.json"

    result = service.ask("support-bundle", "--url", counterfeit.url, "--out", str(out))

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: The bundle would contain {key}, or a part. Nothing was written.\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("+1 555 900 8172", "a phone number"),
        ("wamid.HBgL", "a message id"),
        ("ada@example.org", "an e-mail address"),
    ],
)
def test_a_value_that_looks_like_personal_data_is_refused_too(
    service, counterfeit, said, kind
) -> None:
    leaking(counterfeit, service, serviceMode=said)

    result = service.ask("support-bundle", "--url", counterfeit.url)

    assert (result.code, result.out) == (1, "")
    assert kind in result.err
    assert said not in result.err


def test_values_outside_the_vocabulary_are_left_out(service, counterfeit) -> None:
    leaking(counterfeit, service, favorite="canary")

    result = service.ask("support-bundle", "--url", counterfeit.url)

    assert result.code == 0
    metrics = json.loads(result.out)["service"]["metrics"]
    assert metrics == {"samples": 1, "leftOut": 1, "notZero": {}}
    assert "canary" not in result.out
    assert "strange" not in result.out


def test_a_listen_address_is_left_out(service, counterfeit) -> None:
    leaking(counterfeit, service)
    status, headers, body = counterfeit.answers["/debug/diagnostics"]
    hidden = body.replace(b"127.0.0.1", b"10.11.12.13")
    counterfeit.answers["/debug/diagnostics"] = (status, headers, hidden)

    result = service.ask("support-bundle", "--url", counterfeit.url)

    shown = json.loads(result.out)["service"]["diagnostics"]["configShape"]["service"]
    assert shown["host"] == "[REDACTED]"
    assert b"10.11.12.13" in hidden


def test_a_bundle_is_written_once_and_for_its_owner(service, tmp_path) -> None:
    out = tmp_path / "bundle.json"

    first = service.ask("support-bundle", "--out", str(out))
    second = service.ask("support-bundle", "--out", str(out))

    assert (first.code, first.out) == (0, "")
    assert json.loads(out.read_text())["config"]
    assert out.stat().st_mode & 0o777 == 0o600
    assert second.code == 1
    assert f"Error: {str(out)!r} cannot be written: the file exists already." in second.err


@pytest.mark.parametrize("body", [b"<html>", b'{"service":"wats"}'])
def test_a_server_other_than_wats_is_not_bundled(service, counterfeit, body) -> None:
    counterfeit.answers = dict.fromkeys(
        ("/status", "/debug/diagnostics", "/metrics"), (200, {}, body)
    )

    result = service.ask("support-bundle", "--url", counterfeit.url)

    assert (result.code, result.out) == (1, "")
    assert "not from wats" in result.err


def test_a_wrong_token_is_reported(service, counterfeit) -> None:
    result = service.ask("support-bundle", "--url", counterfeit.url)

    assert (result.code, result.out) == (1, "")
    assert "404" in result.err
