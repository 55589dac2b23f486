"""Every fenced block of every page is tested in exactly one way, by a test that exists.

Blocks between the marks of `docs/generate.py` are not listed here: `tests/test_docs.py` compares
all of them with the source.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.pages import PAGES, ROOT, Block, blocks, blocks_of, commands_in, spans


class Way(Enum):
    """How a block is tested."""

    RUN = "its commands are run in a clean environment"
    USED = "it is written to a file, which is used by a program or a test"
    COMPARED = "it is compared with the output of a program"
    MEASURED = "it has the figures of a measurement, whose program is tested"
    DRAWN = "it is a diagram"


class Owner(NamedTuple):
    """The test of some blocks.

    Attributes:
        page: The page of the blocks; empty for any page.
        language: The language of the blocks.
        place: The heading above the blocks, or the file that they name; empty for all of the page.
        test: The path of the test's module, and its name.
    """

    page: str
    language: str
    place: str
    way: Way
    test: str

    def owns(self, page: str, block: Block) -> bool:
        return (
            self.page in ("", page)
            and self.language == block.language
            and self.place in ("", block.heading, block.name)
        )


README, ALERTS, API = "README.md", "docs/alerts.md", "docs/http-api.md"
CONFIGURATION, ERRORS, HANDLERS = "docs/configuration.md", "docs/errors.md", "docs/handlers.md"
OPERATING, POSTGRESQL, SIMULATOR = "docs/operating.md", "docs/postgresql.md", "docs/simulator.md"
TELEMETRY, BENCHMARKS = "docs/telemetry.md", "docs/benchmarks.md"

DOCS, WALK = "test_docs.py::test_", "test_docs_telemetry.py::test_"
OF_README = "docs/test_readme.py::test_every_step_of_the_readme_succeeds_and_its_bot_answers"
OF_CONFIG = "docs/test_configuration.py::test_"
OF_OPERATING = "docs/test_operating.py::test_"
OF_PROXIES = "docs/test_proxies.py::test_every_site_that_is_shown_is_accepted"
OF_POSTGRESQL = "docs/test_postgresql.py::test_a_store_moves_to_the_database_that_the_page_sets_up"
OF_HTTP = "docs/test_http.py::test_"
OF_BENCH = "test_bench.py::test_everything_is_measured_in_one_run"
OF_BACKUPS = f"{OF_OPERATING}a_backup_is_made_and_restored_as_it_is_shown"
OF_TOKENS = f"{WALK}a_token_is_changed_as_it_is_shown_without_a_moment_in_which_none_is_good"
OF_TELEMETRY = f"{WALK}every_command_that_is_shown_succeeds"
FIGURES = Way.MEASURED

OF_SUBSCRIBERS = "docs/test_subscribers.py::test_the_"

OF_PULLERS = "docs/test_pullers.py::test_the_"

OWNERS = [
    Owner(
        *("docs/pullers.md", "yaml", "", Way.USED),
        f"{OF_PULLERS}pullers_that_are_shown_are_valid",
    ),
    Owner(
        *("docs/pullers.md", "json", "Polling", Way.COMPARED),
        f"{OF_PULLERS}program_that_is_shown_handles_and_retries_updates",
    ),
    Owner(
        *("docs/pullers.md", "json", "Acknowledging", Way.USED),
        f"{OF_PULLERS}acknowledgement_that_is_shown_is_accepted",
    ),
    Owner(
        *("docs/pullers.md", "python", "poller.py", Way.USED),
        f"{OF_PULLERS}program_that_is_shown_handles_and_retries_updates",
    ),
    Owner(
        *("docs/subscribers.md", "yaml", "", Way.USED),
        f"{OF_SUBSCRIBERS}subscribers_that_are_shown_are_valid",
    ),
    Owner(
        *("docs/subscribers.md", "json", "", Way.COMPARED),
        f"{OF_SUBSCRIBERS}body_that_is_shown_has_the_members_of_a_request",
    ),
    Owner(
        *("docs/subscribers.md", "python", "receiver.py", Way.USED),
        f"{OF_SUBSCRIBERS}receiver_that_is_shown_verifies_requests",
    ),
    Owner(
        *("docs/sending.md", "sh", "", Way.RUN),
        f"{OF_HTTP}a_message_is_sent_later_as_it_is_shown",
    ),
    Owner(
        *("docs/graph-api.md", "python", "pywa_client.py", Way.USED),
        "docs/test_graph_api.py::test_the_client_that_is_shown_sends_through_wats",
    ),
    Owner(
        *("docs/graph-api.md", "json", "Errors", Way.COMPARED),
        "docs/test_graph_api.py::test_the_error_that_is_shown_is_that_of_a_closed_window",
    ),
    Owner("", "nginx", "", Way.USED, OF_PROXIES),
    Owner("", "caddyfile", "", Way.USED, OF_PROXIES),
    # `make demo` is run; the other targets are run by CI.
    Owner(README, "sh", "", Way.RUN, OF_README),
    Owner(README, "python", "orders.py", Way.USED, OF_README),
    Owner(
        *(README, "python", "gateway.py", Way.USED),
        f"{DOCS}the_application_of_the_readme_calls_its_handlers",
    ),
    Owner("ARCHITECTURE.md", "text", "", Way.DRAWN, ""),
    Owner("docs/design.md", "text", "", Way.DRAWN, ""),
    Owner(
        *("CONTRIBUTING.md", "sh", "Documentation", Way.RUN),
        "docs/test_contributing.py::"
        "test_stale_generated_files_are_renewed_by_the_commands_that_are_shown",
    ),
    Owner(
        *(ALERTS, "yaml", "Alerts", Way.USED),
        f"{OF_OPERATING}prometheus_accepts_the_label_that_is_shown_for_runbooks",
    ),
    # `make bench` takes minutes: the test runs its command with shorter rounds.
    Owner(BENCHMARKS, "sh", "Benchmarks", Way.RUN, OF_BENCH),
    Owner(BENCHMARKS, "text", "Webhooks", FIGURES, OF_BENCH),
    Owner(BENCHMARKS, "text", "Sends and subscribers", FIGURES, OF_BENCH),
    Owner(BENCHMARKS, "text", "An older run", FIGURES, OF_BENCH),
    Owner(
        *(BENCHMARKS, "text", "The queue on PostgreSQL, over time", FIGURES),
        "test_bench.py::test_a_soak_reports_every_table",
    ),
    Owner(
        *(BENCHMARKS, "text", "Subscribers that fail or sleep", FIGURES),
        "test_bench.py::test_the_delays_of_a_subscriber_are_measured_alone_and_next_to_others",
    ),
    Owner(
        *(CONFIGURATION, "yaml", "Configuration", Way.USED),
        f"{OF_CONFIG}the_config_files_that_are_shown_are_valid",
    ),
    *(
        Owner(
            *(CONFIGURATION, "yaml", section, Way.USED),
            f"{OF_CONFIG}the_numbers_and_tokens_that_are_shown_are_valid",
        )
        for section in ("Numbers", "Tokens of clients")
    ),
    Owner(
        *(CONFIGURATION, "sh", "Secrets", Way.RUN),
        f"{OF_CONFIG}the_commands_for_tokens_write_secrets_that_the_service_accepts",
    ),
    Owner(
        *(CONFIGURATION, "dotenv", "Env files", Way.USED),
        f"{OF_CONFIG}the_env_file_that_is_shown_has_the_documented_values",
    ),
    Owner(
        *(CONFIGURATION, "text", "Validation errors", Way.COMPARED),
        f"{OF_CONFIG}the_mistakes_that_are_shown_are_reported_in_these_words",
    ),
    Owner(
        *(ERRORS, "text", "Causes", Way.COMPARED),
        f"{OF_CONFIG}a_database_that_cannot_be_opened_is_reported_in_the_shown_words",
    ),
    Owner(
        *(ERRORS, "json", "Errors", Way.COMPARED),
        f"{OF_HTTP}an_invalid_request_gets_the_error_that_is_shown",
    ),
    Owner(
        *(API, "sh", "Media", Way.RUN),
        f"{OF_HTTP}the_file_that_is_shown_is_uploaded_each_time",
    ),
    Owner(
        *("docs/cli.md", "sh", "Installation", Way.RUN),
        "test_package.py::test_the_commands_that_are_shown_install_the_package",
    ),
    Owner(
        *(SIMULATOR, "text", "Phones", Way.COMPARED),
        "simulator/test_phone.py::test_a_conversation_gives_the_lines_that_are_shown",
    ),
    *(
        Owner(page, "sh", place, Way.RUN, f"{OF_HTTP}each_message_that_is_shown_is_sent_once")
        for page, place in ((API, "Sending messages"), ("docs/messages.md", ""))
    ),
    Owner(
        *(API, "json", "The webhook", Way.COMPARED),
        f"{OF_HTTP}a_webhook_gets_the_counts_that_are_shown",
    ),
    *(
        Owner(
            *(SIMULATOR, language, "Simulator", way),
            f"{OF_HTTP}the_simulator_that_is_shown_verifies_the_webhook_and_delivers",
        )
        for language, way in (("python", Way.USED), ("sh", Way.RUN))
    ),
    *(
        Owner(HANDLERS, "python", name, Way.USED, test)
        for name, test in {
            "shop.py": f"{DOCS}a_handler_is_tested_with_an_update_as_it_is_shown",
            "test_shop.py": f"{DOCS}a_handler_is_tested_with_an_update_as_it_is_shown",
            "test_round_trip.py": f"{DOCS}a_handler_is_tested_with_a_fake_meta_as_it_is_shown",
            "support.py": f"{DOCS}a_handler_selects_updates_as_it_is_shown",
            "triage.py": f"{DOCS}a_handler_replies_as_it_is_shown",
            "replies.py": f"{DOCS}a_handler_replies_as_it_is_shown",
            "notify.py": f"{DOCS}a_handler_replies_as_it_is_shown",
            "tracing.py": "docs/test_handlers.py::"
            "test_a_handler_passes_its_trace_on_as_it_is_shown",
            "website.py": f"{DOCS}the_gateway_can_be_mounted_as_it_is_shown",
        }.items()
    ),
    Owner(
        *("docs/libraries.md", "python", "bot.py", Way.USED),
        "docs/test_libraries.py::test_the_client_of_pywa_that_is_shown_replies_through_wats",
    ),
    Owner(
        *("docs/libraries.md", "js", "", Way.USED),
        "acceptance/test_libraries.py::"
        "test_unmodified_applications_of_three_libraries_reply_through_one_gateway",
    ),
    Owner(
        *("docs/updates.md", "python", "watch.py", Way.USED),
        f"{DOCS}a_handler_reads_the_content_of_an_update_as_it_is_shown",
    ),
    Owner(OPERATING, "sh", "Tokens", Way.RUN, OF_TOKENS),
    Owner(OPERATING, "yaml", "Tokens", Way.USED, OF_TOKENS),
    Owner(
        *(OPERATING, "ini", "systemd", Way.USED),
        f"{OF_OPERATING}the_unit_of_systemd_starts_the_service",
    ),
    *(
        Owner(
            *(OPERATING, language, "Containers", way),
            f"{OF_OPERATING}the_image_that_is_shown_starts_the_service",
        )
        for language, way in (("sh", Way.RUN), ("dockerfile", Way.USED))
    ),
    Owner(OPERATING, "sh", "Backups", Way.RUN, OF_BACKUPS),
    Owner(OPERATING, "yaml", "restore-pod.yaml", Way.USED, OF_BACKUPS),
    *(
        Owner(
            *(OPERATING, "sh", heading, Way.RUN),
            f"{OF_OPERATING}the_commands_for_updates_and_people_succeed",
        )
        for heading in ("Erasing a person", "Outstanding updates", "Dead letters", "Messages")
    ),
    *(
        Owner(POSTGRESQL, language, "", way, OF_POSTGRESQL)
        for language, way in (("sh", Way.RUN), ("sql", Way.RUN), ("yaml", Way.USED))
    ),
    Owner(TELEMETRY, "sh", "", Way.RUN, OF_TELEMETRY),
    Owner(TELEMETRY, "yaml", "", Way.USED, OF_TELEMETRY),
    Owner(
        *(OPERATING, "sh", "Development", Way.RUN),
        "cli/test_serve_reload.py::"
        "test_a_change_of_a_handler_restarts_the_service_in_a_new_process",
    ),
    Owner(
        *(TELEMETRY, "text", "Hidden endpoints", Way.COMPARED),
        f"{WALK}the_documented_response_without_a_token_is_accurate",
    ),
    *(
        Owner(TELEMETRY, "python", name, Way.USED, test)
        for name, test in {
            "sink.py": f"{DOCS}the_documented_sink_counts_refused_messages",
            "journal.py": f"{WALK}the_journal_that_is_shown_has_the_life_and_the_failures_of_a_"
            "service",
            "observed.py": f"{WALK}the_documented_application_exports_its_telemetry",
        }.items()
    ),
]


def written_blocks() -> Iterator[tuple[str, Block]]:
    """Yield every block of every page that is not generated."""
    for page, text in PAGES.items():
        generated = set()
        for marked in re.finditer(r"<!-- ([a-z-]+): begin -->.*?<!-- \1: end -->", text, re.DOTALL):
            first = text.count("\n", 0, marked.start()) + 1
            generated |= {*range(first, first + marked[0].count("\n") + 1)}
        for block in blocks_of(text):
            if block.line not in generated:
                yield page, block


def test_every_block_has_exactly_one_owner() -> None:
    faults = []
    for page, block in written_blocks():
        count = sum(owner.owns(page, block) for owner in OWNERS)
        if count != 1:
            name = block.name or block.heading
            faults.append(f"{page}:{block.line}: {count} owners of {block.language} in {name!r}")

    assert not faults, "\n".join(["Add the test of the block to OWNERS.", *faults])


def test_every_owner_has_a_block() -> None:
    found = list(written_blocks())

    unused = [owner for owner in OWNERS if not any(owner.owns(*each) for each in found)]

    assert unused == []


def test_every_owner_is_a_test_that_exists() -> None:
    missing = []
    for owner in OWNERS:
        module, _, name = owner.test.partition("::")
        path = ROOT / "tests" / module
        if owner.way is not Way.DRAWN and f"def {name}(" not in path.read_text("utf-8"):
            missing.append(owner.test)

    assert missing == []


def test_every_fence_belongs_to_a_block() -> None:
    for page, text in PAGES.items():
        fences = [number for number, line in enumerate(text.splitlines(), 1) if "```" in line]

        assert len(fences) == 2 * len(blocks_of(text)), page


def commands_of_pages() -> Iterator[tuple[str, str]]:
    """Yield each command of a page, in a block or within a sentence."""
    for page, text in PAGES.items():
        for block in blocks(page, "sh"):
            yield from ((page, command) for command in commands_in(block))
        yield from ((page, span) for span in spans(text))


def test_every_extra_that_is_named_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {
        extra
        for _, command in commands_of_pages()
        if command.startswith("pip install ")
        for extra in re.findall(r"wats\[(\w+)\]", command)
    }

    assert named == set(project["optional-dependencies"])


def test_every_option_of_a_benchmark_that_is_named_exists() -> None:
    named: dict[str, set[str]] = {}
    for _, command in commands_of_pages():
        if found := re.match(r"python -m (bench[.\w]*)(.*)$", command):
            words = set(re.findall(r"--[a-z-]+|(?<=--only )[\w-]+", found[2]))
            named.setdefault(found[1], set()).update(words)

    modules = ("bench", "bench.erase", "bench.instructions", "bench.isolation", "bench.soak")
    assert set(named) == set(modules)
    for module, words in named.items():
        command = [sys.executable, "-m", module, "--help"]
        wide = {**os.environ, "COLUMNS": "500"}  # so that no name is divided
        shown = subprocess.check_output(command, cwd=ROOT, env=wide, text=True)
        assert words <= set(re.findall(r"[\w-]+", shown)), module
