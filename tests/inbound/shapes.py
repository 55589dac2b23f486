"""The documented form of every webhook, from which bodies are generated.

A leaf is a strategy for its value in each form in which Meta writes it; a list has one element.
"""

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8
)
ID = st.integers(1, 10**15).map(str) | st.integers(1, 10**15)
NUMBER = st.integers(0, 10**6) | st.integers(0, 10**6).map(str)
FRACTION = st.floats(0, 10**6, width=32) | st.integers(0, 10**6)
TIME = st.integers(1, 4 * 10**9) | st.integers(1, 4 * 10**9).map(str)
TIME_TEXT = st.integers(1, 4 * 10**9).map(str)
FLAG = st.booleans()

ERROR = {
    "code": NUMBER,
    "title": TEXT,
    "message": TEXT,
    "href": TEXT,
    "details": TEXT,
    "error_data": {"details": TEXT},
}
MEDIA = {
    "id": ID,
    "mime_type": TEXT,
    "sha256": TEXT,
    "caption": TEXT,
    "filename": TEXT,
    "url": TEXT,
    "voice": FLAG,
    "animated": FLAG,
}
CARD = {
    "name": {
        "formatted_name": TEXT,
        "first_name": TEXT,
        "middle_name": TEXT,
        "last_name": TEXT,
        "prefix": TEXT,
        "suffix": TEXT,
    },
    "phones": [{"phone": TEXT, "wa_id": ID, "type": TEXT}],
    "emails": [{"email": TEXT, "type": TEXT}],
    "urls": [{"url": TEXT, "type": TEXT}],
    "addresses": [
        {
            "street": TEXT,
            "city": TEXT,
            "state": TEXT,
            "zip": TEXT,
            "country": TEXT,
            "country_code": TEXT,
            "type": TEXT,
        }
    ],
    "org": {"company": TEXT, "department": TEXT, "title": TEXT},
    "birthday": TEXT,
    "vcard": TEXT,
}
PRODUCT = {"catalog_id": ID, "product_retailer_id": TEXT}
CONTEXT = {
    "id": TEXT,
    "from": ID,
    "forwarded": FLAG,
    "frequently_forwarded": FLAG,
    "referred_product": PRODUCT,
}
REPLIES = {
    "button_reply": {"id": TEXT, "title": TEXT},
    "list_reply": {"id": TEXT, "title": TEXT, "description": TEXT},
    "nfm_reply": {"name": TEXT, "body": TEXT, "response_json": TEXT},
    "call_permission_reply": {
        "response": TEXT,
        "is_permanent": FLAG,
        "expiration_timestamp": TIME,
        "response_source": TEXT,
    },
    "product_reply": PRODUCT,
    "product_list_reply": {"catalog_id": ID, "product_items": [PRODUCT]},
    "cta_url_reply": {"id": TEXT, "title": TEXT, "url": TEXT},
}
CONTENTS: dict[str, Any] = {
    "text": {"body": TEXT},
    **dict.fromkeys(("image", "video", "audio", "document", "sticker"), MEDIA),
    "location": {
        "latitude": FRACTION,
        "longitude": FRACTION,
        "name": TEXT,
        "address": TEXT,
        "url": TEXT,
    },
    "interactive": {"type": st.sampled_from(sorted(REPLIES)), **REPLIES},
    "button": {"payload": TEXT, "text": TEXT},
    "order": {
        "catalog_id": ID,
        "text": TEXT,
        "product_items": [
            {
                "product_retailer_id": TEXT,
                "quantity": NUMBER,
                "item_price": FRACTION,
                "currency": TEXT,
            }
        ],
    },
    "reaction": {"message_id": TEXT, "emoji": TEXT},
    "revoke": {"original_message_id": TEXT},
    "unsupported": {"type": TEXT, "title": TEXT, "description": TEXT},
}
SYSTEM = {
    "type": TEXT,
    "body": TEXT,
    "wa_id": ID,
    "new_wa_id": ID,
    "customer": ID,
    "user_id": TEXT,
    "parent_user_id": TEXT,
    "identity": TEXT,
}
FROM = {"from": ID, "from_user_id": ID, "from_parent_user_id": ID}
MESSAGE = {
    **FROM,
    "timestamp": TIME_TEXT,
    "group_id": ID,
    "context": CONTEXT,
    "referral": {
        "source_url": TEXT,
        "source_id": ID,
        "source_type": TEXT,
        "headline": TEXT,
        "body": TEXT,
        "media_type": TEXT,
        "image_url": TEXT,
        "video_url": TEXT,
        "thumbnail_url": TEXT,
        "ctwa_clid": TEXT,
        "welcome_message": {"text": TEXT},
    },
    "identity": {"acknowledged": FLAG, "created_timestamp": TIME, "hash": TEXT},
    "errors": [ERROR],
}
AMOUNT = {"value": NUMBER, "offset": NUMBER}
STATUS = {
    "status": st.sampled_from(["sent", "delivered", "read", "played", "failed", "deleted"]),
    "timestamp": TIME_TEXT,
    "recipient_id": ID,
    "recipient_type": st.sampled_from(["individual", "group"]),
    "recipient_user_id": ID,
    "recipient_parent_user_id": ID,
    "recipient_participant_id": ID,
    "recipient_participant_user_id": ID,
    "recipient_participant_parent_user_id": ID,
    "conversation": {"id": TEXT, "expiration_timestamp": TIME, "origin": {"type": TEXT}},
    "pricing": {"billable": FLAG, "pricing_model": TEXT, "category": TEXT, "type": TEXT},
    "errors": [ERROR],
    "message_status": TEXT,
    "biz_opaque_callback_data": TEXT,
}
PAYMENT = {
    "reference_id": TEXT,
    "amount": AMOUNT,
    "currency": TEXT,
    "receipt": TEXT,
    "transaction": {
        "id": ID,
        "type": TEXT,
        "status": TEXT,
        "created_timestamp": TIME,
        "updated_timestamp": TIME,
        "amount": AMOUNT,
        "currency": TEXT,
        "method": {"type": TEXT},
        "error": {"code": TEXT, "reason": TEXT},
    },
}
CALL = {
    **FROM,
    "id": TEXT,
    "to": ID,
    "to_user_id": ID,
    "to_parent_user_id": ID,
    "event": st.sampled_from(["connect", "terminate"]),
    "direction": st.sampled_from(["USER_INITIATED", "BUSINESS_INITIATED"]),
    "timestamp": TIME,
    "session": {"sdp_type": TEXT, "sdp": TEXT},
    "status": TEXT,
    "start_time": TIME,
    "end_time": TIME,
    "duration": NUMBER,
    "biz_opaque_callback_data": TEXT,
    "cta_payload": TEXT,
    "deeplink_payload": TEXT,
    "errors": [ERROR],
}
CALL_STATUS = {
    "id": TEXT,
    "type": st.just("call"),
    "status": st.sampled_from(["RINGING", "ACCEPTED", "REJECTED"]),
    "timestamp": TIME,
    "recipient_id": ID,
    "recipient_user_id": ID,
    "recipient_parent_user_id": ID,
    "biz_opaque_callback_data": TEXT,
}
GROUP = {"timestamp": TIME, "group_id": ID, "type": TEXT, "request_id": TEXT, "errors": [ERROR]}
PARTICIPANT = {"input": TEXT, "wa_id": ID, "user_id": ID, "parent_user_id": ID, "username": TEXT}
SETTING = {"text": TEXT, "update_successful": FLAG, "errors": [ERROR]}
PICTURE = {"mime_type": TEXT, "sha256": TEXT, "update_successful": FLAG, "errors": [ERROR]}
IDS = {"previous": TEXT, "current": TEXT}
TEMPLATE = {
    "message_template_id": ID,
    "message_template_name": TEXT,
    "message_template_language": TEXT,
}
CONTROL = {"previous_owner_role": TEXT, "new_owner_role": TEXT, "metadata": TEXT}
ACCOUNT_UPDATE = {
    "event": TEXT,
    "country": TEXT,
    "phone_number": ID,
    "violation_info": {"violation_type": TEXT},
    "restriction_info": [{"restriction_type": TEXT, "expiration": TIME}],
    "ban_info": {"waba_ban_state": TEXT, "waba_ban_date": TEXT},
    "waba_info": {
        "waba_id": ID,
        "owner_business_id": ID,
        "ad_account_linked": ID,
        "partner_app_id": ID,
        "onboarding_status": TEXT,
        "lite_api_status": TEXT,
    },
    "disconnection_info": {"reason": TEXT, "partner_id": ID, "partner_name": TEXT},
    "auth_international_rate_eligibility": {
        "start_time": TIME,
        "exception_countries": [{"country_code": TEXT, "start_time": TIME}],
    },
    "partner_client_certification_info": {
        "client_business_id": ID,
        "status": TEXT,
        "rejection_reasons": [TEXT],
    },
    "volume_tier_info": {
        "tier_update_time": TIME,
        "pricing_category": TEXT,
        "tier": TEXT,
        "effective_month": TEXT,
        "region": TEXT,
    },
}
CALLING = {
    "status": TEXT,
    "call_icon_visibility": TEXT,
    "callback_permission_status": TEXT,
    "call_icons": {"restrict_to_user_countries": [TEXT]},
    "call_hours": {
        "status": TEXT,
        "timezone_id": TEXT,
        "weekly_operating_hours": [{"day_of_week": TEXT, "open_time": TEXT, "close_time": TEXT}],
        "holiday_schedule": [{"date": TEXT, "start_time": TEXT, "end_time": TEXT}],
    },
    "sip": {
        "status": TEXT,
        "servers": [{"hostname": TEXT, "port": NUMBER, "request_uri_user_params": {"KEY1": TEXT}}],
    },
}
SHOWN = {"display_phone_number": ID}
FLOW_ERROR = {"error_type": TEXT, "error_rate": FRACTION, "error_count": NUMBER}


