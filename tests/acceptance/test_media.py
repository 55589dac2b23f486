"""Files through the gateway, over real sockets, to the simulated Meta and to a hostile one."""

import asyncio
import gc
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from wats.config import GraphConfig
from wats.outbound.media import MIB
from wats.service import create_wats_service_app
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
PDF = b"%PDF-1.7\n"
FILE_ID = "900000000000001"
BEARER = {"authorization": f"Bearer {BEARER_TOKEN}"}
JSON = "content-type: application/json\r\n"


def form_of(
    content: Any, content_type: str = "image/png", name: str = "a.png", **fields: str
) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for field, value in fields.items():
        form.add_field(field, value)
    content = io.BytesIO(content) if isinstance(content, bytes) else content
    form.add_field("file", content, content_type=content_type, filename=name)
    return form


async def upload(url: str, form: aiohttp.FormData) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/media", data=form, headers=BEARER) as response,
    ):
        return response.status, await response.json()


async def test_a_file_is_uploaded_described_downloaded_and_deleted(gateway: Any) -> None:
    status, uploaded = await upload(gateway.url, form_of(PNG, messaging_product="whatsapp"))
    path = f"/api/media/{uploaded['id']}"
    described = await gateway.ask("GET", path)
    content = await gateway.ask("GET", f"{path}/content")
    head = await gateway.ask("HEAD", f"{path}/content")
    deleted = await gateway.ask("DELETE", path)
    gone = await gateway.ask("GET", path)

    assert status == 200
    assert described.json == {
        "id": uploaded["id"],
        "mimeType": "image/png",
        "sha256": hashlib.sha256(PNG).hexdigest(),
        "fileSize": len(PNG),
    }
    assert (content.status, content.body) == (200, PNG)
    assert content.headers["content-type"] == "image/png"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert (head.status, head.headers["content-length"]) == (200, str(len(PNG)))
    assert (deleted.status, deleted.json) == (200, {"success": True})
    assert (gone.status, gone.code) == (502, "graph_request_failed")


async def test_the_media_calls_of_graph_are_counted_in_their_family(gateway: Any) -> None:
    _, uploaded = await upload(gateway.url, form_of(PNG))

    await gateway.ask("GET", f"/api/media/{uploaded['id']}/content")

    samples = await gateway.samples("graph_operations_total")
    series = 'graph_operations_total{endpoint_family="media",outcome="success",status_class="2xx"}'
    assert samples[series] == 3


async def test_a_customers_file_is_downloaded(gateway: Any) -> None:
    media_id = gateway.simulator.add_media(PNG, "image/png")

    content = await gateway.ask("GET", f"/api/media/{media_id}/content")

    assert content.body == PNG


async def test_an_upload_without_a_token_is_refused_before_its_body(gateway: Any) -> None:
    address = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        b"POST /api/media HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n"
        b"content-type: multipart/form-data; boundary=b\r\n\r\n"
    )

    line = await reader.readline()

    assert line == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()


