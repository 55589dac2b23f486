import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.graph.errors import classify
from wats.graph.parameters import find_parameter, renamed


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("(#100) Param text['body'] must be a string", "text.body"),
        ('(#100) Param text["body"] must be a string', "text.body"),
        ("(#100) The parameter messaging_product is required.", "messaging_product"),
        ("(#100) Param recipient_type must be individual", "recipient_type"),
        (
            "Param template['components'][0]['parameters'][1]['text'] must be a string",
            "template.components[0].parameters[1].text",
        ),
        ('Unexpected key "x" on param "template[\'components\'][0]"', "template.components[0]"),
        ("Param template.language.code is unknown", "template.language.code"),
        ("Parameter 'to' is mandatory", "to"),
        ("Required parameter is missing: the parameter to", "to"),
        ("Parameter name is missing or empty", None),
        ("Param template['Jane'] must be a string", "template"),
        ("Param template['components'][15550002222]['type'] is unknown", "template.components"),
        ("Param jane['body'] must be a string", None),
        ("Jane asked for param 15550002222", None),
        ("x" * 2000 + " param to", None),
        ("", None),
    ],
)
def test_the_member_that_metas_text_names_is_found(text: str, path: str | None) -> None:
    assert find_parameter([text]) == path


def test_the_first_text_that_names_a_member_counts() -> None:
    assert find_parameter(["Parameter Invalid", "Param to is bad", "Param type is bad"]) == "to"


@given(st.lists(st.text() | st.text("param to[]'\"0129.jane ", max_size=60)))
def test_a_path_holds_no_long_number_and_no_free_text(texts: list[str]) -> None:
    path = find_parameter(f"param text['{text}'] param to.{text}" for text in texts)

    assert path is None or re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+|\[[0-9]{1,2}\])*", path)
    assert "jane" not in (path or "")


@pytest.mark.parametrize("data", ['{"details":"Param to is bad"}', '"Param to is bad"', "[1]"])
def test_the_details_count_before_the_message(data: str) -> None:
    body = f'{{"error":{{"code":100,"message":"Param type is bad","error_data":{data}}}}}'

    found = classify(400, {}, body.encode()).diagnostics.parameter

    assert found == ("type" if data == "[1]" else "to")


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("text", "text"),
        ("text.body", "text"),
        ("text.preview_url", "previewUrl"),
        ("participants[3].user", "waIds"),
        ("type", None),
        (None, None),
    ],
)
def test_a_member_has_the_name_by_which_its_caller_knows_it(
    parameter: str | None, name: str | None
) -> None:
    names = {"text": "text", "text.preview_url": "previewUrl", "participants": "waIds"}

    assert renamed(parameter, names) == name