def _message(kind: str, content: Any) -> tuple[str, str, Any]:
    return ("messages", "messages", {**MESSAGE, "id": TEXT, "type": st.just(kind), kind: content})


def _copy(field: str, member: str, **others: Any) -> tuple[str, str, Any]:
    kind, content = "text", CONTENTS["text"]
    copied = {**MESSAGE, "to": ID, "to_user_id": ID, "id": TEXT, "type": st.just(kind)}
    return field, member, {**copied, kind: content, **others}


SHAPES: dict[str, tuple[str, str, Any]] = {
    **{kind: _message(kind, content) for kind, content in CONTENTS.items()},
    "contacts": (
        *("messages", "messages"),
        {**MESSAGE, "id": TEXT, "type": st.just("contacts"), "contacts": [CARD], "origin": TEXT},
    ),
    "system": _message("system", SYSTEM),
    "edit": _message(
        "edit",
        {
            "original_message_id": TEXT,
            "message": {"context": CONTEXT, "type": st.just("image"), "image": MEDIA},
        },
    ),
    "request_welcome": (
        *("messages", "messages"),
        {**FROM, "id": TEXT, "timestamp": TIME_TEXT, "type": st.just("request_welcome")},
    ),
    "status": ("messages", "statuses", {**STATUS, "id": TEXT}),
    "payment": (
        *("messages", "statuses"),
        {
            "id": TEXT,
            "type": st.just("payment"),
            "status": TEXT,
            "recipient_id": ID,
            "payment": PAYMENT,
        },
    ),
    "user_action": (
        *("messages", "user_actions"),
        {
            "action_type": TEXT,
            "timestamp": TIME,
            "marketing_messages_link_click_data": {
                "click_component": TEXT,
                "product_id": TEXT,
                "click_id": TEXT,
                "tracking_token": TEXT,
            },
        },
    ),
    "error": ("messages", "errors", ERROR),
    "call": ("calls", "calls", CALL),
    "call_status": ("calls", "statuses", CALL_STATUS),
    "group_lifecycle": (
        *("group_lifecycle_update", "groups"),
        {
            **GROUP,
            "subject": TEXT,
            "description": TEXT,
            "invite_link": TEXT,
            "join_approval_mode": TEXT,
        },
    ),
    "group_participants": (
        *("group_participants_update", "groups"),
        {
            **GROUP,
            "reason": TEXT,
            "initiated_by": TEXT,
            "join_request_id": TEXT,
            "wa_id": ID,
            "user_id": ID,
            "added_participants": [PARTICIPANT],
            "removed_participants": [PARTICIPANT],
            "failed_participants": [{**PARTICIPANT, "errors": [ERROR]}],
        },
    ),
    "group_settings": (
        *("group_settings_update", "groups"),
        {
            **GROUP,
            "group_subject": SETTING,
            "group_description": SETTING,
            "profile_picture": PICTURE,
        },
    ),
    "group_status": ("group_status_update", "groups", GROUP),
    "user_preferences": (
        *("user_preferences", "user_preferences"),
        {
            "wa_id": ID,
            "user_id": ID,
            "detail": TEXT,
            "category": TEXT,
            "value": st.sampled_from(["stop", "resume"]),
            "signup_id": TEXT,
            "timestamp": TIME,
        },
    ),
    "user_id_update": (
        *("user_id_update", "user_id_update"),
        {"wa_id": ID, "detail": TEXT, "user_id": IDS, "parent_user_id": IDS, "timestamp": TIME},
    ),
    "history": (
        *("history", "history"),
        {
            "metadata": {"phase": NUMBER, "chunk_order": NUMBER, "progress": NUMBER},
            "threads": [
                {
                    "id": ID,
                    "messages": [_copy("", "", history_context={"status": TEXT})[2]],
                }
            ],
            "errors": [ERROR],
        },
    ),
    "history_message": _copy("history", "messages", history_context={"status": TEXT}),
    "smb_message_echoes": _copy("smb_message_echoes", "message_echoes"),
    "message_echoes": _copy("message_echoes", "message_echoes", message_creation_type=TEXT),
    "smb_app_state_sync": (
        *("smb_app_state_sync", "state_sync"),
        {
            "type": TEXT,
            "action": st.sampled_from(["add", "remove"]),
            "contact": {"full_name": TEXT, "first_name": TEXT, "phone_number": ID},
            "metadata": {"timestamp": TIME},
        },
    ),
    "automatic_events": (
        *("automatic_events", "automatic_events"),
        {
            "id": TEXT,
            "event_name": TEXT,
            "timestamp": TIME,
            "ctwa_clid": TEXT,
            "custom_data": {"currency": TEXT, "value": NUMBER},
        },
    ),
    "account_update": ("account_update", "", ACCOUNT_UPDATE),
    "account_alerts": (
        *("account_alerts", ""),
        {
            "entity_type": TEXT,
            "entity_id": ID,
            "alert_info": {
                "alert_severity": TEXT,
                "alert_status": TEXT,
                "alert_type": TEXT,
                "alert_description": TEXT,
            },
        },
    ),
    "account_review_update": ("account_review_update", "", {"decision": TEXT}),
    "account_settings_update": (
        *("account_settings_update", ""),
        {
            "type": TEXT,
            "timestamp": TIME,
            "phone_number_settings": {"phone_number_id": ID, "calling": CALLING},
        },
    ),
    "business_capability_update": (
        *("business_capability_update", ""),
        {
            "max_daily_conversation_per_phone": NUMBER,
            "max_daily_conversations_per_business": TEXT | NUMBER,
            "max_phone_numbers_per_business": NUMBER,
            "max_phone_numbers_per_waba": NUMBER,
        },
    ),
    "business_status_update": ("business_status_update", "", {"business_id": ID, "event": TEXT}),
    "phone_number_quality_update": (
        *("phone_number_quality_update", ""),
        {
            **SHOWN,
            "event": TEXT,
            "old_limit": TEXT,
            "current_limit": TEXT,
            "max_daily_conversations_per_business": TEXT | NUMBER,
        },
    ),
    "phone_number_name_update": (
        *("phone_number_name_update", ""),
        {
            **SHOWN,
            "decision": TEXT,
            "requested_verified_name": TEXT,
            "rejection_reason": TEXT | st.none(),
        },
    ),
    "security": ("security", "", {**SHOWN, "event": TEXT, "requester": ID}),
    "business_username_updates": (
        *("business_username_updates", ""),
        {**SHOWN, "username": TEXT, "status": TEXT},
    ),
    "message_template_status_update": (
        *("message_template_status_update", ""),
        {
            **TEMPLATE,
            "event": TEXT,
            "reason": TEXT | st.none(),
            "message_template_category": TEXT,
            "disable_info": {"disable_date": TEXT},
            "other_info": {"title": TEXT, "description": TEXT},
            "rejection_info": {"reason": TEXT, "recommendation": TEXT},
        },
    ),
    "message_template_quality_update": (
        *("message_template_quality_update", ""),
        {**TEMPLATE, "previous_quality_score": TEXT, "new_quality_score": TEXT},
    ),
    "message_template_components_update": (
        *("message_template_components_update", ""),
        {
            **TEMPLATE,
            "message_template_title": TEXT,
            "message_template_element": TEXT,
            "message_template_footer": TEXT,
            "message_template_buttons": [
                {
                    "message_template_button_type": TEXT,
                    "message_template_button_text": TEXT,
                    "message_template_button_url": TEXT,
                    "message_template_button_phone_number": ID,
                }
            ],
        },
    ),
    "template_category_update": (
        *("template_category_update", ""),
        {
            **TEMPLATE,
            "new_category": TEXT,
            "previous_category": TEXT,
            "correct_category": TEXT,
            "category_update_timestamp": TIME,
        },
    ),
    "template_correct_category_detection": (
        *("template_correct_category_detection", ""),
        {**TEMPLATE, "category": TEXT, "correct_category": TEXT},
    ),
    "flows": (
        *("flows", ""),
        {
            "flow_id": ID,
            "event": TEXT,
            "message": TEXT,
            "old_status": TEXT,
            "new_status": TEXT,
            "alert_state": TEXT,
            "threshold": NUMBER,
            "error_rate": FRACTION,
            "errors": [FLOW_ERROR],
            "p50_latency": NUMBER,
            "p90_latency": NUMBER,
            "requests_count": NUMBER,
            "availability": NUMBER,
            "warning": TEXT,
        },
    ),
    "partner_solutions": (
        *("partner_solutions", ""),
        {"event": TEXT, "solution_id": ID, "solution_status": TEXT},
    ),
    "payment_configuration_update": (
        *("payment_configuration_update", ""),
        {
            "configuration_name": TEXT,
            "provider_name": TEXT,
            "provider_mid": ID,
            "status": TEXT,
            "created_timestamp": TIME,
            "updated_timestamp": TIME,
        },
    ),
    "messaging_handovers": (
        *("messaging_handovers", ""),
        {
            "recipient": {"phone_number_id": ID, "display_phone_number": ID},
            "sender": {"phone_number": ID},
            "timestamp": TIME,
            "type": st.sampled_from(["control_passed", "control_taken"]),
            "control_passed": CONTROL,
            "control_taken": CONTROL,
        },
    ),
}
"""Field, member of the value that has the item (none if the value is the item), and the item."""

