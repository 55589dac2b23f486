import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from wats import __version__
from wats.config import ServiceConfig
from wats.outbound.composers import COMPOSERS
from wats.testing import example_profile
from wats.web.openapi import build_document
from wats.web.routing import Posture
from wats.web.table import route_table

PROFILE = example_profile()


def document(*, complete: bool = True, groups: bool = True, **changes: Any) -> dict[str, Any]:
    profile = example_profile(**changes)
    table = route_table(profile, groups_enabled=groups)
    built: dict[str, Any] = json.loads(build_document(table, profile=profile, complete=complete))
    return built


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("groups", [True, False])
def test_the_document_is_valid_and_each_of_its_schemas_is_used(
    complete: bool, groups: bool
) -> None:
    built = document(complete=complete, groups=groups)

    validate(built)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(built)}
    assert names == set(built["components"]["schemas"])


@pytest.mark.parametrize("groups", [True, False])
def test_every_route_and_method_is_in_the_complete_document(groups: bool) -> None:
    built = document(groups=groups)

    table = route_table(PROFILE, groups_enabled=groups)
    assert len(built["paths"]) == len(table)
    for row, item in zip(table, built["paths"].values(), strict=True):
        methods = {method.lower() for method in item if method != "parameters"}
        assert methods == {operation.method.value.lower() for operation in row.operations}


def test_the_public_document_omits_hidden_routes() -> None:
    built = document(complete=False)

    text = json.dumps(built).lower()
    for word in ("metrics", "diagnostics", "/status", "uptime", "webhook", "hub.", "signature"):
        assert word not in text
    for row in route_table(PROFILE, groups_enabled=True):
        hidden = row.posture in {Posture.HIDDEN, Posture.ADMIN} or row.label == "/webhook"
        assert (row.path in built["paths"]) <= (not hidden)
    assert len(built["paths"]) == 21


def test_operations_have_names_of_their_own() -> None:
    names = [
        operation["operationId"]
        for item in document()["paths"].values()
        for key, operation in item.items()
        if key != "parameters"
    ]

    assert len(set(names)) == len(names)


def test_the_variable_parts_of_paths_are_described() -> None:
    for path, item in document()["paths"].items():
        named = [each["name"] for each in item.get("parameters", [])]
        assert named == re.findall(r"\{(\w+)\}", path)


def test_every_failure_has_the_same_envelope_but_for_clients_of_graph() -> None:
    for path, item in document()["paths"].items():
        own = {"$ref": "#/components/schemas/ErrorEnvelope"}
        of_graph = {"$ref": "#/components/schemas/GraphErrorEnvelope"}
        is_of_graph = path.startswith("/api/graph/")
        for key, operation in item.items():
            if key == "parameters":
                continue
            for status, response in operation["responses"].items():
                if status not in {"200", "202"}:
                    envelope = of_graph if is_of_graph else own
                    if is_of_graph and status == "404":  # also that of a path that does not exist
                        envelope = {"anyOf": [of_graph, own]}
                    assert response["content"]["application/json"]["schema"] == envelope


@pytest.mark.parametrize(
    ("path", "method", "statuses", "secured"),
    [
        ("/healthz", "get", ["200", "405", "500"], False),
        ("/metrics", "get", ["200", "404", "405", "500"], True),
        ("/api/messages", "get", ["200", "400", "401", "403", "405", "500", "503"], True),
        (
            "/api/messages/text",
            "post",
            [
                "200",
                "202",
                "400",
                "401",
                "403",
                "405",
                "409",
                "413",
                "415",
                "429",
                "500",
                "501",
                "502",
                "503",
            ],
            True,
        ),
        ("/webhooks/whatsapp", "get", ["200", "400", "401", "405", "500", "503"], False),
    ],
)
def test_the_posture_of_a_route_determines_its_failures(
    path: str, method: str, statuses: list[str], secured: bool
) -> None:
    operation = document()["paths"][path][method]

    assert list(operation["responses"]) == statuses
    assert operation.get("security") == ([{"serviceBearerAuth": []}] if secured else None)


def test_sends_and_bodies_of_our_own_have_preferences() -> None:
    with_preference = {
        (path, method)
        for path, item in document(groups=True)["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
        and "Prefer" in [each["name"] for each in operation.get("parameters", ())]
    }

    group = "/api/groups/{groupId}"
    assert with_preference == {
        ("/api/messages/text", "post"),
        ("/api/messages/{id}/read", "post"),
        ("/api/messages", "post"),
        ("/api/marketing_messages", "post"),
        ("/api/graph/{graphPath}", "post"),
        ("/api/groups", "post"),
        (group, "post"),
        (f"{group}/participants", "delete"),
        (f"{group}/join-requests", "post"),
        (f"{group}/join-requests", "delete"),
    }


def test_a_message_is_in_graphs_format_or_a_composer() -> None:
    built = document()
    body = built["paths"]["/api/messages"]["post"]["requestBody"]
    schemas = built["components"]["schemas"]

    references = [each["$ref"] for each in body["content"]["application/json"]["schema"]["anyOf"]]
    names = [reference.removeprefix("#/components/schemas/") for reference in references]
    assert names[:2] == ["TypedMessage", "ReadMark"]
    kinds = [schemas[name]["properties"]["type"]["const"] for name in names[2:]]
    assert kinds == list(COMPOSERS)
    for name in names[2:]:
        [example] = schemas[name]["examples"]
        jsonschema.validate(example, schemas[name])


def test_an_upload_is_a_form_and_a_read_mark_needs_no_body() -> None:
    paths = document()["paths"]

    upload = paths["/api/media"]["post"]["requestBody"]
    mark = paths["/api/messages/{id}/read"]["post"]["requestBody"]
    assert list(upload["content"]) == ["multipart/form-data"]
    assert (upload["required"], mark["required"]) == (True, False)
    content = paths["/api/media/{mediaId}/content"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["*/*"]


def test_the_document_names_the_service() -> None:
    built = document()

    assert built["openapi"] == "3.1.0"
    assert built["info"]["title"] == "WATS Service API"
    assert built["info"]["version"] == __version__


@pytest.mark.parametrize(
    ("host", "port", "public_url", "url"),
    [
        ("127.0.0.1", 8787, None, "http://127.0.0.1:8787"),
        ("127.0.0.1", 80, None, "http://127.0.0.1"),
        ("::1", 8787, None, "http://[::1]:8787"),
        ("::", 80, "https://wats.example/a", "https://wats.example/a"),
    ],
)
def test_the_server_has_the_configured_address(
    host: str, port: int, public_url: str | None, url: str
) -> None:
    service = ServiceConfig(host=host, port=port, api_prefix="/api", public_url=public_url)

    assert document(service=service)["servers"] == [{"url": url}]


def test_descriptions_are_not_indented() -> None:
    for schema in document()["components"]["schemas"].values():
        assert "\n  " not in schema["description"]


async def test_both_documents_are_served_to_authorized_callers(service: Any) -> None:
    anonymous = await service.ask("GET", "/openapi.json", token=None)
    complete = await service.ask("GET", "/openapi.json")

    assert "/metrics" not in anonymous.json["paths"]
    assert "/metrics" in complete.json["paths"]
    assert "/api/admin/consumers" in complete.json["paths"]
    assert anonymous.json["servers"] == [{"url": "http://127.0.0.1:8787"}]
