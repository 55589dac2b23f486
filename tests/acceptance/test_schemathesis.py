import asyncio
import json
from typing import Any, Final

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from wats.config import GroupsConfig
from wats.testing import BEARER_TOKEN, example_profile
from wats.web.openapi import build_document
from wats.web.table import route_table

pytestmark = pytest.mark.long

EXAMPLES: Final = 5
"""Requests for each operation and mode."""

OUTCOMES_OF_GRAPH: Final = frozenset({501, 502, 503})
"""The documented failures that are not ours: no store, Meta's refusals, and rate limits."""


def document() -> dict[str, Any]:
    profile = example_profile()
    table = route_table(profile, groups_enabled=True)
    found: dict[str, Any] = json.loads(build_document(table, profile=profile, complete=True))
    return found


@pytest.mark.parametrize("mode", ["positive", "negative"])
async def test_every_response_to_any_request_is_documented(open_gateway: Any, mode: str) -> None:
    async with open_gateway(groups=GroupsConfig(enabled=True)) as gateway:
        # In a thread, because the client waits for each response, and the gateway is on this loop.
        failures = await asyncio.to_thread(failures_of, gateway.url, mode)

    assert failures == {}


def failures_of(url: str, mode: str) -> dict[str, str]:
    """Return what is wrong with the responses to generated requests, by operation."""
    # Not imported by the processes of the first ring, whose import of all tests it would delay.
    import schemathesis

    failures = {}
    for found in schemathesis.openapi.from_dict(document()).get_all_operations():
        operation = found.ok()
        try:
            check(url, operation, mode)
        except Unsatisfiable:
            assert mode == "negative"  # a request without input cannot be invalid
        except Exception as error:
            failures[operation.label] = str(error)
    return failures


def check(url: str, operation: Any, mode: str) -> None:
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def requested(case: Any) -> None:
        response = case.call(
            base_url=url, headers={"authorization": f"Bearer {BEARER_TOKEN}"}, session=session
        )
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )
        assert response.status_code < 500 or response.status_code in OUTCOMES_OF_GRAPH

    with requests.Session() as session:
        requested()
