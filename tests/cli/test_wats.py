import signal

import pytest

from wats.version import __version__


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_the_version_is_printed(wats, option) -> None:
    told = wats.run(option)

    assert (told.code, told.out, told.err) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(wats, option) -> None:
    told = wats.invoke(option)

    assert told.code == 0
    for command in (
        *("serve", "simulate", "demo", "config", "token", "openapi"),
        *("status", "doctor", "support-bundle"),
    ):
        assert f"\n  {command} " in told.out


def test_demo_loses_nothing(wats) -> None:
    told = wats.run("demo")

    assert (told.code, told.err) == (0, "")
    assert "\n  lost 0 " in told.out
    assert "SIGKILL" in told.out
    assert told.out.count("Route not found.") == 3
    assert "\x1b" not in told.out


def test_serving_ends_with_the_signal_of_a_terminal_too(wats) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        ended = service.end(signal.SIGINT)

    assert (ended.code, ended.out, ended.err) == (0, "", "")
