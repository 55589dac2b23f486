import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from wats.inspection.samples import Samples
from wats.telemetry import Adapter, FamilySet, Telemetry
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.table import route_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "operators"
RUNBOOKS = (ROOT / "docs/alerts.md").read_text("utf-8")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs Debian's package 'prometheus'"
)


def scraped(telemetry):
    return Samples.parse(telemetry.render().body.decode())


def alerts_of(rules):
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


@pytest.mark.long
@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "rules_test.yml"],
    ],
    ids=["rules", "scrape config", "tests of the rules"],
)
def test_promtool_accepts_the_rules(tmp_path, arguments) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "telemetry-token").write_text("a token\n")

    done = subprocess.run(
        ["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr


def test_every_alert_has_a_silent_and_a_firing_case(rules) -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    firing = Counter(case["alertname"] for case in cases if case.get("exp_alerts"))
    silent = Counter(case["alertname"] for case in cases if not case.get("exp_alerts"))

    assert set(firing) == set(silent) == set(alerts_of(rules))


@pytest.mark.long
@needs_promtool
def test_no_silent_case_is_silent_for_lack_of_samples(tmp_path, rules) -> None:
    # With a condition that nearly always holds, and no pending time, no case would be silent.
    text = (FOLDER / "rules.yml").read_text()
    eager = re.sub(r"(?m)^        for: .*\n", "", text)
    eager = re.sub(r"(?m)> [0-9.]+$", ">= 0", eager)
    shutil.copy(FOLDER / "rules_test.yml", tmp_path)
    (tmp_path / "rules.yml").write_text(eager)

    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    said = done.stdout + done.stderr
    unmoved = set(alerts_of(rules)) - set(re.findall(r"alertname: (\w+)", said))
    assert unmoved == set()


def test_the_rules_use_existing_series_only(rules, checker) -> None:
    found = {
        rule.get("alert") or rule["record"]: checker.objections(rule["expr"]) for rule in rules
    }

    assert {name: said for name, said in found.items() if said} == {}


def test_the_counters_of_an_alert_exist_before_the_first_event(rules, checker) -> None:
    routes = route_labels(route_table(example_profile(), groups_enabled=True))
    telemetry = Telemetry(routes=routes, adapter=Adapter.SQLITE, families=FamilySet.OPERATOR)
    needed = [each for rule in rules for each in checker.counters(rule["expr"])]

    exposed = [(name, dict(labels)) for name, labels, _ in scraped(telemetry)]

    assert needed
    assert [
        (name, labels)
        for name, labels in needed
        if not any(name == each and labels.items() <= has.items() for each, has in exposed)
    ] == []


@pytest.mark.parametrize(
    "expression",
    [
        'http_requests_total{phone="1"}',
        'http_requests_total{route="/webhooks"}',
        'http_requests_total{status_class=~"5xx|6xx"}',
        "sum by (recipient) (http_requests_total)",
        "http_request_total",
        "rate(http_request_duration_seconds[5m])",
        'job_instance:http_requests_failed:rate5m{route="/webhook"}',
        "wats_series / ignoring (sort) wats_series",
    ],
)
def test_a_query_for_a_missing_series_is_found(checker, expression) -> None:
    assert len(checker.objections(expression)) == 1


def test_a_group_names_the_families_that_it_needs(groups, checker) -> None:
    needed = {
        group["name"]: {each for rule in group["rules"] for each in checker.sets(rule["expr"])}
        for group in groups
    }

    assert needed == {
        "wats-recorded": {"contract"},
        "wats-contract": {"contract"},
        "wats-operator": {"operator"},
    }


def test_every_rule_is_about_the_job_that_is_scraped(rules) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = [each["job_name"] for each in config["scrape_configs"]]

    for rule in rules:
        selectors = re.findall(r"[a-z_:0-9]+\{[^}]*\}", rule["expr"])
        assert selectors
        assert all(f'job="{job}"' in each for each in selectors)


def test_every_alert_states_its_severity_and_its_cause(rules) -> None:
    for name, alert in alerts_of(rules).items():
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"].keys() == {"summary", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == (
            '{{ or $externalLabels.wats_runbooks "https://wats.example/docs/alerts.md" }}'
            f"#{name.lower()}"
        )


def test_every_alert_has_a_runbook_and_no_other_has_one(rules) -> None:
    assert re.findall(r"^### (\w+)$", RUNBOOKS, flags=re.MULTILINE) == list(alerts_of(rules))


def test_the_token_is_in_a_file() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    for scrape in config["scrape_configs"]:
        assert scrape["authorization"].keys() == {"type", "credentials_file"}
        assert "bearer_token" not in scrape
        assert scrape["follow_redirects"] is False
