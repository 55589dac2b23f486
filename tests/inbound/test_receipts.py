import msgspec
from hypothesis import given
from hypothesis import strategies as st

from wats.inbound.receipts import MAX_CHARACTERS, Leased, ReceiptBook
from wats.privacy import Secret
from wats.telemetry.contract.values import UpdateKind

OLD, NEW = Secret("the-old-app-secret"), Secret("the-new-app-secret")
LEASED = Leased(
    consumer="batch",
    number="15551234567",
    id=2**62,
    update_id=2**62,
    siblings=3,
    ordering_key=-(2**63),
    attempt=1000,
    lease=2**62 - 1,
    kind=UpdateKind.MESSAGE,
    arrived_ms=1_790_000_000_000,
    leased_ms=1_790_000_000_000,
    traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
)


def test_a_receipt_is_read_by_any_process_with_the_secret() -> None:
    receipt = ReceiptBook([OLD]).issue(LEASED)

    assert ReceiptBook([OLD]).read(receipt) == LEASED
    assert len(receipt) < MAX_CHARACTERS / 2
    assert receipt.isascii()


def test_a_receipt_outlives_the_rotation_of_the_secret() -> None:
    receipt = ReceiptBook([OLD]).issue(LEASED)

    assert ReceiptBook([NEW, OLD]).read(receipt) == LEASED
    assert ReceiptBook([NEW]).read(receipt) is None


def test_a_changed_receipt_is_invalid() -> None:
    book = ReceiptBook([OLD])
    receipt = book.issue(LEASED)
    changed = [
        receipt[:place] + ("A" if character != "A" else "B") + receipt[place + 1 :]
        for place, character in enumerate(receipt[:-1])
    ]

    assert [book.read(each) for each in changed] == [None] * len(changed)


@given(st.text(max_size=2 * MAX_CHARACTERS))
def test_no_other_text_is_a_receipt(text: str) -> None:
    assert ReceiptBook([OLD]).read(text) is None


@given(st.binary(max_size=200))
def test_a_receipt_of_another_form_is_invalid(data: bytes) -> None:
    """A later version may issue receipts with other members."""
    book = ReceiptBook([OLD])
    other = book.issue(msgspec.convert([data], type=list))  # type: ignore[arg-type]

    assert book.read(other) is None
