import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from pywa import types
from pywa.types import callback, templates
from pywa_async import WhatsApp
from pywa_async.errors import ReEngagementMessage, WhatsAppError

from tests.settings import NUMBER_ID, WABA_ID
from wats.config import GroupsConfig
from wats.testing import BEARER_TOKEN, example_secrets

TO: Final = "15550001234"
PERSON: Final = "US.15550001234"
WAMID: Final = "wamid.HBgLMTU1NTAwMDEyMzQVAgASGBQzQTAwMDAwMDAwMDAwMDAwMDAwMAA="
LINK: Final = "https://files.example/a"
PNG: Final = b"\x89PNG\r\n\x1a\n"
REPLY: Final = callback.Button(title="Yes", callback_data="yes")
URL_BUTTON: Final = callback.URLButton(title="Open", url="https://example.com")
ACCESS_TOKEN: Final = example_secrets().access_token.reveal()

Call = Callable[[WhatsApp], Awaitable[object]]

SENDS: Final[dict[str, Call]] = {
    "text": lambda wa: wa.send_message(TO, "Hello\n*you*", preview_url=True),
    "text to a user id": lambda wa: wa.send_message(PERSON, "Hello"),
    "reply with a tracker": lambda wa: wa.send_message(
        TO, "Hello", reply_to_message_id=WAMID, tracker="order-1"
    ),
    "buttons": lambda wa: wa.send_message(
        TO, "Which?", header="Size", footer="Thanks", buttons=[REPLY]
    ),
    "link": lambda wa: wa.send_message(TO, "Read", buttons=URL_BUTTON),
    "list": lambda wa: wa.send_message(
        TO,
        "Choose",
        buttons=callback.SectionList(
            "Menu",
            [callback.Section("One", [callback.SectionRow("A", "a", "first")])],
        ),
    ),
    "flow": lambda wa: wa.send_message(
        TO,
        "Begin",
        buttons=callback.FlowButton(
            "Start",
            flow_id="15550007777",
            flow_token="t",
            flow_action_type=types.FlowActionType.NAVIGATE,
            flow_action_screen="FIRST",
        ),
    ),
    "call": lambda wa: wa.send_message(TO, "Call us", buttons=callback.VoiceCallButton("Call", 60)),
    "call permission": lambda wa: wa.send_message(
        TO, "May we call?", buttons=callback.CallPermissionRequestButton()
    ),
    "contact request": lambda wa: wa.request_contact_info(TO, "Your number?"),
    "location request": lambda wa: wa.request_location(TO, "Where?"),
    "image": lambda wa: wa.send_image(TO, LINK, caption="One\nTwo"),
    "image with buttons": lambda wa: wa.send_image(TO, LINK, caption="One", buttons=[REPLY]),
    "video": lambda wa: wa.send_video(TO, LINK, caption="One"),
    "video with buttons": lambda wa: wa.send_video(TO, LINK, caption="One", buttons=URL_BUTTON),
    "document": lambda wa: wa.send_document(TO, LINK, filename="a.pdf", caption="One"),
    "document with buttons": lambda wa: wa.send_document(
        TO, LINK, filename="a.pdf", caption="One", buttons=[REPLY]
    ),
    "audio": lambda wa: wa.send_audio(TO, LINK),
    "voice": lambda wa: wa.send_voice(TO, LINK),
    "sticker": lambda wa: wa.send_sticker(TO, LINK),
    "reaction": lambda wa: wa.send_reaction(TO, "👍", WAMID),
    "removed reaction": lambda wa: wa.remove_reaction(TO, WAMID),
    "location": lambda wa: wa.send_location(TO, 37.5, -122.25, "Here", "1 Example Road"),
    "contact": lambda wa: wa.send_contact(
        TO,
        types.Contact(
            name=types.Contact.Name(formatted_name="A Person", first_name="A"),
            phones=[types.Contact.Phone(phone="+15550009999", type="WORK", wa_id="15550009999")],
            emails=[types.Contact.Email(email="a@example.com", type="WORK")],
        ),
    ),
    "catalog": lambda wa: wa.send_catalog(TO, "All", "Footer", thumbnail_product_sku="sku"),
    "product": lambda wa: wa.send_product(TO, "15550008888", "sku", "One", "Footer"),
    "products": lambda wa: wa.send_products(
        TO, "15550008888", [types.ProductsSection("Shirts", ["a", "b"])], "All", "These", "Footer"
    ),
    "carousel": lambda wa: wa.send_carousel(
        TO,
        body="Look",
        cards=[callback.ImageCarouselCard(image=LINK, body=each, buttons=[REPLY]) for each in "ab"],
    ),
    "template": lambda wa: wa.send_template(
        TO,
        "hello",
        templates.TemplateLanguage.ENGLISH_US,
        [
            templates.BodyText.params("A"),
            templates.QuickReplyButton.params(callback_data="x", index=0),
        ],
    ),
    "marketing template": lambda wa: wa.send_template(
        TO,
        "offer",
        templates.TemplateLanguage.ENGLISH_US,
        [],
        use_mm_lite_api=True,
        message_activity_sharing=True,
    ),
}
"""A call of every method of pywa that sends, with each kind of its buttons."""


