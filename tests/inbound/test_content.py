from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.inbound import content
from wats.inbound.content import (
    Button,
    ButtonReply,
    CallPermissionReply,
    ContactPhone,
    Edit,
    Interactive,
    ListReply,
    Location,
    Media,
    NfmReply,
    OrderItem,
    Part,
    ProductListReply,
    ProductReply,
    Reaction,
    ReferredProduct,
    Revoke,
    System,
    Text,
    Unsupported,
    read,
    read_content,
)

MOMENT = datetime.fromtimestamp(1_750_604_800, UTC)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("message_text", Text(body="Hello from the fake corpus")),
        (
            "message_audio_voice",
            Media(
                id="500000000000015",
                mime_type="audio/ogg; codecs=opus",
                sha256="ZmFrZS12b2ljZS1oYXNoLTAwMDAwMDAwMDAwMDAwMDA=",
                voice=True,
            ),
        ),
        ("message_location_pin_only", Location(latitude=0.0, longitude=0.0)),
        ("message_button", Button(payload="FAKE_PAYLOAD_STOP", text="Stop promotions")),
        ("message_reaction_removed_empty", Reaction(message_id="wamid.FAKEOUT000030", emoji="")),
        ("message_revoke", Revoke(original_message_id="wamid.FAKE00000001")),
        ("message_unsupported_with_type", Unsupported(type="poll")),
        ("message_unsupported", None),
        ("message_future_type", None),
        ("message_request_welcome", None),
        (
            "message_system_user_changed_user_id",
            System(
                type="user_changed_user_id",
                body="User Test Person changed user id",
                wa_id="15550002222",
                user_id="US.1000000000000000002",
                parent_user_id="US.ENT.1000000000000000002",
            ),
        ),
        (
            "message_interactive_button_reply",
            Interactive(type="button_reply", button_reply=ButtonReply(id="btn-yes", title="Yes")),
        ),
        (
            "message_interactive_list_reply_no_description",
            Interactive(type="list_reply", list_reply=ListReply(id="row-2", title="Row two")),
        ),
        (
            "message_interactive_call_permission_reply_accept",
            Interactive(
                type="call_permission_reply",
                call_permission_reply=CallPermissionReply(
                    response="accept",
                    is_permanent=False,
                    expiration_timestamp=MOMENT,
                    response_source="user_action",
                ),
            ),
        ),
        (
            "message_interactive_product_reply",
            Interactive(
                type="product_reply",
                product_reply=ProductReply(
                    catalog_id="300000000000003", product_retailer_id="FAKE-SKU-1"
                ),
            ),
        ),
        (
            "message_interactive_product_list_reply",
            Interactive(
                type="product_list_reply",
                product_list_reply=ProductListReply(
                    catalog_id="300000000000003",
                    product_items=(
                        ReferredProduct(product_retailer_id="FAKE-SKU-1"),
                        ReferredProduct(product_retailer_id="FAKE-SKU-2"),
                    ),
                ),
            ),
        ),
        ("message_interactive_unknown_subtype", Interactive(type="fake_future_reply")),
        (
            "message_edit_text",
            Edit(
                original_message_id="wamid.FAKE00000001",
                type="text",
                context=content.Context(id="wamid.FAKEOUT000031"),
                content=Text(body="Hello, edited"),
            ),
        ),
    ],
)
def test_the_content_of_a_message_is_typed(name, expected, update) -> None:
    assert update(name).message.content == expected


def test_a_form_is_decoded_on_first_access(update) -> None:
    reply = update("message_interactive_nfm_reply_flow").message.content.nfm_reply

    assert reply.name == "flow"
    assert reply.response == {"flow_token": "FAKE_FLOW_TOKEN", "choice": "b", "count": 2}


@pytest.mark.parametrize(
    "response", [None, "", "{not json", '"\\ud800"', "\ud800", "[" * 5_000, "1e999"]
)
def test_a_form_that_is_no_json_has_no_response(response) -> None:
    assert NfmReply(response_json=response).response is None


def test_an_order_is_read_with_numbers_in_either_form(update) -> None:
    order = update("message_order").message.content

    assert order.text == "Please deliver to the back door"
    assert [(item.quantity, item.item_price) for item in order.product_items] == [
        (2, 30.5),
        (1, 25.0),
    ]


