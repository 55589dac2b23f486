import json

import pytest

from wats.errors import (
    Detail,
    GraphDiagnostics,
    GraphRefused,
    GraphUnreachable,
    IdempotencyOutcomeUnknown,
    InsufficientScope,
    MalformedRequest,
    OutboxFull,
    Overloaded,
    RateLimited,
    StoreUnavailable,
    Unauthorized,
    WatsError,
    WindowClosed,
)
from wats.web.problems import as_graph_response

MALFORMED = MalformedRequest(
    "malformed_body", "The body is invalid.", [Detail("a", "is one"), Detail("b", "is two")]
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthorized(), 190),
        (InsufficientScope(), 10),
        (RateLimited(1.0), 130429),
        (OutboxFull(), 130429),
        (WindowClosed(), 131047),
        (IdempotencyOutcomeUnknown(), 131000),
        (GraphUnreachable(), 131000),
        (MALFORMED, 100),
        (StoreUnavailable(), 2),
        (Overloaded(), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, WatsError) else "",
)
def test_an_error_has_metas_code_and_our_status_and_code(error: WatsError, code: int) -> None:
    response = as_graph_response(error)

    shown = json.loads(response.body)["error"]
    assert (response.status, shown["code"]) == (error.status, code)
    assert shown["message"] == f"(#{code}) {error.message}"
    assert shown["wats"]["code"] == error.code


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (MALFORMED, "a: is one; b: is two"),
        (Unauthorized(), Unauthorized.text),
        (StoreUnavailable(), StoreUnavailable.text),
        (GraphUnreachable(), GraphUnreachable().diagnostics.advice),
    ],
    ids=["mistakes", "no-mistakes", "store", "graph"],
)
def test_the_details_are_the_mistakes_or_else_the_remedy(error: WatsError, details: str) -> None:
    shown = json.loads(as_graph_response(error).body)["error"]

    assert shown["error_data"]["details"] == details


@pytest.mark.parametrize(
    ("upstream", "status"), [(404, 404), (429, 429), (418, 400), (502, 502), (302, 502)]
)
def test_a_refusal_has_graphs_status_or_a_similar_one(upstream: int, status: int) -> None:
    assert as_graph_response(GraphRefused(upstream, GraphDiagnostics())).status == status
