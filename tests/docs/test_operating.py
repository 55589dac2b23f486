"""docs/operating.md and docs/alerts.md: backups, the unit of systemd, and Prometheus.

The tests of the tokens are in `tests/test_docs_telemetry.py`.
"""

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.webhooks import post_messages
from tests.pages import PAGES, ROOT, blocks
from tests.walk import CONFIG, Reader, is_installed, section

pytestmark = pytest.mark.long

PAGE = PAGES["docs/operating.md"]
PLATFORMS = ("systemd", "Docker", "Kubernetes")

SERVICE = """
case $1 in
start)
    cd {state}
    timeout 300 wats serve --config {config} --env-file {env_file} > {out} 2> {err} < /dev/null &
    until grep -q wats.ready {out}; do kill -0 $!; sleep 0.05; done;;
stop)
    pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p' {out})
    kill -s INT "$pid"
    while kill -0 "$pid" 2> {null}; do sleep 0.05; done
    : > {out};;
*) exit 2;;
esac
"""
"""The one service of a machine or cluster."""

SHIMS = {
    "sudo": 'if [ "$1" = -u ]; then shift 2; fi; exec "$@"',
    "systemctl": "exec service $1",
    "docker": """
case $1 in
exec) shift 2; exec "$@";;
run) until [ "$1" = your-image ]; do shift; done; shift; exec "$@";;
*) exec service $1;;
esac""",
    "kubectl": """
case "$1 $2" in
"exec deploy/wats") shift 3; exec "$@";;
"scale deploy/wats") [ $3 = --replicas=0 ] && exec service stop; exec service start;;
"apply -f") exec python3 -c '
import subprocess, sys, yaml
pod = yaml.safe_load(open(sys.argv[1]))
subprocess.run(pod["spec"]["containers"][0]["command"], check=True)' $3;;
"wait --for=delete" | "delete pod") ;;
"wait --for=jsonpath={.status.phase}=Succeeded") ;;
*) exit 2;;
esac""",
}
"""Programs that manage the service elsewhere, and run the rest of their arguments here."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path) as reader:
        state, etc = reader.folder / "state", reader.folder / "config"
        state.mkdir()
        reader.places |= {
            "/var/lib/wats": str(state),
            "/etc/wats": str(etc),
            "/opt/wats/.venv/bin/wats": str(reader.folder / ".venv/bin/wats"),
        }
        reader.prepare()
        reader.configure({"persistence": {"url": f"sqlite:///{state}/wats.db"}})
        etc.mkdir()
        (reader.folder / CONFIG).rename(etc / CONFIG)
        paths = {
            "state": state,
            "config": etc / CONFIG,
            "env_file": reader.folder / "wats.env",
            "out": tmp_path / "service.out",
            "err": tmp_path / "service.err",
            "null": "/dev/null",
        }
        reader.shim("service", SERVICE.format(**paths))
        for name, script in SHIMS.items():
            reader.shim(name, script)
        yield reader


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_backup_is_made_and_restored_as_it_is_shown(reader: Reader, platform: str) -> None:
    shown = section(PAGE, "Backups").partition(f"\nWith {platform}")[2]
    steps = re.split(r"^With ", shown, flags=re.MULTILINE)[0]
    assert reader.run("service start").code == 0
    post_messages(reader, "wamid.before")

    try:
        for said in reader.follow(steps):
            assert said.code == 0, said
            if "database backup" in said.command:
                post_messages(reader, "wamid.after")
        before, after = (post_messages(reader, f"wamid.{each}") for each in ("before", "after"))
    finally:
        reader.run("service stop")

    assert (before["skipped"], after["dispatched"]) == (1, 1)


def test_the_platforms_that_are_shown_are_those_that_are_tried() -> None:
    assert tuple(re.findall(r"^With (\w+)", section(PAGE, "Backups"), re.MULTILINE)) == PLATFORMS


def test_the_unit_of_systemd_starts_the_service(reader: Reader) -> None:
    unit = reader.write("wats.service", blocks("docs/operating.md", "ini")[0])
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    options = parser["Service"]

    reader.start(f"cd {options['WorkingDirectory']}; {options['ExecStart']} --env-file ../wats.env")

    assert post_messages(reader, "wamid.1")["dispatched"] == 1
    if is_installed("systemd-analyze"):
        said = reader.run("systemd-analyze verify --man=no ./wats.service")
        assert (said.code, said.out + said.err) == (0, "")


def test_the_image_that_is_shown_starts_the_service(reader: Reader) -> None:
    (file,) = blocks("docs/operating.md", "dockerfile")
    steps = [line.split(" ", 1) for line in file.splitlines()]
    of = {name: [value for other, value in steps if other == name] for name, _ in steps}
    reader.environ["PIP_NO_BUILD_ISOLATION"] = "false"  # the name of the option: it is switched off
    reader.places |= {r"\.\./wats$": str(ROOT), "/tmp/dist": str(reader.folder / "dist")}  # noqa: S108
    reader.shim("useradd", "exit 0")

    assert reader.succeed(section(PAGE, "Containers"))
    reader.environ |= {"PIP_TARGET": str(reader.folder / "image"), "PIP_NO_DEPS": "1"}
    for command in of["RUN"]:
        said = reader.run(command)
        assert said.code == 0, said
    assert (reader.folder / "image/wats/cli/serve.py").is_file()

    assert of["COPY"] == ["dist /tmp/dist", f"{CONFIG} /etc/wats/{CONFIG}"]
    reader.environ["PYTHONPATH"] = str(reader.folder / "image")
    (place,), (command,) = of["WORKDIR"], of["CMD"]
    reader.start(f"cd {place}; {shlex.join(json.loads(command))} --env-file ../wats.env")
    assert post_messages(reader, "wamid.1")["dispatched"] == 1


@pytest.mark.parametrize(
    "heading", ["Erasing a person", "Outstanding updates", "Dead letters", "Messages"]
)
def test_the_commands_for_updates_and_people_succeed(tmp_path: Path, heading: str) -> None:
    reader = Reader(tmp_path)
    reader.prepare()
    (reader.folder / "wats.env").rename(reader.folder / "wats.env")
    reader.write("my_app.py", "async def on_message(update):\n    raise TimeoutError\n")
    with reader, reader.serving("wats serve --handler my_app:on_message"):
        post_messages(reader, "wamid.1")

        assert reader.succeed(section(PAGE, heading))


@pytest.mark.skipif(not is_installed("promtool"), reason="promtool is not installed")
def test_prometheus_accepts_the_label_that_is_shown_for_runbooks(reader: Reader) -> None:
    (label,) = blocks("docs/alerts.md", "yaml")
    (config,) = (each for each in blocks("docs/telemetry.md", "yaml") if "scrape_configs" in each)
    reader.write("prometheus.yml", yaml.safe_dump(yaml.safe_load(config) | yaml.safe_load(label)))
    (reader.folder / "telemetry-token").touch()
    (reader.folder / "rules.yml").write_text("groups: []\n")

    said = reader.run("promtool check config prometheus.yml")

    assert said.code == 0, said.err
