import base64
import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config import (
    EnvRef,
    FileRef,
    GraphConfig,
    NumberConfig,
    PersistenceConfig,
    ProfileSource,
    Secrets,
    SecretSources,
    ServiceConfig,
    SubscriberConfig,
    TokenConfig,
    WebhookConfig,
    WhatsAppConfig,
)
from wats.inspection.secret_search import Haystack, Needle, SearchMode, needles
from wats.privacy import Secret
from wats.testing import example_secrets

SECRET = "k7/Qz+9x:Wm2!Rt5&Yp8 Vb3"
NUMBER = "482915037612945"
ACCOUNT = "739164208851307"


def profile(**changes: object) -> ProfileSource:
    made = ProfileSource(
        name="test",
        graph=GraphConfig(api_version="v25.0", base_url="https://graph.facebook.com"),
        whatsapp=WhatsAppConfig(waba_id=ACCOUNT, phone_number_id=NUMBER),
        webhook=WebhookConfig(path="/hooks/5e1f"),
        service=ServiceConfig(
            host="10.1.2.3", port=8787, api_prefix="/api", public_url="https://wa.example.org"
        ),
        persistence=PersistenceConfig(url="sqlite:////var/lib/gateway/messages.db"),
        secrets=SecretSources(
            access_token=(EnvRef("SHOP_ACCESS_TOKEN"),),
            verify_token=(FileRef("secrets/verify"),),
            app_secrets=(EnvRef("SHOP_APP_SECRET"),),
            bearer_tokens=(EnvRef("SHOP_TOKEN"),),
        ),
    )
    return replace(made, **changes)


def keys_in(text: str, **changes: object) -> list[str]:
    secrets = Secrets(
        access_token=Secret("EAAJZCq0ZBpXyz1234"),
        verify_token=Secret("Geheimwort für Meta"),
        app_secrets=(Secret("an-old-secret-1234"), Secret("Y0ung3rS3cr3t")),
        bearer_tokens=(Secret("f1e2d3c4b5a69788"),),
    )
    return Haystack(text).keys_of(needles(profile(**changes), secrets))


CRM = SubscriberConfig(
    name="crm", url="https://crm.example.org/hooks/Zx81", secrets=(EnvRef("SHOP_CRM_SECRET"),)
)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a whsec_q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ b", "subscribers.secret"),
        ("host crm.example.org", "subscribers.url"),
        ("POST /hooks/Zx81", "subscribers.url"),
        ("a Zx81 b", "subscribers.url"),
        ("SHOP_CRM_SECRET=1", "the place of subscribers.secret"),
    ],
)
def test_the_secrets_and_addresses_of_subscribers_are_found(text: str, key: str) -> None:
    subscribers = {"crm": (Secret("whsec_q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ"),)}
    secrets = example_secrets(subscribers=subscribers)

    found = Haystack(text).keys_of(needles(profile(subscribers=(CRM,)), secrets))

    assert found == [key]


def keys_of_subscriber(text: str, url: str, name: str = "crm") -> list[str]:
    subscriber = SubscriberConfig(name=name, url=url, secrets=(EnvRef("SHOP_CRM_SECRET"),))
    return keys_in(text, subscribers=(subscriber,))


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://crm.example/whatsapp", "crm.example"),
        ("http://bot-3:8080/webhook", "bot-3"),
        ("https://crm.example/in/a8Fq", "a8Fq"),
        ("https://crm.example/qwmzkvjxhplrtnbd", "qwmzkvjxhplrtnbd"),
        ("https://crm.example/in/7f3b9c20/updates", "7f3b9c20"),
        ("https://crm.example/correct-horse", "correct-horse"),
        ("https://crm.example/in?key=Zx81Qq&v=2", "Zx81Qq"),
        ("https://crm.example/in?Zx81Qq", "Zx81Qq"),
        ("https://crm.example/in/ab%2Bcd", "ab+cd"),
        ("https://crm.example/in/ab%2Bcd", "ab%2Bcd"),
    ],
)
def test_each_part_of_the_url_of_a_subscriber_is_found(url: str, part: str) -> None:
    assert keys_of_subscriber(f"before {part} after", url) == ["subscribers.url"]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://127.0.0.1:9911/whatsapp", "127.0.0.1 whatsapp"),
        ("https://crm.example/whatsapp", '"whatsapp": {}'),
        ("http://bot:8080/webhook", '"bot" "/webhook"'),
        ("https://crm.example/api/v1/messages", "/api/messages v1 api/v1/messages"),
        ("https://crm.example/subscribers", '"subscribers": []'),
        ("https://crm.example/in?v=2", "v 2 in"),
    ],
)
def test_a_common_word_in_the_url_of_a_subscriber_is_not_found(url: str, text: str) -> None:
    assert keys_of_subscriber(text, url) == []


def test_a_host_named_like_its_subscriber_is_not_found() -> None:
    url = "http://order-service-2:8080/hook"

    assert keys_of_subscriber("order-service-2", url, name="order-service-2") == []
    assert keys_of_subscriber("order-service-2", url) == ["subscribers.url"]


def test_a_common_word_as_database_host_or_secret_file_is_not_found() -> None:
    sources = replace(profile().secrets, verify_token=(FileRef("token"),))
    persistence = PersistenceConfig(url="postgresql://wats@postgres/wats")

    assert keys_in("postgres token", persistence=persistence, secrets=sources) == []


def test_the_number_in_the_form_of_meta_is_found() -> None:
    shown = WhatsAppConfig(
        waba_id=ACCOUNT, phone_number_id=NUMBER, display_phone_number="15550009876"
    )

    assert keys_in("+1 555 000-9876", whatsapp=shown) == ["whatsapp.displayPhoneNumber"]