@asynccontextmanager
async def client_of(base_url: str, token: str) -> AsyncIterator[WhatsApp]:
    """Run an unmodified client, whose session has another base URL than Meta's."""
    async with httpx.AsyncClient() as session:
        client = WhatsApp(NUMBER_ID, token, session=session, waba_id=WABA_ID)
        session.base_url = httpx.URL(base_url)
        yield client


@pytest.fixture
async def gateway(open_gateway: Any) -> AsyncIterator[Any]:
    async with open_gateway(groups=GroupsConfig(enabled=True)) as running:
        yield running


@pytest.fixture
async def direct(gateway: Any) -> AsyncIterator[WhatsApp]:
    async with client_of(f"{gateway.simulator.url}/v25.0", ACCESS_TOKEN) as client:
        yield client


@pytest.fixture
async def through(gateway: Any) -> AsyncIterator[WhatsApp]:
    async with client_of(f"{gateway.url}/api/graph/v25.0", BEARER_TOKEN) as client:
        yield client


def test_every_method_of_the_client_that_sends_is_called() -> None:
    called = {name for send in SENDS.values() for name in send.__code__.co_names}
    sending = {name for name in dir(WhatsApp) if re.match("send_|request_(?!ver)|remove_re", name)}

    assert sending - {"send_text"} <= called  # another name of send_message


async def test_every_message_of_pywa_is_the_same_through_wats(
    gateway: Any, direct: WhatsApp, through: WhatsApp, subtests: pytest.Subtests
) -> None:
    for name, send in SENDS.items():
        with subtests.test(name):
            await send(direct)
            sent: Any = await send(through)

            expected, found = gateway.simulator.accepted[-2:]
            assert found.payload == expected.payload
            assert sent.id == found.wamid

    recorded = await gateway.messages()
    assert len(recorded) == len(SENDS)


async def test_messages_to_a_group_are_the_same_through_wats(
    gateway: Any, direct: WhatsApp, through: WhatsApp
) -> None:
    await through.create_group(subject="Team")
    listed = await through.api.send_raw_request("GET", f"/{NUMBER_ID}/groups")
    group = await through.get_group(listed["data"]["groups"][0]["id"])
    for client in (direct, through):
        await client.send_message(group.id, "Hello")
        await client.pin_message(group.id, WAMID, expiration_days=7)
        await client.unpin_message(group.id, WAMID)

    accepted = [message.payload for message in gateway.simulator.accepted]
    assert accepted[:3] == accepted[3:]


async def test_read_marks_go_through_wats(gateway: Any, through: WhatsApp) -> None:
    await through.mark_message_as_read(WAMID)
    await through.indicate_typing(WAMID)

    assert gateway.simulator.counts.read_marks == 2


async def test_files_go_through_wats(gateway: Any, through: WhatsApp) -> None:
    media = await through.upload_media(PNG, mime_type="image/png", filename="a.png")
    await through.send_image(TO, media.id)
    found = await through.get_media_url(media.id)
    content = await through.get_media_bytes(found.url)
    deleted = await through.delete_media(media.id, phone_id=NUMBER_ID)
    with pytest.raises(WhatsAppError):
        await through.get_media_url(media.id)

    assert found.url == f"{gateway.url}/api/media/{media.id}/content"
    assert (content, found.mime_type, bool(deleted)) == (PNG, "image/png", True)
    assert gateway.simulator.accepted[-1].payload["image"] == {"id": media.id}


