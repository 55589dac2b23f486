"""The OpenAPI document, generated from the route table and the types of bodies. No I/O."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from http import HTTPStatus
from types import UnionType
from typing import Any, Final, TypeAlias, get_args

import msgspec

from wats.config import Profile
from wats.version import __version__
from wats.web.parts import HOOK_LABEL, server_url
from wats.web.problems import ErrorEnvelope, ErrorForm
from wats.web.routing import (
    JSON_TYPE,
    NUMBER_PARAMETER,
    Operation,
    Parameter,
    Posture,
    Route,
    path_of_number,
)

Json: TypeAlias = dict[str, Any]

_SCHEME: Final = "serviceBearerAuth"
_REFERENCE: Final = "#/components/schemas/{name}"
_VARIABLE: Final = re.compile(r"[:*](\w+)")

_SEGMENTS: Final[Mapping[str, Json]] = {
    "id": {"type": "string", "minLength": 1, "maxLength": 1024},
    "phone": {"type": "string", "pattern": r"^\+?[0-9]{1,15}$"},
    "consumer": {"type": "string", "minLength": 1, "maxLength": 1024},
    "outboxId": {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
    "deliveryId": {"type": "string", "pattern": "^[1-9][0-9]{0,18}$"},
    "mediaId": {"type": "string", "pattern": "^[0-9]{1,32}$"},
    "groupId": {"type": "string", "minLength": 1, "maxLength": 256},
    "graphPath": {"type": "string", "minLength": 1, "maxLength": 2048},
    NUMBER_PARAMETER: {
        "type": "string",
        "pattern": "^(?:[0-9]{1,32}|[A-Za-z_][A-Za-z0-9_-]{0,39})$",
        "description": "The id of a business number, or its name in the config.",
    },
}
"""The valid values of the variable parts of paths."""

_POSTURE_PROBLEMS: Final[Mapping[Posture, tuple[int, ...]]] = {
    Posture.OPEN: (405, 500),
    Posture.API: (401, 403, 405, 500, 503),
    Posture.HIDDEN: (404, 405, 500),
    Posture.ADMIN: (404, 405, 500, 503),
}

_HEADERS: Final[Mapping[int, Json]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    403: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    409: {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}},
    429: {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}},
    503: {"Retry-After": {"schema": {"type": "string"}}},
}

_REPLAYED: Final[Json] = {
    "Idempotency-Replayed": {
        "description": "`true` if this is the response to an earlier request with the same key.",
        "schema": {"type": "string", "const": "true"},
    }
}

_LOCATION: Final[Json] = {
    "description": "The path that reports the state of the message.",
    "schema": {"type": "string"},
}


def build_document(
    routes: Sequence[Route], *, profile: Profile, complete: bool, has_admin: bool = True
) -> bytes:
    """Return the OpenAPI 3.1 document of *routes* as JSON.

    The address of the service is taken from *profile* and never from a request. A document that is
    not *complete* is for unauthenticated clients: it has neither the routes that are hidden from
    them nor the path of the webhook, nor their schemas. Without *has_admin*, it is for clients for
    which the admin routes do not exist.
    """
    shown = [row for row in routes if complete or not _is_secret(row)]
    if not has_admin:
        shown = [row for row in shown if row.posture is not Posture.ADMIN]
    if any(token.numbers for token in profile.service.tokens):
        shown = [_with_missing(row) for row in shown]
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "WATS Service API",
            "version": __version__,
            "description": "A self-hosted gateway for the WhatsApp Business Cloud API.",
        },
        "servers": [{"url": server_url(profile)}],
        "paths": {
            _template(row.path): _path_item(row) for row in (*shown, *_of_numbers(shown, profile))
        },
        "components": {
            "securitySchemes": {
                _SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "opaque"}
            },
            "schemas": _schemas(shown),
        },
    }
    return msgspec.json.encode(document)


def _with_missing(row: Route) -> Route:
    """Return *row*; a route of the API does not exist for a token of other numbers."""
    if row.posture is not Posture.API:
        return row
    operations = [replace(each, problems=(*each.problems, 404)) for each in row.operations]
    return replace(row, operations=tuple(operations))


def _of_numbers(rows: Sequence[Route], profile: Profile) -> Iterator[Route]:
    """Yield the routes of the API for one business number; `OfNumber` ends their operations."""
    prefix = profile.service.api_prefix
    for row in rows if profile.numbers else ():
        if row.has_numbers:
            operations = [replace(each, name=f"{each.name}OfNumber") for each in row.operations]
            path = path_of_number(row.path, prefix)
            yield replace(row, path=path, operations=tuple(operations))


def _is_secret(row: Route) -> bool:
    return row.posture in {Posture.HIDDEN, Posture.ADMIN} or row.label == HOOK_LABEL


def _template(path: str) -> str:
    return _VARIABLE.sub(r"{\1}", path)


def _path_item(row: Route) -> Json:
    segments = [
        {"name": name, "in": "path", "required": True, "schema": _SEGMENTS[name]}
        for name in _VARIABLE.findall(row.path)
    ]
    operations = {each.method.value.lower(): _operation(row, each) for each in row.operations}
    return {**({"parameters": segments} if segments else {}), **operations}


def _operation(row: Route, operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [row.tag],
    }
    if operation.parameters:
        described["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body is not None:
        content = {operation.body_type: {"schema": _body_schema(operation)}}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    described["responses"] = _responses(row, operation)
    if row.posture is not Posture.OPEN:
        described["security"] = [{_SCHEME: []}]
    return described


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "schema": parameter.schema,
    }


def _responses(row: Route, operation: Operation) -> Json:
    # A value that is never valid in a variable part makes the path one that does not exist.
    missing = (404,) if _VARIABLE.search(row.path) else ()
    found = (*_POSTURE_PROBLEMS[row.posture], *missing, *_body_problems(row, operation))
    problems = sorted({*found, *operation.problems})
    accepted = {} if operation.accepted is None else {"202": _accepted(operation)}
    failures = {str(status): _problem(row.errors, status) for status in problems}
    return {"200": _success(operation), **accepted, **failures}


def _body_problems(row: Route, operation: Operation) -> tuple[int, ...]:
    if operation.body is None:
        return ()
    # The body of the open route, the webhook, is read as it is: its signature is that of its bytes.
    return (413,) if row.posture is Posture.OPEN else (413, 415)


def _success(operation: Operation) -> Json:
    described: Json = {"description": HTTPStatus.OK.phrase}
    if any(each.name == "Idempotency-Key" for each in operation.parameters):
        described["headers"] = _REPLAYED
    if isinstance(operation.answer, tuple):
        described["content"] = {kind: {"schema": {"type": "string"}} for kind in operation.answer}
    else:
        described["content"] = {JSON_TYPE: {"schema": _schema(operation.answer)}}
    return described


def _accepted(operation: Operation) -> Json:
    headers = {**_REPLAYED, "Location": _LOCATION}
    content = {JSON_TYPE: {"schema": _schema(operation.accepted)}}
    return {"description": HTTPStatus.ACCEPTED.phrase, "headers": headers, "content": content}


@cache
def _problem(errors: ErrorForm, status: int) -> Json:
    return {
        "description": HTTPStatus(status).phrase,
        **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        "content": {JSON_TYPE: {"schema": _schema(_envelope(errors, status))}},
    }


def _envelope(errors: ErrorForm, status: int) -> Any:
    """Return the type of an error; a path that does not exist has the same one everywhere."""
    own, shared = errors.envelope, ErrorEnvelope
    return own | shared if status == HTTPStatus.NOT_FOUND and own is not shared else own


@cache  # every problem of every route has one of the same type: a document takes 4 ms, not 45
def _schema(body: Any) -> Json:
    """Return the schema of *body* by references; of several structs, any one is valid."""
    schemas, _ = msgspec.json.schema_components(_members(body), ref_template=_REFERENCE)
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _body_schema(operation: Operation) -> Json:
    schema = _schema(operation.body)
    if not operation.schemas:
        return schema
    more = [{"$ref": _REFERENCE.format(name=name)} for name in operation.schemas]
    return {"anyOf": [*schema.get("anyOf", [schema]), *more]}


def _schemas(rows: Sequence[Route]) -> Json:
    envelopes = dict.fromkeys(row.errors.envelope for row in rows)
    components = _components((*envelopes, *_body_types(rows)))
    more = [operation.schemas for row in rows for operation in row.operations]
    return components | {name: each[name] for each in more for name in each}


@cache
def _components(bodies: tuple[Any, ...]) -> Json:
    """Return the schemas of *bodies* by name, with those that they refer to."""
    _, components = msgspec.json.schema_components(bodies, ref_template=_REFERENCE)
    for schema in components.values():
        if "description" in schema:  # not with `python -OO`, which removes docstrings
            # Python before 3.13 keeps the indentation of a docstring.
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(components)


def _body_types(rows: Sequence[Route]) -> Iterator[Any]:
    for row in rows:
        for operation in row.operations:
            for body in (operation.answer, operation.accepted, operation.body):
                if body is not None and not isinstance(body, tuple):
                    yield from _members(body)


def _members(body: Any) -> tuple[Any, ...]:
    return get_args(body) if isinstance(body, UnionType) else (body,)
