"""Reads the results of a store's operations, for assertions."""

from collections.abc import Sequence

from wats.store import Store
from wats.store.admin import StoredDelivery
from wats.store.records import Delivery, Received


def payloads(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def update_ids(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.update_id for delivery in deliveries]


def leased(results: Sequence[Received | None]) -> list[Delivery]:
    """Return all deliveries that were leased on arrival."""
    return [delivery for each in results if each is not None for delivery in each.leased]


def waiting(results: Sequence[Received | None]) -> list[int | None]:
    """Return how many deliveries of each update are pending; `None` for a known update."""
    return [None if each is None else each.waiting for each in results]


async def dead_letters(store: Store) -> Sequence[StoredDelivery]:
    """Return all dead letters of a small store."""
    return await store.dead_letters(limit=10_000)