def test_contact_cards_are_read_with_all_their_parts(update) -> None:
    (card,) = update("message_contacts").message.content.contacts

    assert card.name.formatted_name == "Dr Fake Q Person Jr"
    assert card.phones[0] == ContactPhone(phone="+1 555-000-4444", wa_id="15550004444", type="CELL")
    assert card.addresses[0].country_code == "zz"
    assert (card.org.company, card.urls[0].type, card.birthday) == (
        "Example Ltd",
        "WORK",
        "2000-01-01",
    )


def test_a_shared_contact_is_marked_as_requested(update) -> None:
    contacts = update("message_contacts_request_reply").message.content

    assert contacts.origin == "contact_request"
    assert contacts.contacts[0].vcard.startswith("BEGIN:VCARD")


def test_contacts_that_are_no_list_are_no_content(update) -> None:
    assert update("message_contacts", contacts={"name": "x"}).message.content is None


@pytest.mark.parametrize(("emoji", "is_removal"), [("\U0001f600", False), ("", True), (None, True)])
def test_a_reaction_without_an_emoji_is_a_removal(emoji, is_removal) -> None:
    assert Reaction(message_id="a", emoji=emoji).is_removal is is_removal


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        pytest.param("x", None, id="no-object"),
        pytest.param({}, Edit(), id="empty"),
        pytest.param({"message": "x"}, Edit(), id="no-message"),
        pytest.param({"message": {"type": 7}}, Edit(), id="no-type"),
        pytest.param(
            {"message": {"type": "edit", "edit": {"message": {"type": "text"}}}},
            Edit(type="edit"),
            id="of-an-edit",
        ),
    ],
)
def test_an_edit_is_read_as_far_as_it_can_be(edit, expected) -> None:
    assert read_content({"type": "edit", "edit": edit}) == expected


@pytest.mark.parametrize(
    ("part", "raw", "expected"),
    [
        pytest.param(Media, {"id": 5, "caption": []}, Media(id="5"), id="id-as-number"),
        pytest.param(Media, {"voice": "true", "id": "5"}, Media(id="5", voice=True), id="boolean"),
        pytest.param(Text, {"body": True}, Text(), id="boolean-is-no-text"),
        pytest.param(Text, {"body": "null"}, Text(body="null"), id="the-word-null"),
        pytest.param(Location, {"latitude": "x", "longitude": "1.5"}, Location(longitude=1.5)),
        pytest.param(
            OrderItem, {"quantity": 2.5, "item_price": 1}, OrderItem(item_price=1.0), id="half"
        ),
        pytest.param(
            CallPermissionReply,
            {"expiration_timestamp": 10**30, "response": "accept"},
            CallPermissionReply(response="accept"),
            id="no-time",
        ),
        pytest.param(
            CallPermissionReply,
            {"expiration_timestamp": "253402300800", "response": "accept"},
            CallPermissionReply(response="accept"),
            id="time-in-the-year-10000",
        ),
        pytest.param(
            CallPermissionReply,
            {"expiration_timestamp": "2025-01-01T00:00:00"},
            CallPermissionReply(),
            id="time-without-zone",
        ),
        pytest.param(
            content.ContactCard,
            {
                "phones": [{"phone": 5, "type": []}, "x"],
                "emails": 7,
                "name": "x",
                "org": {"title": 1},
            },
            content.ContactCard(
                phones=(ContactPhone(phone="5"),), org=content.ContactOrganization(title="1")
            ),
            id="nested",
        ),
    ],
)
def test_a_leaf_of_another_type_is_left_out_and_nothing_else(part, raw, expected) -> None:
    assert read(part, raw) == expected


@pytest.mark.parametrize("raw", [None, "x", 7, [], [{}]])
def test_a_value_that_is_not_an_object_gives_no_part(raw) -> None:
    assert read(Text, raw) is None


PARTS = [
    part for part in vars(content).values() if isinstance(part, type) and issubclass(part, Part)
]
NAMES = sorted({name for part in PARTS for name in part.__struct_encode_fields__})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            "1750000000",
            "253402300800",
            "1e400",
            "-1",
            "true",
            "null",
            "inf",
            "nan",
            "x",
            "2025-01-01",
        ]
    )
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=30,
)


@given(part=st.sampled_from(PARTS), raw=JSON)
def test_no_json_makes_reading_a_part_raise(part: type[Part], raw: Any) -> None:
    assert read(part, raw) is None or isinstance(raw, dict)