def has_secret(text: str) -> bool:
    return Haystack(text).keys_of([Needle("x", Secret(SECRET), SearchMode.SECRET)]) == ["x"]


HIDDEN_FORMS = {
    "as it is": SECRET,
    "in capitals": SECRET.upper(),
    "in JSON": json.dumps({"a": SECRET}),
    "escaped slashes": SECRET.replace("/", "\\/"),
    "percent-encoded": quote(SECRET, safe=""),
    "percent-encoded in part": quote(SECRET),
    "percent-encoded in small letters": quote(SECRET, safe="").lower(),
    "hexadecimal": SECRET.encode().hex(),
    "hexadecimal in capitals": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "basic credentials": base64.b64encode(b"user:" + SECRET.encode()).decode(),
    "its beginning": f"{SECRET[:12]}…",
    "its end": f"…{SECRET[-12:]}",
    "its middle in base64": base64.b64encode(SECRET[5:20].encode()).decode(),
}


@pytest.mark.parametrize("text", HIDDEN_FORMS.values(), ids=HIDDEN_FORMS)
def test_a_secret_is_found_in_any_form(text) -> None:
    assert has_secret(f"some words before: {text} and after")


@pytest.mark.parametrize("text", ["", "[REDACTED]", SECRET[:8], SECRET[::-1], "Qz+9xQz+9x"])
def test_a_short_or_common_value_is_not_a_secret(text) -> None:
    assert not has_secret(text)


@given(before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_is_found_at_every_offset(before, after) -> None:
    text = base64.b64encode(before + SECRET.encode() + after).decode()

    assert has_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        NUMBER,
        f"id={NUMBER}",
        f"x{NUMBER}y",
        "4829 1503 7612 945",
        "(482) 915-037-612-945",
        "48291503…",
        "…37612945",
    ],
)
def test_an_id_is_found_however_its_digits_are_written(text) -> None:
    assert keys_in(text) == ["whatsapp.phoneNumberId"]


@pytest.mark.parametrize("text", ["4829150", "482915 series, 37612 of them new", "12345678"])
def test_a_few_digits_are_no_id(text) -> None:
    assert keys_in(text) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"in {ACCOUNT}.", "whatsapp.wabaId"),
        ("GET /hooks/5e1f HTTP/1.1", "webhook.path"),
        ("GET %2Fhooks%2F5e1f", "webhook.path"),
        ("https://wa.example.org/", "service.publicUrl"),
        ("10.1.2.3:8787", "service.host"),
        ("no such file: /var/lib/gateway/messages.db", "persistence.url"),
        ("an-old-secret-1234", "webhook.appSecret"),
        ("y0ung3rs3cr3t", "webhook.appSecret"),
        ("Geheimwort%20f%C3%BCr%20Meta", "webhook.verifyToken"),
        ("$SHOP_ACCESS_TOKEN is not set", "the place of auth.accessToken"),
        ("secrets/verify", "the place of webhook.verifyToken"),
    ],
)
def test_personal_data_is_recognized_by_its_key(text, key) -> None:
    assert keys_in(text) == [key]


@pytest.mark.parametrize("text", ["10.1.2.34", "SHOP_ACCESS_TOKENS", "Xwa.example.org"])
def test_a_name_is_a_whole_word(text) -> None:
    assert keys_in(text) == []


def test_a_value_that_is_in_every_installation_is_not_personal_data() -> None:
    common = {
        "webhook": WebhookConfig(path="/webhook"),
        "service": ServiceConfig(host="127.0.0.1", port=8787, api_prefix="/api"),
        "graph": GraphConfig(api_version="v25.0", base_url="http://localhost:9"),
        "persistence": PersistenceConfig(url=None),
    }
    text = "/webhook 127.0.0.1 localhost graph.facebook.com"

    assert keys_in(text, **common) == []


def test_an_account_id_may_be_a_word() -> None:
    words = WhatsAppConfig(waba_id="acme-messaging", phone_number_id=NUMBER)

    assert keys_in("of acme-messaging", whatsapp=words) == ["whatsapp.wabaId"]


def test_a_key_is_reported_once() -> None:
    assert keys_in(f"an-old-secret-1234 Y0ung3rS3cr3t {NUMBER} {NUMBER}") == [
        "webhook.appSecret",
        "whatsapp.phoneNumberId",
    ]


def test_ids_and_secrets_of_numbers_and_tokens_are_found(subtests: pytest.Subtests) -> None:
    number = NumberConfig(
        name="paris",
        phone_number_id="593026148723056",
        waba_id="840275319962418",
        access_tokens=(EnvRef("PARIS_TOKEN"),),
    )
    token = TokenConfig(name="crm", tokens=(FileRef("secrets/crm"),), scopes=("messages:read",))
    service = replace(profile().service, tokens=(token,))
    made = profile(numbers=(number,), service=service)
    secrets = example_secrets(
        access_tokens={"paris": Secret("EAAParisToken98765")},
        api_tokens={"crm": (Secret("a1b2c3d4e5f6g7h8i9"),)},
    )
    for text, key in (
        ("id 593026148723056", "numbers.phoneNumberId"),
        ("id 840275319962418", "numbers.wabaId"),
        ("Bearer EAAParisToken98765", "numbers.accessToken"),
        ("PARIS_TOKEN=1", "the place of numbers.accessToken"),
        ("Bearer a1b2c3d4e5f6g7h8i9", "service.tokens.token"),
        ("open secrets/crm", "the place of service.tokens.token"),
        (f"id {NUMBER}", "whatsapp.phoneNumberId"),
    ):
        with subtests.test(key):
            assert key in Haystack(text).keys_of(needles(made, secrets))
    assert Haystack("paris crm").keys_of(needles(made, secrets)) == []