_REQUIRED = frozenset(
    {"id", "type", "from", "event", "text", "timestamp", "recipient_id", "contacts"}
)
_CONTACT = {
    "profile": {"name": TEXT, "username": TEXT},
    "wa_id": ID,
    "user_id": ID,
    "parent_user_id": ID,
    "identity_key_hash": TEXT,
}
_METADATA = {"display_phone_number": "15550001111", "phone_number_id": "200000000000002"}


def filled(shape: Any) -> st.SearchStrategy[Any]:
    """Return the strategy for values of *shape*, in which most members may be missing."""
    if isinstance(shape, st.SearchStrategy):
        return shape
    if isinstance(shape, list):
        return st.lists(filled(shape[0]), min_size=1, max_size=2)
    members = {name: filled(inner) for name, inner in shape.items()}
    needed = {name: member for name, member in members.items() if name in _REQUIRED}
    others = {name: member for name, member in members.items() if name not in _REQUIRED}
    return st.fixed_dictionaries(needed, optional=others)


@cache
def bodies(name: str) -> st.SearchStrategy[bytes]:
    """Return the strategy for the bodies with one item of the shape *name*."""
    field, member, shape = SHAPES[name]

    def body(item: Any, contact: Any) -> bytes:
        around = {"messaging_product": "whatsapp", "metadata": _METADATA, "contacts": [contact]}
        value = {**around, member: [item]} if member else item
        entry = {"id": "100000000000001", "changes": [{"field": field, "value": value}]}
        return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()

    return st.builds(body, filled(shape), filled(_CONTACT))
