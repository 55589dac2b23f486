import asyncio
import hashlib
from typing import Any

import aiohttp
import pytest

from wats.simulator.faults import GraphFault
from wats.simulator.media import MediaFiles

NUMBER = "200000000000002"
PNG = b"\x89PNG\r\n\x1a\n123"


async def upload(meta: Any, content: bytes = PNG, kind: str = "image/png") -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("file", content, content_type=kind, filename="media")
    form.add_field("messaging_product", "whatsapp")
    url = f"{meta.graph.url}/v25.0/{NUMBER}/media"
    headers = {"authorization": "Bearer token"}
    async with meta.graph.session.post(url, data=form, headers=headers) as response:
        return response.status, await response.json()


async def test_a_file_is_stored_described_served_and_deleted(meta: Any) -> None:
    status, stored = await upload(meta)
    path = f"/v25.0/{stored['id']}"

    _, described = await meta.graph.call("GET", path)
    served = await meta.graph.call("GET", described["url"].removeprefix(meta.graph.url))
    deleted = await meta.graph.call("DELETE", path)
    gone, _ = await meta.graph.call("GET", path)

    assert status == 200
    assert described["mime_type"] == "image/png"
    assert described["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert described["file_size"] == str(len(PNG))
    assert served == (200, PNG)
    assert deleted == (200, {"success": True})
    assert gone == 400
    assert meta.simulator.counts.uploads == 1


async def test_the_fields_of_a_form_may_be_in_the_query(meta: Any) -> None:
    form = aiohttp.FormData()
    form.add_field("file", PNG, content_type="image/png", filename="a.png")
    url = f"{meta.graph.url}/v25.0/{NUMBER}/media?messaging_product=whatsapp"

    async with meta.graph.session.post(
        url, data=form, headers={"authorization": "Bearer token"}
    ) as response:
        status = response.status

    assert status == 200


async def test_a_url_expires(started: Any) -> None:
    async with started(media_url_seconds=0.05) as meta:
        _, stored = await upload(meta)
        _, described = await meta.graph.call("GET", f"/v25.0/{stored['id']}")
        await asyncio.sleep(0.1)

        status, _ = await meta.graph.call("GET", described["url"].removeprefix(meta.graph.url))

    assert status == 404


@pytest.mark.parametrize("kind", ["image/gif", ""])
async def test_a_type_that_meta_does_not_accept_is_refused(meta: Any, kind: str) -> None:
    status, answer = await upload(meta, kind=kind or "application/octet-stream")

    assert (status, answer["error"]["code"]) == (400, 100)


async def test_an_empty_or_a_large_file_is_refused(meta: Any) -> None:
    for content in (b"", bytes(100 * 1024 + 1)):
        status, answer = await upload(meta, content, "image/webp")
        assert (status, answer["error"]["code"]) == (400, 131053)


async def test_other_methods_of_a_file_are_refused(meta: Any) -> None:
    media_id = meta.simulator.add_media(PNG, "image/png")

    status, _ = await meta.graph.call("POST", f"/v25.0/{media_id}", {})

    assert status == 400


def test_the_oldest_files_are_dropped() -> None:
    files = MediaFiles(300.0, lambda: 0.0)
    content = bytes(90 * 1024 * 1024)

    ids = [files.add(content, "application/pdf") for _ in range(3)]

    assert [each in files for each in ids] == [False, True, True]
    with pytest.raises(GraphFault):
        files.delete(ids[0])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nx"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx"),
    ],
)
async def test_a_body_that_is_not_a_form_is_refused(
    meta: Any, content_type: str, body: bytes
) -> None:
    url = f"{meta.graph.url}/v25.0/{NUMBER}/media"
    headers = {"authorization": "Bearer token", "content-type": content_type}
    async with meta.graph.session.post(url, data=body, headers=headers) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["code"]) == (400, 100)
