import json
import socket
import urllib.request
from urllib.parse import urlsplit


def test_simulate_prints_its_address_and_ends_on_a_signal(wats) -> None:
    with wats.running("simulate", "--config", str(wats.config), "--port", "0") as meta:
        assert list(meta.ready) == ["event", "url", "pid"]
        assert meta.ready["event"] == "wats.ready"
        with urllib.request.urlopen(f"{meta.url}/_simulator/state") as answer:  # noqa: S310 - our own
            assert json.load(answer)["sends"] == 0
        ended = meta.end()

    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_simulator_listens_where_the_service_will_look_for_graph(wats) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    wats.write(graph={"apiVersion": "v25.0", "baseUrl": f"http://127.0.0.1:{port}"})

    with wats.running("simulate", "--config", str(wats.config)) as meta:
        assert urlsplit(meta.url).port == port


def test_a_simulator_cannot_listen_on_a_taken_port(wats) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = wats.run("simulate", "--config", str(wats.config), "--port", port)

    assert (result.code, result.out) == (1, "")
    assert "--host, --port: Address already in use. (address_unavailable)" in result.err


def test_a_simulator_states_that_an_address_is_not_of_this_machine(wats) -> None:
    result = wats.run(
        "simulate", "--config", str(wats.config), "--host", "192.0.2.1", "--port", "0"
    )

    assert (result.code, result.out) == (1, "")
    assert "Cannot assign requested address. (address_unavailable)" in result.err


def test_a_simulator_does_not_listen_on_another_port_than_the_given_one(wats) -> None:
    result = wats.invoke("simulate", "--config", str(wats.config), "--port", "99999")

    assert result.code == 1
    assert "'--port': Must be a number in the range 0<=x<=65535." in result.err


def test_a_simulator_refuses_what_is_not_the_url_of_a_webhook(wats) -> None:
    result = wats.invoke(
        "simulate", "--config", str(wats.config), "--webhook-url", "localhost:8787"
    )

    assert result.code == 1
    assert "'--webhook-url': Must be an http or https URL" in result.err


def test_a_simulator_needs_a_config(wats) -> None:
    result = wats.invoke("simulate")

    assert result.code != 0
    assert "--config" in result.err


def test_a_simulator_shows_the_messages_of_the_phone(wats) -> None:
    command = ("simulate", "--config", str(wats.config), "--port", "0", "--show")
    with wats.running(*command) as meta:
        body = json.dumps({"from": "15550002222", "text": "Hi\x1b[2J"}).encode()
        urllib.request.urlopen(f"{meta.url}/_simulator/inbound", data=body).close()  # noqa: S310 - our own
        ended = meta.end()

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith(r" 15550002222 → 15550001111: Hi\x1b[2J" + "\n")
    assert ended.out.count("\n") == 1


def test_a_simulator_goes_on_although_its_lines_are_not_read(wats) -> None:
    command = ("simulate", "--config", str(wats.config), "--port", "0", "--show")
    wish = {"from": "15550002222", "text": "Hi" * 100, "count": 5_000}
    with wats.running(*command) as meta:
        url = f"{meta.url}/_simulator/"
        body = json.dumps(wish).encode()
        urllib.request.urlopen(url + "inbound", data=body, timeout=30).close()  # noqa: S310 - our own
        with urllib.request.urlopen(url + "messages?limit=1", timeout=30) as answer:  # noqa: S310
            assert json.load(answer)["cursor"] == 5_000
        ended = meta.end()

    assert ended.code == 0
    assert '{"event":"wats.log.dropped","count":' in ended.out