class HostileGraph:
    """A Graph whose every connection a test serves."""

    url: str

    def __init__(self) -> None:
        self.answers: list[Callable[..., Awaitable[None]]] = []
        self.heads: list[bytes] = []
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self.answers:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self.answers.pop(0)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.lost += 1
        finally:
            writer.close()

    def sends(self, body: bytes, status: int = 200, headers: str = "", length: int = -1) -> None:
        """Send this response to the next request, which has no body."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            size = length if length >= 0 else len(body)
            writer.write(
                f"HTTP/1.1 {status} X\r\n{headers}content-length: {size}\r\n\r\n".encode() + body
            )
            await writer.drain()
            if length >= 0:
                writer.transport.abort()

        self.answers.append(answer)

    def describes(self, path: str = "/file", **changes: Any) -> None:
        file = {
            "messaging_product": "whatsapp",
            "url": f"{self.url}{path}",
            "mime_type": "application/pdf",
            "sha256": "0" * 64,
            "file_size": "10",
            "id": FILE_ID,
            **changes,
        }
        self.sends(json.dumps(file).encode(), headers="content-type: application/json\r\n")


@pytest.fixture
async def hostile() -> AsyncIterator[HostileGraph]:
    graph = HostileGraph()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(graph.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    graph.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield graph
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


class Guarded:
    """A gateway in front of a hostile Graph."""

    def __init__(self, url: str, log: list[Any]) -> None:
        self.url = url
        self.log = log

    async def get(self, path: str = f"/api/media/{FILE_ID}/content") -> tuple[int, Any, bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url + path, headers=BEARER) as response,
        ):
            return response.status, response.headers, await response.read()

    async def samples(self, family: str) -> dict[str, float]:
        _, _, text = await self.get("/metrics")
        lines = [line for line in text.decode().splitlines() if line.startswith(family)]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


@asynccontextmanager
async def guarding(graph: HostileGraph, **graph_config: Any) -> AsyncIterator[Guarded]:
    log: list[Any] = []
    config = GraphConfig(api_version="v25.0", base_url=graph.url, **graph_config)
    app = create_wats_service_app(
        profile=example_profile(graph=config), secrets=example_secrets(), log=log.append
    )
    before = asyncio.all_tasks()
    async with serving(app) as url:
        yield Guarded(url, log)
    gc.collect()
    left = {task for task in asyncio.all_tasks() - before if "HostileGraph" not in repr(task)}
    assert not left


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_expired_url_is_fetched_anew_once(hostile: HostileGraph, status: int) -> None:
    hostile.describes("/old")
    hostile.sends(b"expired", status=status)
    hostile.describes("/new")
    hostile.sends(PDF + b"\n")

    async with guarding(hostile) as gateway:
        answer = await gateway.get()

    assert (answer[0], answer[2]) == (200, PDF + b"\n")
    assert [head.split(b" ")[1] for head in hostile.heads[1::2]] == [b"/old", b"/new"]


async def test_a_url_that_stays_expired_is_an_error(hostile: HostileGraph) -> None:
    for _ in range(2):
        hostile.describes()
        hostile.sends(b"", status=404)

    async with guarding(hostile) as gateway:
        status, _, body = await gateway.get()

    assert (status, json.loads(body)["error"]["code"]) == (502, "graph_request_failed")
    assert hostile.answers == []


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com/file", "http://lookaside.fbsbx.com/file", "file:///etc/passwd"),
        *("https://lookaside.fbsbx.com.example.com/", "https://u@lookaside.fbsbx.com/"),
        *("https://lookaside.fbsbx.com:8443/", "//example.com/", "", "https://[", "not a url"),
    ],
)
async def test_the_token_is_not_sent_to_another_host(hostile: HostileGraph, url: str) -> None:
    hostile.describes(url=url)

    async with guarding(hostile) as gateway:
        status, _, body = await gateway.get()

    assert (status, json.loads(body)["error"]["code"]) == (502, "media_unusable")
    assert len(hostile.heads) == 1


async def test_a_redirect_of_a_download_is_not_followed(hostile: HostileGraph) -> None:
    hostile.describes()
    hostile.sends(b"", status=302, headers=f"location: {hostile.url}/elsewhere\r\n")

    async with guarding(hostile) as gateway:
        status, _, _ = await gateway.get()

    assert (status, len(hostile.heads)) == (502, 2)


@pytest.mark.parametrize(
    ("file", "code", "status"),
    [
        ({"messaging_product": None}, "not_found", 404),
        ({"url": None}, "not_found", 404),
        ({"mime_type": ["x"]}, "not_found", 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_object_of_another_kind_is_neither_shown_nor_deleted(
    hostile: HostileGraph, method: str, file: dict[str, Any], code: str, status: int
) -> None:
    hostile.describes(**file)

    async with guarding(hostile) as gateway, aiohttp.ClientSession() as session:
        url = f"{gateway.url}/api/media/{FILE_ID}"
        async with session.request(method, url, headers=BEARER) as response:
            answer = response.status, (await response.json())["error"]["code"]

    assert answer == (status, code)
    assert [head.split(b" ")[0] for head in hostile.heads] == [b"GET"]


async def test_a_file_that_is_cut_off_reaches_the_client_cut_off(hostile: HostileGraph) -> None:
    hostile.describes()
    hostile.sends(PDF, length=100)

    async with guarding(hostile) as gateway:
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.get()
        samples = await gateway.samples("graph_operations_total")

    failed = (
        'graph_operations_total{endpoint_family="media",outcome="error",status_class="unknown"}'
    )
    assert samples[failed] == 1
    assert [line["event"] for line in gateway.log if "at" in line] == ["wats.graph.failure"]


async def test_a_response_that_is_cut_off_before_its_first_byte_is_an_error_response(
    hostile: HostileGraph,
) -> None:
    hostile.describes()
    hostile.sends(b"", length=100)
    hostile.sends(b"{", headers=JSON, length=100)
    failed = "graph_request_failed"

    async with guarding(hostile) as gateway, aiohttp.ClientSession(headers=BEARER) as session:
        async with session.get(f"{gateway.url}/api/media/{FILE_ID}/content") as response:
            content = response.status, (await response.json())["error"]["code"]
        async with session.get(f"{gateway.url}/api/graph/{FILE_ID}") as response:
            call = response.status, (await response.json())["error"]["wats"]["code"]
        samples = await gateway.samples("http_requests_total")

    assert (content, call) == ((502, failed), (502, failed))
    for route in ("/api/media/:mediaId/content", "/api/:resource"):
        labels = f'method="GET",route="{route}",status_class='
        assert samples[f'http_requests_total{{{labels}"5xx"}}'] == 1
        assert samples[f'http_requests_total{{{labels}"2xx"}}'] == 0
    assert [line["event"] for line in gateway.log if "at" in line] == 2 * ["wats.graph.failure"]


async def test_a_write_whose_response_is_cut_off_was_carried_out(hostile: HostileGraph) -> None:
    hostile.sends(b"{", headers=JSON, length=100)

    async with (
        guarding(hostile) as gateway,
        aiohttp.ClientSession(headers=BEARER) as session,
        session.post(f"{gateway.url}/api/graph/{FILE_ID}") as response,
    ):
        answer = response.status, await response.json()

    assert answer == (200, {})


async def test_a_file_without_a_stated_length_has_the_described_one(hostile: HostileGraph) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + PDF)
        writer.close()

    hostile.describes(file_size=len(PDF))
    hostile.answers.append(answer)
    hostile.describes(file_size=str(len(PDF) + 1))
    hostile.answers.append(answer)

    async with guarding(hostile) as gateway:
        whole = await gateway.get()
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.get()

    assert (whole[1]["content-length"], whole[2]) == (str(len(PDF)), PDF)


@pytest.mark.parametrize("headers", ["content-encoding: gzip\r\n", ""])
async def test_a_huge_or_encoded_file_is_refused(hostile: HostileGraph, headers: str) -> None:
    hostile.describes()
    hostile.sends(b"x", headers=headers, length=1 if headers else 101 * MIB)

    async with guarding(hostile) as gateway:
        status, _, body = await gateway.get()

    assert (status, json.loads(body)["error"]["code"]) == (502, "media_unusable")


async def test_a_silent_media_host_ends_the_download(hostile: HostileGraph) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        await asyncio.sleep(60)

    hostile.describes()
    hostile.answers.append(answer)

    async with guarding(hostile, read_seconds=3) as gateway:
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.get()

    assert [line["cause"] for line in gateway.log if "cause" in line] == ["timeout"]


async def test_a_client_that_leaves_ends_its_download(hostile: HostileGraph, until: Any) -> None:
    sent = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (60 * MIB))
        for _ in range(60):
            writer.write(bytes(MIB))
            await writer.drain()
            sent += 1

    hostile.describes(file_size=60 * MIB)
    hostile.answers.append(answer)

    async with guarding(hostile) as gateway:
        address = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=4096)
        path = f"/api/media/{FILE_ID}/content"
        writer.write(
            f"GET {path} HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {BEARER_TOKEN}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)  # the client does not read, so Graph's file stays unread, too
        is_bounded = sent < 40
        writer.transport.abort()
        await until(lambda: hostile.lost)
        samples = await gateway.samples("graph_operations_total")

    assert is_bounded
    failures = [value for series, value in samples.items() if 'outcome="error"' in series]
    assert sum(failures) == 0
    assert [line["event"] for line in gateway.log if "cause" in line] == []


def begun_upload(length: int, *pieces: bytes) -> bytes:
    head = (
        f"POST /api/media HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER_TOKEN}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n"
    )
    return (
        head.encode() + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n'
        b"Content-Type: application/pdf\r\n\r\n" + b"".join(pieces)
    )


async def test_a_client_that_leaves_ends_its_upload(hostile: HostileGraph, until: Any) -> None:
    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(MIB)

    hostile.answers.append(answer)

    async with guarding(hostile) as gateway:
        address = urlsplit(gateway.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(begun_upload(MIB, PDF, bytes(2048)))
        await until(lambda: hostile.heads)
        writer.transport.abort()
        await until(lambda: hostile.lost)
        samples = await gateway.samples("graph_operations_total")

    calls = [value for series, value in samples.items() if '"media"' in series]
    assert sum(calls) == 0
    assert b"content-length:" in hostile.heads[0].lower()


async def test_an_upload_that_graph_refuses_early_ends(hostile: HostileGraph) -> None:
    refusal = {"error": {"message": "x", "type": "OAuthException", "code": 131053}}
    hostile.sends(json.dumps(refusal).encode(), status=400)

    async with guarding(hostile) as gateway:
        address = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(begun_upload(20 * MIB, PDF, bytes(MIB)))
        answer = await reader.read(4096)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"metaCode":131053' in answer


@pytest.mark.parametrize("read", [0, 10_000, 8 * MIB])
async def test_an_upload_that_graph_cuts_off_can_be_repeated(
    hostile: HostileGraph, read: int
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(read)
        writer.transport.abort()

    hostile.answers.append(answer)

    async with guarding(hostile) as gateway:
        status, body = await upload(
            gateway.url, form_of(PDF + bytes(16 * MIB), "application/pdf", "a.pdf")
        )

    assert (status, body["error"]["outcome"]) == (502, "not_sent")
    assert body["error"]["retryable"]


async def test_an_upload_without_a_response_has_an_unknown_outcome(hostile: HostileGraph) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"--\r\n")  # the end of the form
        writer.transport.abort()

    hostile.answers.append(answer)

    async with guarding(hostile) as gateway:
        status, body = await upload(gateway.url, form_of(PDF, "application/pdf", "a.pdf"))

    assert (status, body["error"]["outcome"]) == (502, "unknown")


async def test_a_graph_that_stops_reading_ends_the_upload(hostile: HostileGraph) -> None:
    async def answer(_: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    hostile.answers.append(answer)

    async with guarding(hostile, read_seconds=0.5) as gateway:
        status, body = await upload(
            gateway.url, form_of(PDF + bytes(30 * MIB), "application/pdf", "a.pdf")
        )

    assert (status, body["error"]["outcome"]) == (502, "not_sent")


async def test_transfers_leave_connections_for_messages(hostile: HostileGraph) -> None:
    release = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        await release.wait()
        writer.write(b"67890")

    hostile.describes()
    hostile.answers.append(answer)
    hostile.describes()

    async with (
        guarding(hostile, max_connections=4) as gateway,
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.url}/api/media/{FILE_ID}/content", headers=BEARER) as slow,
    ):
        status, headers, body = await gateway.get()
        release.set()
        content = await slow.read()

    assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
    assert headers["retry-after"]
    assert content == b"1234567890"


async def test_a_large_file_passes_in_bounded_memory(
    serve: Any, tmp_path: Path, open_gateway: Any
) -> None:
    size = 60 * MIB
    async with open_gateway(has_store=False) as meta, serve(meta.simulator.url) as process:
        before = peak_of(process.pid)
        (tmp_path / "large.pdf").write_bytes(PDF + bytes(size))
        with (tmp_path / "large.pdf").open("rb") as file:
            status, uploaded = await upload(
                process.url, form_of(file, "application/pdf", "large.pdf")
            )
        received = 0
        async with aiohttp.ClientSession() as session:
            path = f"{process.url}/api/media/{uploaded['id']}/content"
            async with session.get(path, headers=BEARER) as response:
                async for chunk in response.content.iter_chunked(MIB):
                    received += len(chunk)
        after = peak_of(process.pid)

    assert (status, received) == (200, size + len(PDF))
    assert after - before < 16 * MIB
    print(f"peak before {before // 1024} KiB, after {after // 1024} KiB")


def peak_of(pid: int) -> int:
    """Return the largest memory that the process ever used, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
