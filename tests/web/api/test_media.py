from typing import Any

import pytest

from wats.outbound.media import KIB, MIB

PNG = b"\x89PNG\r\n\x1a\n"
FORM = "multipart/form-data; boundary=b"
FILE = {
    "messaging_product": "whatsapp",
    "url": "https://lookaside.fbsbx.com/x",
    "mime_type": "image/png",
    "sha256": "a" * 64,
    "file_size": 8,
}


def form_of(
    content: bytes = PNG, content_type: str = "image/png", name: str = "a.png", **fields: str
) -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    return "".join(parts).encode() + content + b"\r\n--b--\r\n"


async def upload(service: Any, body: bytes, content_type: str = FORM) -> Any:
    return await service.ask("POST", "/api/media", body, **{"content-type": content_type})


async def test_a_file_reaches_meta_under_a_name_of_ours(service: Any) -> None:
    service.graph.body = {"id": "777"}

    answer = await upload(service, form_of(name="secret-name.png", messaging_product="whatsapp"))

    [asked] = service.graph.asked
    assert (answer.status, answer.json) == (200, {"id": "777"})
    assert (asked.method, asked.path) == ("POST", "/v25.0/15551234567/media")
    assert b'name="messaging_product"\r\n\r\nwhatsapp\r\n' in asked.body
    assert b'name="type"\r\n\r\nimage/png\r\n' in asked.body
    assert b'filename="media"\r\nContent-Type: image/png\r\n\r\n' + PNG + b"\r\n--b--" in asked.body
    assert b"secret-name" not in asked.body


async def test_the_field_type_precedes_that_of_the_part(service: Any) -> None:
    service.graph.body = {"id": "777"}

    answer = await upload(service, form_of(content_type="text/plain", type="image/png"))

    assert answer.status == 200
    assert b"Content-Type: image/png" in service.graph.asked[0].body


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        (form_of(b"GIF89a"), 415, "media_type_mismatch", "file"),
        (form_of(name="a.pdf"), 415, "media_type_mismatch", "file"),
        (form_of(content_type="image/gif"), 415, "unsupported_media_type", "type"),
        (form_of(b""), 400, "malformed_body", "file"),
        (form_of(messaging_product="x"), 400, "malformed_body", "messaging_product"),
        (b"{}", 400, "malformed_body", "file"),
        (form_of()[:-9], 400, "malformed_body", "$"),
    ],
)
async def test_an_invalid_upload_is_refused_and_not_sent(
    service: Any, body: bytes, status: int, code: str, path: str
) -> None:
    answer = await upload(service, body)

    assert (answer.status, answer.code) == (status, code)
    assert [each["path"] for each in answer.json["error"]["details"]] == [path]
    assert service.graph.asked == []


FIRST = form_of().removesuffix(b"--b--\r\n")


def after(name: str, value: str) -> bytes:
    return (
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--b--\r\n'
    ).encode()


async def test_fields_can_follow_the_file(service: Any) -> None:
    service.graph.body = {"id": "777"}

    for name, value in [
        *(("messaging_product", "whatsapp"), ("type", "image/png"), ("ttl_minutes", "60")),
        ("type", "image/png; q=1"),
    ]:
        answer = await upload(service, FIRST + after(name, value))
        assert (answer.status, answer.json) == (200, {"id": "777"})
        assert service.graph.asked[-1].body.endswith(b"\r\n" + after(name, value))
    sent = await upload(service, form_of(ttl_minutes="60"))

    assert sent.status == 200
    assert b'name="ttl_minutes"\r\n\r\n60\r\n' in service.graph.asked[-1].body


async def test_a_field_after_the_file_cannot_change_what_was_checked(service: Any) -> None:
    for name, value in [
        *(("messaging_product", "x"), ("type", "image/jpeg"), ("ttl_minutes", "x")),
        *(("type", "image/png\r\nx"), ("other", "x"), ("file", "x")),
    ]:
        answer = await upload(service, FIRST + after(name, value))
        assert (answer.status, answer.code) == (400, "malformed_body")
    before = await upload(service, form_of(ttl_minutes="soon"))

    assert (before.status, before.code) == (400, "malformed_body")
    assert service.graph.asked == []


