from importlib import import_module
from typing import get_args

import pytest

from wats import Message, content
from wats.content import Edit, Interactive, Location, Media, Reaction, Text
from wats.inbound.content import CONTENT_TYPES, Contacts
from wats.inbound.message_types import MESSAGE_CLASSES, AnyMessage, InboundOther
from wats.inbound.updates import Update


def described(update: Update) -> object:
    match update.message:
        case Text(body=body):
            return "text", body
        case Media(mime_type=mime_type, media_id=media_id):
            return mime_type, media_id
        case Location(latitude=latitude, longitude=longitude):
            return latitude, longitude
        case Reaction(emoji=emoji):
            return "reaction", emoji
        case Interactive(button_reply=content.ButtonReply(title=title)):
            return "button", title
        case Message(type=kind):
            return "other", kind
        case None:
            return None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("message_text", ("text", "Hello from the fake corpus")),
        ("message_audio_voice", ("audio/ogg; codecs=opus", "500000000000015")),
        ("message_location_pin_only", (0.0, 0.0)),
        ("message_reaction_removed_empty", ("reaction", "")),
        ("message_interactive_button_reply", ("button", "Yes")),
        ("message_future_type", ("other", "fake_future_type")),
        ("status_sent", None),
    ],
)
def test_a_message_matches_the_class_of_its_content(name, expected, body, read) -> None:
    assert described(read(body(name)).updates[0]) == expected


def test_the_members_of_the_message_take_precedence_over_those_of_its_content(update) -> None:
    message = update("message_edit_text").message

    assert isinstance(message, Edit)
    assert (message.type, message.content.type) == ("edit", "text")
    assert message.content.content == Text(body="Hello, edited")


def test_the_id_of_a_picture_is_that_of_the_message(update) -> None:
    message = update("message_image").message

    assert isinstance(message, Media)
    assert message.id.startswith("wamid.")
    assert message.media_id == message.content.id != message.id


def test_messages_of_different_authors_are_different(update) -> None:
    one = update("message_text").message
    other = update("message_text", **{"from": "15550003333"}).message

    assert one == update("message_text").message
    assert one != other
    assert one.content == other.content


def test_a_text_without_a_body_is_an_empty_text(update) -> None:
    message = update("message_text", text={}).message

    assert isinstance(message, Text)
    assert message.body == ""


def test_every_content_has_a_class_of_messages() -> None:
    contents = {*CONTENT_TYPES.values(), Contacts, Edit}

    assert set(MESSAGE_CLASSES) == contents
    assert {*MESSAGE_CLASSES.values(), InboundOther} == set(get_args(AnyMessage))
    assert all(issubclass(each, known) for known, each in MESSAGE_CLASSES.items())


def test_the_contents_have_one_module_for_applications() -> None:
    assert content is import_module("wats.content")
    assert content.Text is Text
