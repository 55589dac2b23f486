from typing import Any

import pytest

ACCOUNT = "100000000000001"
TEMPLATE = {"name": "hello", "language": "en", "category": "UTILITY", "components": []}
PATH = f"/v25.0/{ACCOUNT}/message_templates"


@pytest.mark.parametrize("category", [None, "OTHER", ["UTILITY"], {}])
async def test_a_template_of_no_category_is_refused(meta: Any, category: object) -> None:
    status, answer = await meta.graph.call("POST", PATH, {**TEMPLATE, "category": category})

    assert (status, answer["error"]["code"]) == (400, 100)


async def test_the_id_and_the_status_of_a_template_are_those_of_meta(meta: Any) -> None:
    status, answer = await meta.graph.call(
        "POST", PATH, {**TEMPLATE, "id": "1", "status": "REJECTED"}
    )

    assert (status, answer["status"]) == (200, "APPROVED")
    assert answer["id"] != "1"
