import pytest

from wats.inspection.existence_probe import Trial

NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    b'content-length: 2\r\nserver: x\r\n\r\n{"'
)


def trial(*unknown: bytes, **hidden: bytes) -> Trial:
    return Trial(
        "GET without a token", unknown, {f"/{name}": each for name, each in hidden.items()}
    )


def test_identical_responses_are_hidden_despite_different_dates() -> None:
    later = NOT_FOUND.replace(b"12:00:00", b"12:00:07")

    tried = trial(NOT_FOUND, later, metrics=later, status=NOT_FOUND)

    assert tried.differences() == []
    assert not tried.is_vague()


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (NOT_FOUND.replace(b"404 Not Found", b"401 Unauthorized"), "the status"),
        (NOT_FOUND.replace(b"404 Not Found", b"404 Hidden"), "the status"),
        (NOT_FOUND.replace(b"1.1 404", b"1.0 404"), "the status"),
        (NOT_FOUND.replace(b"server: x", b"server: y"), "the headers"),
        (NOT_FOUND.replace(b"server: x\r\n", b""), "the headers"),
        (NOT_FOUND.replace(b"server: x", b"server: x\r\nallow: GET"), "the headers"),
        (
            NOT_FOUND.replace(b"server: x\r\n", b"").replace(b"content", b"server: x\r\ncontent"),
            "the headers",
        ),
        (NOT_FOUND[:-1] + b"[", "the body"),
        (b"", "the status"),
    ],
)
def test_a_different_response_is_detected(answer, part) -> None:
    tried = trial(NOT_FOUND, NOT_FOUND, metrics=answer, status=NOT_FOUND)

    assert tried.differences() == [f"GET without a token: /metrics ({part})"]


def test_a_header_that_always_varies_is_ignored() -> None:
    def numbered(number: int) -> bytes:
        return NOT_FOUND.replace(b"server: x", b"x-request-id: %d" % number)

    tried = trial(numbered(1), numbered(2), metrics=numbered(3))

    assert tried.differences() == []
    assert trial(numbered(1), numbered(2), metrics=NOT_FOUND).differences() != []
    assert not tried.is_vague()


def test_a_page_that_is_always_another_one_makes_it_vague() -> None:
    pages = [NOT_FOUND + b"%d" % number for number in range(3)]

    tried = trial(pages[0], pages[1], metrics=pages[2])

    assert tried.differences() == []
    assert tried.is_vague()
    # It is a difference nevertheless.
    assert trial(pages[0], pages[1], metrics=pages[2].replace(b"404", b"401")).differences() != []


def test_varying_statuses_make_the_result_inconclusive() -> None:
    assert trial(NOT_FOUND, NOT_FOUND.replace(b"404", b"429"), metrics=NOT_FOUND).is_vague()
