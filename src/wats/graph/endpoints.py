"""The calls of Graph that applications may make through wats: a table of paths. No I/O.

A path that is not in the table is refused, so that a service token does not open everything that
the access token opens: for example it cannot unsubscribe the app from webhooks, or change the URL
to which Meta sends them.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wats.telemetry.contract.values import EndpointFamily, Method

_MESSAGES, _MEDIA = EndpointFamily.MESSAGES, EndpointFamily.MEDIA
_TEMPLATES, _FLOWS = EndpointFamily.TEMPLATES, EndpointFamily.FLOWS
_GROUPS, _OTHER = EndpointFamily.GROUPS, EndpointFamily.UNKNOWN
_GET, _POST, _DELETE = Method.GET, Method.POST, Method.DELETE


class Service(Enum):
    """The way in which wats serves a call."""

    PASS = "passed on"  # noqa: S105  # a word
    SEND = "as `POST P/messages`"
    MARKETING = "as `POST P/marketing_messages`"
    UPLOAD = "as `POST P/media`"
    DELETE_FILE = "as `DELETE P/media/:mediaId`"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of Graph below its version, with the methods that are served.

    Attributes:
        path: The path: `{number}` is a configured phone number id, `{account}` a configured
            WhatsApp Business Account, `{id}` the digits of any other object, `{group}` the id of a
            group, `{code}` that of a QR code, and `{upload}` a session of a resumable upload.
        methods: The methods.
        family: Its family in telemetry.
        service: The way in which it is served.
    """

    path: str
    methods: tuple[Method, ...]
    family: EndpointFamily
    service: Service = Service.PASS

    @property
    def is_of_number(self) -> bool:
        """Whether the path begins with a phone number id."""
        return self.path.startswith("{number}")


ENDPOINTS: Final = (
    Endpoint("{number}/messages", (_POST,), _MESSAGES, Service.SEND),
    Endpoint("{number}/marketing_messages", (_POST,), _MESSAGES, Service.MARKETING),
    Endpoint("{number}/media", (_POST,), _MEDIA, Service.UPLOAD),
    Endpoint("{account}/message_templates", (_GET, _POST, _DELETE), _TEMPLATES),
    Endpoint("{account}/upsert_message_templates", (_POST,), _TEMPLATES),
    Endpoint("{account}/migrate_message_templates", (_POST,), _TEMPLATES),
    Endpoint("{id}/compare", (_GET,), _TEMPLATES),
    Endpoint("{id}/unpause", (_POST,), _TEMPLATES),
    Endpoint("{account}/flows", (_GET, _POST), _FLOWS),
    Endpoint("{account}/migrate_flows", (_POST,), _FLOWS),
    Endpoint("{id}/assets", (_GET, _POST), _FLOWS),
    Endpoint("{id}/publish", (_POST,), _FLOWS),
    Endpoint("{id}/deprecate", (_POST,), _FLOWS),
    Endpoint("{number}/whatsapp_business_encryption", (_GET, _POST), _FLOWS),
    Endpoint("{number}/groups", (_GET, _POST), _GROUPS),
    Endpoint("{group}", (_GET, _POST, _DELETE), _GROUPS),
    Endpoint("{group}/invite_link", (_GET, _POST), _GROUPS),
    Endpoint("{group}/join_requests", (_GET, _POST, _DELETE), _GROUPS),
    Endpoint("{group}/participants", (_DELETE,), _GROUPS),
    Endpoint("{number}", (_GET,), _OTHER),
    Endpoint("{number}/whatsapp_business_profile", (_GET, _POST), _OTHER),
    Endpoint("{number}/whatsapp_commerce_settings", (_GET, _POST), _OTHER),
    Endpoint("{number}/conversational_automation", (_GET, _POST), _OTHER),
    Endpoint("{number}/settings", (_GET, _POST), _OTHER),
    Endpoint("{number}/username", (_GET, _POST, _DELETE), _OTHER),
    Endpoint("{number}/username_suggestions", (_GET,), _OTHER),
    Endpoint("{number}/block_users", (_GET, _POST, _DELETE), _OTHER),
    Endpoint("{number}/message_qrdls", (_GET, _POST), _OTHER),
    Endpoint("{number}/message_qrdls/{code}", (_GET, _POST, _DELETE), _OTHER),
    Endpoint("{number}/calls", (_POST,), _OTHER),
    Endpoint("{number}/call_permissions", (_GET,), _OTHER),
    Endpoint("{number}/request_code", (_POST,), _OTHER),
    Endpoint("{number}/verify_code", (_POST,), _OTHER),
    Endpoint("{number}/register", (_POST,), _OTHER),
    Endpoint("{account}", (_GET,), _OTHER),
    Endpoint("{account}/phone_numbers", (_GET,), _OTHER),
    Endpoint("{account}/subscribed_apps", (_GET,), _OTHER),
    Endpoint("{id}/uploads", (_POST,), _OTHER),
    Endpoint("{upload}", (_GET, _POST), _OTHER),
    Endpoint("{id}", (_GET, _POST, _DELETE), _OTHER),
)
"""Every call that is served, without its version."""

FILE_DELETION: Final = Endpoint("{id}", (_DELETE,), _MEDIA, Service.DELETE_FILE)
"""The deletion of an object that the client claims to be a file of a number."""

GROUP_ID: Final = re.compile(
    "(?![0-9]+(?:_|$))"  # an object of another kind, or a compound
    "(?![A-Za-z]{1,3}_)"  # a prefix for another kind
    "(?![a-z]+$|[A-Za-z]{1,8}$|[A-Za-z]*_[A-Za-z_]*$)"  # a word, in any case
    "[A-Za-z0-9_=-]{1,256}"
)
"""Meta's group ids are base64 without a fixed length. Media, templates, numbers and accounts are
all digits; posts, ad accounts and conversations are `1_2`, `act_1` and `t_1`; `me`, `app` and
`debug_token` are words."""

_VARIABLES: Final = {
    "id": re.compile("[1-9][0-9]{0,31}"),  # with a leading zero, it could be one of ours
    "group": GROUP_ID,
    "code": re.compile("[A-Za-z0-9]{1,64}"),
    "upload": re.compile("upload:[A-Za-z0-9+=_-]{1,512}"),
}

_VERSION: Final = re.compile(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?")


class Endpoints:
    """The table for the configured business numbers.

    Args:
        numbers: The phone number ids.
        accounts: The ids of the WhatsApp Business Accounts.
        has_groups: Whether groups are enabled.
    """

    def __init__(
        self, numbers: Collection[str], accounts: Collection[str], *, has_groups: bool
    ) -> None:
        self._ours = {"number": numbers, "account": accounts}
        rows = [each for each in ENDPOINTS if has_groups or each.family is not _GROUPS]
        self._rows = [(each.path.split("/"), each) for each in rows]

    def find(self, segments: Sequence[str]) -> Endpoint | None:
        """Return the row of *segments*, which follow the version; `None` if there is none."""
        for names, row in self._rows:
            if len(names) == len(segments) and all(map(self._fits, names, segments)):
                return row
        return None

    def _fits(self, name: str, segment: str) -> bool:
        if not name.startswith("{"):
            return name == segment
        name = name[1:-1]
        if name in self._ours:
            return segment in self._ours[name]
        is_ours = any(segment in ids for ids in self._ours.values())
        return not is_ours and _VARIABLES[name].fullmatch(segment) is not None


def version_of(text: str) -> tuple[int, int] | None:
    """Return the version in *text*, as in `v25.0`; `None` if it is not one."""
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2] or 0)) if found is not None else None