async def test_a_body_that_is_not_a_form_is_refused(service: Any) -> None:
    answer = await upload(service, form_of(), "application/json")

    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "content_type", "name", "limit"),
    [
        (PNG, "image/png", "a.png", 5 * MIB),
        (b"OggS", "audio/ogg", "a.ogg", 16 * MIB),
        (b"RIFF\0\0\0\0WEBP", "image/webp", "a.webp", 100 * KIB),
    ],
)
async def test_a_file_is_limited_by_its_type(
    service: Any, content: bytes, content_type: str, name: str, limit: int
) -> None:
    service.graph.body = {"id": "777"}
    largest = content + bytes(limit - len(content))

    accepted = await upload(service, form_of(largest, content_type, name))
    refused = await upload(service, form_of(largest + b"x", content_type, name))

    assert accepted.status == 200
    assert (refused.status, refused.code) == (413, "payload_too_large")
    assert len(service.graph.asked) == 1


async def test_an_upload_needs_a_length_that_is_not_too_large(service: Any) -> None:
    fields = {"content-type": FORM}
    without = await service.ask("POST", "/api/media", None, **fields)
    fields["content-length"] = str(200 * MIB)
    large = await service.ask("POST", "/api/media", None, **fields)

    assert (without.status, without.code) == (411, "length_required")
    assert (large.status, large.code) == (413, "payload_too_large")


async def test_a_file_is_described_without_metas_url(service: Any) -> None:
    service.graph.body = FILE

    answer = await service.ask("GET", "/api/media/777")

    assert answer.json == {
        "id": "777",
        "mimeType": "image/png",
        "sha256": "a" * 64,
        "fileSize": 8,
    }


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ({"mime_type": "audio/ogg; codecs=opus"}, {"mimeType": "audio/ogg; codecs=opus"}),
        ({"mime_type": "a/b\r\nx: y"}, {"mimeType": "application/octet-stream"}),
        ({"file_size": "12"}, {"fileSize": 12}),
        ({"file_size": None}, {"fileSize": None}),
        ({"file_size": -1}, {"fileSize": None}),
        ({"file_size": "9" * 5000}, {"fileSize": None}),
        ({"sha256": "<script>"}, {"sha256": None}),
    ],
)
async def test_a_description_has_expected_values_only(
    service: Any, stated: dict[str, Any], shown: dict[str, Any]
) -> None:
    service.graph.body = {**FILE, **stated}

    answer = await service.ask("GET", "/api/media/777")

    assert answer.status == 200
    assert answer.json.items() >= shown.items()


async def test_an_id_that_cannot_be_a_file_is_not_sent_to_graph(
    service: Any, subtests: pytest.Subtests
) -> None:
    ids = {
        "word": "me",
        "post": "1_2",
        "ad account": "act_1",
        "negative": "-1",
        "encoded": "%31",
        "too long": "1" * 33,
        "our number": "15551234567",
        "our account": "123456789012345",
    }
    for name, media_id in ids.items():
        for method, suffix in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            with subtests.test(f"{method} {name}{suffix}"):
                answer = await service.ask(method, f"/api/media/{media_id}{suffix}")

                assert (answer.status, answer.code) == (400, "malformed_path")
                assert service.graph.asked == []


@pytest.mark.parametrize("body", [{"id": "777", "name": "a flow"}, [], "text", {}])
async def test_an_object_that_is_not_a_file_is_not_deleted(service: Any, body: Any) -> None:
    service.graph.body = body

    answer = await service.ask("DELETE", "/api/media/777")

    assert (answer.status, answer.code) == (404, "not_found")
    assert [asked.method for asked in service.graph.asked] == ["GET"]


async def test_a_refusal_of_graph_is_reported(service: Any) -> None:
    service.graph.status = 400
    service.graph.body = {"error": {"code": 100, "error_subcode": 33, "type": "OAuthException"}}

    answer = await service.ask("GET", "/api/media/777")

    assert (answer.status, answer.code) == (502, "graph_request_failed")
    assert [line["event"] for line in service.log] == ["wats.graph.failure"]


async def test_media_needs_a_service_token(service: Any) -> None:
    for method, path in (
        ("POST", "/api/media"),
        ("GET", "/api/media/7"),
        ("DELETE", "/api/media/7"),
        ("GET", "/api/media/7/content"),
    ):
        answer = await service.ask(method, path, token=None)
        assert (answer.status, answer.code) == (401, "unauthorized")
