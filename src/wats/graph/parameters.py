"""Find the member of a request that the text of an error of Meta names. No I/O.

The text can quote the request, so only names of a closed list are taken from it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_MOST_CHARACTERS: Final = 2000

_NAMED: Final = re.compile(
    r"""\bparam(?:eter)?[ ]+["'`]?([a-z_]{1,40})"""
    r"""((?:\[["'`]?[a-z0-9_]{1,40}["'`]?\]|\.[a-z_]{1,40})*)""",
    re.IGNORECASE,
)
_STEP: Final = re.compile(r"[A-Za-z0-9_]+")
_INDEX: Final = re.compile("[0-9]{1,2}")

_ROOTS: Final = frozenset(
    re.findall(
        r"\w+",
        """
    audio biz_opaque_callback_data contacts context description document image interactive
    join_approval_mode join_requests location message_id messaging_product participants pin
    reaction recipient recipient_type status sticker subject template text to type
    typing_indicator video
    """,
    )
)
"""The members at the top of a request."""

_MEMBERS: Final = _ROOTS | frozenset(
    re.findall(
        r"\w+",
        """
    action address addresses amount amount_1000 birthday body button buttons caption card_index
    cards catalog_id city code company components copy_code country country_code coupon_code
    currency data date_time department discount display_text email emails emoji expiration_days
    expiration_time_ms fallback_value filename first_name flow_action flow_action_data
    flow_action_payload flow_cta flow_id flow_message_version flow_name flow_token footer
    formatted_name header id index items language last_name latitude limited_time_offer link
    longitude middle_name mode name offset order order_details order_status org parameter_name
    parameters payload payment_settings payment_type phone phones policy prefix preview_url product
    product_items product_retailer_id quantity quick_reply reference_id reply retailer_id rows
    sale_amount saved_addresses screen sections shipping state street sub_type subtotal suffix
    tap_target_configuration tax thumbnail_product_retailer_id title total_amount ttl_minutes url
    urls user validation_errors value values voice wa_id zip
    """,
    )
)


def find_parameter(texts: Iterable[str]) -> str | None:
    """Return the path of the first member that one of *texts* names, such as `text.body`.

    A path ends before the first step that is not a member of Graph's requests.
    """
    for text in texts:
        for root, rest in _NAMED.findall(text[:_MOST_CHARACTERS]):
            if root in _ROOTS:
                return f"{root}{_steps(rest)}"
    return None


def known_path(path: str) -> str | None:
    """Return *path* up to its first step that is not a member of Graph's requests."""
    return find_parameter([f"parameter {path}"])


def _steps(rest: str) -> str:
    path = ""
    for step in _STEP.findall(rest):
        if _INDEX.fullmatch(step):
            path += f"[{int(step)}]"
        elif step in _MEMBERS:
            path += f".{step}"
        else:
            break
    return path


def renamed(parameter: str | None, names: Mapping[str, str]) -> str | None:
    """Return the caller's name for *parameter*, whose own form of the request has *names*.

    The keys are Graph's paths. A member without a name, of which the caller knows nothing, has the
    name of the member that holds it, or none.
    """
    while parameter and parameter not in names:
        parameter = parameter[: max(parameter.rfind("."), parameter.rfind("["), 0)]
    return names[parameter] if parameter else None
