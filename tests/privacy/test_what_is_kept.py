"""Of a message that was handled, the database keeps ids, times and kinds, and no content."""

from pathlib import Path

import pytest
import uvloop

from tests.privacy.canaries import Canaries
from tests.privacy.conftest import pull_everything
from tests.privacy.fake_graph import FakeGraph
from tests.privacy.service import Setup, running
from tests.privacy.wire import ask_all

KEPT_OF_WEBHOOKS = {
    "contacts[].user_id",
    "contacts[].wa_id",
    "messages[].from",
    "messages[].from_user_id",
    "messages[].id",
    "messages[].type",
    "metadata.phone_number_id",
    "phone_number_settings.phone_number_id",
    "recipient.phone_number_id",
    "statuses[].id",
    "statuses[].recipient_participant_id",
    "statuses[].status",
}
"""The fields kept of webhooks, and of sent messages: the recipient and Graph's response."""


async def keep(canaries: Canaries, folder: Path) -> str:
    """Run a service whose handler succeeds, and return the contents of its disk."""
    async with FakeGraph(canaries) as graph:
        setup = Setup(graph_url=graph.url, handler="listen")
        async with running(canaries, folder, setup) as service:
            asker = service.asker(canaries)
            asked = await ask_all(service.url, [*asker.webhooks(), *asker.messages()])
            assert sum(answer.status == 200 for _, answer in asked) > 5000
            await pull_everything(service, asker)
            await service.wait_for_handlers()
            # Messages that failed keep their content, until an operator discards them.
            where = ("--url", service.url, "--config", setup.config_name)
            await service.command("outbox", "discard", "--all", "--yes", *where)
            await service.stop()
    assert service.database is not None
    files = service.folder.glob(f"{service.database.name}*")
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


@pytest.mark.long
def test_of_handled_updates_only_ids_types_and_states_are_kept(tmp_path: Path) -> None:
    canaries = Canaries()

    found = canaries.found_in(uvloop.run(keep(canaries, tmp_path)))

    others = {place for place in found if ".value." not in place}
    assert {place.partition(".value.")[2] for place in found - others} == KEPT_OF_WEBHOOKS
    # Some of these, by Graph's response to each recipient.
    sent = {place for place in others if place.endswith((".to", ".recipient"))}
    answered = {place for place in others if place.startswith("Graph's ")}
    assert others == {*sent, *answered, "our number"}
    assert sent
    assert answered
