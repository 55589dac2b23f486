"""The meaning of a request does not depend on how its bytes were cut into segments."""

import random

import pytest

from tests.process.http.wire import (
    SMUGGLED,
    conversation,
    converse,
    cuts,
    head,
    post,
    serving_site,
    statuses_of,
    update,
)
from wats.process.http.site import Site


@pytest.fixture
async def site() -> Site:
    async with serving_site() as running:
        yield running


@pytest.mark.parametrize(
    "seeds", [range(500), pytest.param(range(500, 5_000), marks=pytest.mark.long)]
)
async def test_a_pipeline_gets_responses_in_order_for_every_cut(site: Site, seeds: range) -> None:
    for seed in seeds:
        choose = random.Random(seed)
        sent, expected = conversation(choose)

        answers = await converse(site, cuts(choose, sent))

        assert statuses_of(answers) == expected, seed
        if seed % 5 == 0:
            assert answers == await converse(site, [sent]), seed


async def test_every_cut_of_a_pipeline_gives_the_same_responses(site: Site) -> None:
    offer = ("connection: upgrade", "upgrade: h2c")
    sent = post(update(1), *offer) + head("GET /healthz", *offer) + post(SMUGGLED, *offer)
    whole = await converse(site, [sent])

    for place in range(1, len(sent)):
        assert await converse(site, [sent[:place], sent[place:]]) == whole, place
    assert await converse(site, [bytes([byte]) for byte in sent]) == whole
    assert statuses_of(whole) == [200, 200, 400]
