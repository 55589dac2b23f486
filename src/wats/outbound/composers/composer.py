"""A composer: a short form of a message, checked and converted to Graph's form. No I/O."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from wats.errors import Detail
from wats.outbound.composers.common import ID
from wats.outbound.composers.values import Constant, Field, Json, Record, TextValue
from wats.outbound.messages import (
    BSUID_PATTERN,
    RECIPIENT_PATTERN,
    Fields,
    Outgoing,
    digits_of,
    group_id_mistakes,
    person_mistakes,
)

_OPTIONS = (
    Field("bizOpaqueCallbackData", "biz_opaque_callback_data", TextValue(512)),
    Field("replyToMessageId", "context.message_id", ID),
)
"""The keys that composers have in addition to their content."""


class Composer:
    """One value of `type`, with the keys of its content.

    Args:
        kind: The value of `type` in the short form.
        graph_type: The value of `type` in Graph's form.
        summary: The message in one sentence.
        members: The content, with positions in Graph's whole body.
        rules: Rules over several keys.
        is_reply: Whether it can quote another message.
        is_for_groups: Whether its recipient is a group instead of a person.
    """

    def __init__(
        self,
        kind: str,
        graph_type: str,
        summary: str,
        members: tuple[Field | Constant, ...],
        rules: tuple[Any, ...] = (),
        *,
        is_reply: bool = True,
        is_for_groups: bool = False,
    ) -> None:
        self.kind = kind
        self.graph_type = graph_type
        self.summary = summary
        self.is_for_groups = is_for_groups
        self.content = Record((*members, *(_OPTIONS if is_reply else ())), rules)
        self._envelope = frozenset({"type", "to", "recipient", "recipientType"})

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The caller's names for Graph's paths."""
        names = {each.graph: each.name for each in self.content.fields}
        return {"to": "to", "recipient": "recipient", **names}

    def is_meant(self, fields: Fields) -> bool:
        """Return whether *fields* have a key of the content."""
        return any(field.key_in(fields) is not None for field in self.content.fields)

    def mistakes(self, fields: Fields, *, strict: bool) -> Iterator[Detail]:
        """Yield all mistakes of *fields*; if *strict*, also unknown keys."""
        yield from self._recipient_mistakes(fields)
        content = {key: value for key, value in fields.items() if key not in self._envelope}
        yield from self.content.mistakes(content, "", strict=strict)

    def _recipient_mistakes(self, fields: Fields) -> Iterator[Detail]:
        kind = "group" if self.is_for_groups else "individual"
        if fields.get("recipientType", kind) != kind:
            yield Detail("recipientType", f"must be '{kind}' for this type")
        yield from group_id_mistakes(fields) if self.is_for_groups else person_mistakes(fields)

    def build(self, fields: Fields) -> Json:
        """Return the valid *fields* in Graph's form."""
        built: Json = {"messaging_product": "whatsapp"}
        if self.is_for_groups:
            built["recipient_type"] = "group"
        built |= {key: fields[key] for key in ("to", "recipient") if key in fields}
        return {**built, "type": self.graph_type, **self.content.build(fields)}

    def record_of(self, fields: Fields) -> Outgoing:
        """Return the record of the valid *fields*, without content."""
        to = str(fields["to"] if "to" in fields else fields["recipient"])
        is_number = "to" in fields and not self.is_for_groups
        return Outgoing(
            type=self.graph_type,
            recipient=digits_of(to) if is_number else to,
            is_group=self.is_for_groups,
            names=self.names,
        )

    @property
    def schema_name(self) -> str:
        """The name of the schema in the OpenAPI document."""
        return f"{self.kind[0].upper()}{self.kind[1:]}Message"

    def schema(self) -> Json:
        """Return the JSON schema of a valid body."""
        content = self.content.schema()
        recipients: Json = {"to": {"type": "string", "pattern": f"^{RECIPIENT_PATTERN}$"}}
        if self.is_for_groups:
            recipients = {"to": {"type": "string", "minLength": 1, "maxLength": 256}}
        else:
            recipients["recipient"] = {"type": "string", "pattern": f"^{BSUID_PATTERN}$"}
        needed = [] if len(recipients) > 1 else ["to"]
        any_of: Json = {"anyOf": [{"required": [name]} for name in recipients]}
        return {
            "title": self.schema_name,
            "description": self.summary,
            "type": "object",
            "properties": {"type": {"const": self.kind}, **recipients, **content["properties"]},
            "required": ["type", *needed, *content.get("required", [])],
            "allOf": [*content.get("allOf", []), any_of],
        }