def template(name: str) -> templates.Template:
    return templates.Template(
        name=name,
        language=templates.TemplateLanguage.ENGLISH_US,
        category=templates.TemplateCategory.MARKETING,
        components=[templates.BodyText("Hello"), templates.FooterText(text="Bye")],
    )


async def test_templates_go_through_wats(direct: WhatsApp, through: WhatsApp) -> None:
    for client, name in ((direct, "first"), (through, "second"), (through, "third")):
        await client.create_template(template(name))
    page = await through.get_templates(pagination=types.Pagination(limit=2))
    names = [each.name async for each in _all(page)]
    (second,) = await through.get_templates(name="second")
    updated = await through.update_template(second.id, new_components=[templates.BodyText("Hi")])
    (seen_directly,) = await direct.get_templates(name="second")
    await through.delete_template("first")

    assert names == ["first", "second", "third"]
    assert updated.success
    seen_through = await through.get_template(second.id)
    assert str(seen_through.components) == str(seen_directly.components) == "[BodyText(text='Hi')]"
    assert [each.name for each in await direct.get_templates()] == ["second", "third"]


async def test_a_link_to_the_next_page_leads_through_wats_without_the_access_token(
    gateway: Any, direct: WhatsApp, through: WhatsApp
) -> None:
    for name in ("first", "second"):
        await direct.create_template(template(name))
    path, first = f"/{WABA_ID}/message_templates", {"limit": 1}
    with_token = await direct.api.send_raw_request("GET", path, params=first)
    page = await through.api.send_raw_request("GET", path, params=first)
    link = page["paging"]["next"]
    following = await through.api.send_raw_request("GET", link)

    assert ACCESS_TOKEN in with_token["paging"]["next"]
    assert ACCESS_TOKEN not in str(page)
    assert link.startswith(f"{gateway.url}/api/graph/v25.0/")
    assert [each["name"] for each in following["data"]] == ["second"]


async def test_flows_go_through_wats(direct: WhatsApp, through: WhatsApp) -> None:
    created = await through.create_flow("Survey", [types.FlowCategory.SURVEY])
    await through.update_flow_json(created.id, {"version": "7.0", "screens": []})
    (asset,) = await through.get_flow_assets(created.id)
    await through.update_flow_metadata(created.id, name="Poll")
    await through.publish_flow(created.id)
    (flow,) = await through.get_flows()
    with pytest.raises(WhatsAppError) as refused:
        await through.delete_flow(created.id)
    await through.deprecate_flow(created.id)

    assert (asset.name, flow.name, flow.status) == ("flow.json", "Poll", "PUBLISHED")
    assert refused.value.code == 139004
    assert (await direct.get_flow(created.id)).status == "DEPRECATED"


async def test_the_number_and_its_profile_go_through_wats(
    direct: WhatsApp, through: WhatsApp
) -> None:
    await through.update_business_profile(about="Open")
    profile = await through.get_business_profile()
    number = await through.get_business_phone_number()

    assert profile == await direct.get_business_profile()
    assert (profile.about, number.id) == ("Open", NUMBER_ID)


async def test_a_refusal_is_the_exception_that_meta_would_cause(
    gateway: Any, direct: WhatsApp, through: WhatsApp
) -> None:
    for client in (direct, through):
        with pytest.raises(ReEngagementMessage) as refused:
            await client.send_message("19990131047", "Hello")
        assert refused.value.status_code == 400
    async with client_of(f"{gateway.url}/api/graph/v25.0", "wrong") as anonymous:
        with pytest.raises(WhatsAppError) as unauthorized:
            await anonymous.send_message(TO, "Hello")

    assert (unauthorized.value.code, unauthorized.value.status_code) == (190, 401)
    assert gateway.simulator.counts.sends == 0


async def test_an_idempotency_key_sends_once(gateway: Any, through: WhatsApp) -> None:
    body = {
        "messaging_product": "whatsapp",
        "to": TO,
        "type": "text",
        "text": {"body": "Hello"},
    }
    sent = [
        await through.api.send_raw_request(
            "POST", f"/{NUMBER_ID}/messages", json=body, headers={"Idempotency-Key": "order-1"}
        )
        for _ in range(2)
    ]

    assert sent[0] == sent[1]
    assert gateway.simulator.counts.sends == 1


async def _all(page: Any) -> AsyncIterator[Any]:
    while page:
        for each in page:
            yield each
        page = await page.next()
