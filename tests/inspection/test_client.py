import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from wats.inspection.client import MAX_ANSWER_BYTES, MAX_EXCHANGE_BYTES, NoAnswer, Remote
from wats.privacy import Secret


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Let *serve* have every connection to a port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def reason(url: str, **options: float) -> str:
    with pytest.raises(NoAnswer) as caught:
        Remote(url, **options).get("/status", Secret("a-canary-of-a-token"))
    assert "canary" not in caught.value.message
    return caught.value.message


def test_a_response_has_its_status_headers_and_body(counterfeit) -> None:
    counterfeit.answers["/base/status"] = (418, {"X-Tea": "Pot"}, b"short and stout")

    answer = Remote(f"{counterfeit.url}/base").get("/status", Secret("t"))

    assert (answer.status, answer.headers["x-tea"], answer.body) == (418, "Pot", b"short and stout")
    ((method, path, headers),) = counterfeit.asked
    assert (method, path, headers["authorization"]) == ("GET", "/base/status", "Bearer t")


def test_without_a_token_none_is_sent(counterfeit) -> None:
    Remote(counterfeit.url).get("/status")

    assert "authorization" not in counterfeit.asked[0][2]


def test_a_token_is_for_one_host_and_no_proxy(counterfeit, monkeypatch) -> None:
    counterfeit.answers["/status"] = (302, {"Location": "http://127.0.0.1:9/status"}, b"")
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert Remote(counterfeit.url).get("/status", Secret("t")).status == 302


def test_an_exchange_returns_every_byte_of_the_response(counterfeit) -> None:
    counterfeit.answers["/a"] = (404, {"X-A": "b"}, b"{}")

    answer = Remote(counterfeit.url).exchange("PROPFIND", "/a", {"x-b": "c"})

    assert answer == b"HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}"
    method, _, headers = counterfeit.asked[0]
    assert method == "PROPFIND"
    assert headers == {
        "host": counterfeit.url.removeprefix("http://"),
        "connection": "close",
        "x-b": "c",
    }


def test_the_address_is_the_one_that_was_reached(counterfeit) -> None:
    by_name = counterfeit.url.replace("127.0.0.1", "localhost")

    assert Remote(by_name).address() == "127.0.0.1"


def test_a_refused_connection_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    assert reason(url) == f"{url} does not respond: the connection was refused."


def test_a_service_that_hangs_is_reported() -> None:
    released = threading.Event()
    with listening(lambda _: (released.wait(20), None)[1]) as url:
        assert reason(url, timeout_seconds=0.1) == f"{url} does not respond: the request timed out."
        released.set()


ASKS: dict[str, Callable[[Remote], object]] = {
    "get": lambda remote: remote.get("/"),
    "exchange": lambda remote: remote.exchange("GET", "/", {}),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_service_that_sends_a_byte_now_and_then_is_abandoned(ask) -> None:
    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)

    with listening(drip) as url, pytest.raises(NoAnswer) as caught:
        ask(Remote(url, timeout_seconds=0.5))

    assert caught.value.message == f"{url} does not respond: the request timed out."


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"", "the connection was closed"), (b"SSH-2.0-canary\r\n", "the response is not valid HTTP")],
    ids=["nothing", "something else"],
)
def test_a_server_that_does_not_speak_http_is_reported(said, why) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with listening(serve) as url:
        assert reason(url) == f"{url} does not respond: {why}."


def test_an_endless_response_is_abandoned(counterfeit) -> None:
    counterfeit.answers["/status"] = (200, {}, b" " * (MAX_ANSWER_BYTES + 1))

    assert "too large" in reason(counterfeit.url)


def test_a_bounded_part_of_an_endless_exchange_is_read() -> None:
    sent = []

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        with suppress(OSError):
            while len(sent) < 1000:
                connection.sendall(b"x" * 100_000)
                sent.append(100_000)

    with listening(serve) as url:
        answer = Remote(url).exchange("GET", "/", {})

    assert answer == b"x" * MAX_EXCHANGE_BYTES
    assert len(sent) < 1000


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_all_exchanges_together_have_a_time_limit(counterfeit) -> None:
    def exchange_again_and_again(remote: Remote) -> None:
        for _ in range(100):
            assert remote.get("/").status == 404
            time.sleep(0.01)

    with pytest.raises(NoAnswer, match="the request timed out"):
        exchange_again_and_again(Remote(counterfeit.url, total_seconds=0.2))


def test_a_certificate_must_be_trusted(tmp_path: Path, monkeypatch) -> None:
    arguments = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(["openssl", "req", *arguments, *names, *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "certificate", tmp_path / "key")

    def serve(connection: socket.socket) -> None:
        try:
            with tls.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            pass

    with listening(serve) as url:
        secure = url.replace("http://127.0.0.1", "https://localhost")
        expected = f"{secure} does not respond: its TLS certificate is not trusted."
        assert reason(secure) == expected
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
        assert Remote(secure).get("/status").body == b"ok"
        assert Remote(secure).exchange("GET", "/", {}).endswith(b"\r\n\r\nok")
