"""Composers: short forms of messages in camelCase, each a row of a table. No I/O.

    body ─▶ composer_of ─▶ mistakes of the keys, with paths ─▶ Graph's form, and its record

A row states the keys, their limits and their positions in Graph's form. Checks, payloads, JSON
schemas and the documentation follow from the table.
"""

from collections.abc import Mapping
from typing import Final

from wats.outbound.composers import basic, interactive, template
from wats.outbound.composers.composer import Composer
from wats.outbound.messages import Fields

COMPOSERS: Final[Mapping[str, Composer]] = {
    each.kind: each for each in (*basic.COMPOSERS, *interactive.COMPOSERS, *template.COMPOSERS)
}
"""All composers, by their `type`."""


def composer_of(fields: Fields) -> Composer | None:
    """Return the composer of *fields*; `None` if it is in Graph's form.

    Some values of `type` exist in both forms. Graph's form has the content in an object of the
    name of the type; without that object, a body with `messaging_product` and no key of the
    composer is a defective message in Graph's form.
    """
    kind = fields.get("type")
    composer = COMPOSERS.get(kind) if isinstance(kind, str) else None
    if composer is None or composer.kind != composer.graph_type:
        return composer
    if isinstance(fields.get(composer.kind), dict):
        return None
    is_graphs = "messaging_product" in fields and (
        composer.kind in fields or not composer.is_meant(fields)
    )
    return None if is_graphs else composer
