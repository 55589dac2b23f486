"""Every line of the log is JSON, with keys and values of which the documentation has all."""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import wats
from tests.privacy.conftest import Output
from tests.privacy.log_lines import VALUES, documented_events, documented_keys, faults_of

SOURCE = Path(wats.__file__).parent


@cache
def modules() -> dict[str, ast.Module]:
    """Parse the modules of the package, by their paths, in the first test that reads them."""
    return {
        str(path.relative_to(SOURCE)): ast.parse(path.read_text("utf-8"))
        for path in SOURCE.rglob("*.py")
    }


@pytest.fixture(scope="module", autouse=True)
def forget_modules() -> Iterator[None]:
    """Free the parsed modules, which slow each garbage collection of later tests."""
    yield
    modules.cache_clear()


EXPRESSIONS = {
    "action": {"action"},  # in log_action: a literal
    "at": {"to_iso(self._now())", "to_iso(utc_now())"},
    "cause": {"error.cause"},
    "consumer": {"shown_name(consumer)"},
    "count": {"count"},  # in LineWriter: the number of dropped lines
    "errorName": {
        "error_name(error)",
        "error_name(failure)",
        "failure.error",
        "line[2]",  # in LibraryLog: an error_name
        "name",  # in FailureLog: an error_name
        "place[0]",  # in WarningLog: an error_name
        "refusal.name if refusal is not None else None",
    },
    "exitCode": {"slot.exit_code"},
    "fbtraceId": {"said.fbtrace_id"},
    "file": {
        "failure.place.file",
        "name",  # in WarningLog: the result of safe_file_name
        "place.file",
    },
    "handler": {"failure.handler"},
    "hint": {"NOT_STARTED_HINT"},
    "kind": {"failure.kind.value", "update.kind.value", "kind.value"},
    "level": {"line[1]"},
    "library": {"line[0]"},
    "line": {"failure.place.line", "place.line", "lineno"},
    "metaCode": {"said.meta_code", "None if failure is None else failure.meta_code"},
    "metaSubcode": {"said.meta_subcode", "None if failure is None else failure.meta_subcode"},
    "metaType": {"said.meta_type"},
    "messages": {"orphaned"},
    "method": {"method"},
    "outcome": {
        "OUTCOMES[error.may_have_happened]",
        "'sent' if failure is None else 'failed'",
        "outcome",  # in UpdateLog: a literal
    },
    "parameter": {"said.parameter"},
    "paths": {"failure.paths"},
    "policy": {"self._policy"},  # a word of the config
    "reason": {"reason.value"},
    "seconds": {"round(seconds)"},
    "status": {"failure.status", "status_of(failure)"},
    "subscriber": {"self.config.name"},
    "suppressed": {"suppressed"},
    "updateId": {"keyed.hexdigest()"},
    "updates": {"orphaned"},
    "worker": {"slot.row"},
}
"""Every expression that the code logs, reviewed to be free of text from outside."""

FAILURE_EVENTS = {
    "wats.dispatch.interrupted",
    "wats.store.error",
    "wats.telemetry.error",
    "wats.telemetry.sink.error",
    "wats.upkeep.error",
}
"""The events that a `FailureLog` is made for."""

LOGS = {"log", "_log", "write_json_line"}
"""The names of functions that write a line."""

WRITERS = {"print", "echo", "secho", "warn", "print_exc", "print_exception", "getLogger"}
"""The names of functions that could write other output."""

SERVING = {"serve.py"}
"""The modules of the command line that are part of a running service."""


def name_of(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def items_of(line: ast.Dict) -> dict[str, str]:
    """Return the keys of *line*, which all are constants, and the expressions of their values."""
    pairs = zip(line.keys, line.values, strict=True)
    return {str(ast.literal_eval(key or "**")): ast.unparse(value) for key, value in pairs}


def lines_in(node: ast.AST) -> Iterator[ast.Dict]:
    """Yield the dictionaries in *node* that are lines of the log."""
    for each in ast.walk(node):
        if isinstance(each, ast.Dict) and "event" in [
            getattr(key, "value", "") for key in each.keys
        ]:
            yield each


def calls_in(node: ast.AST) -> Iterator[ast.Call]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Call))


def functions() -> Iterator[tuple[str, ast.AST]]:
    for name, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "announce":
                yield name, node


def written_lines() -> list[dict[str, str]]:
    return [items_of(line) for _, function in functions() for line in lines_in(function)]


def test_every_line_that_can_be_written_has_its_documented_keys() -> None:
    found: dict[str, set[str]] = {}
    for line in written_lines():
        event = line["event"].strip("'")
        for each in FAILURE_EVENTS if event == "self._event" else {event}:
            found[each] = line.keys() - {"event", "at"}

    assert found == documented_events()


def test_a_failure_log_is_made_for_its_events_alone() -> None:
    calls = [call for module in modules().values() for call in calls_in(module)]
    made = [call for call in calls if name_of(call.func) in {"FailureLog", "failures"}]

    output = {ast.unparse(call.args[0]).strip("'") for call in made}

    assert output == FAILURE_EVENTS | {"event"}  # the argument of `failures` itself


def test_every_key_is_documented_and_has_a_rule() -> None:
    used = {key for keys in documented_events().values() for key in keys}

    assert documented_keys() == set(VALUES) == set(EXPRESSIONS) == used | {"at"}


def test_every_expression_in_a_log_line_is_reviewed() -> None:
    used: dict[str, set[str]] = {}
    for line in written_lines():
        for key, value in line.items():
            used.setdefault(key, set()).add(value)

    del used["event"]
    assert used == EXPRESSIONS


def test_log_calls_receive_reviewed_values_only() -> None:
    others = set()
    for name, function in functions():
        lines = list(lines_in(function))
        assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
        names = {ast.unparse(node.targets[0]) for node in assigned if node.value in lines}
        for call in calls_in(function):
            if name_of(call.func) in LOGS:
                (given,) = call.args
                if given not in lines and ast.unparse(given) not in names:
                    others.add((name, ast.unparse(given)))

    # The two that add the time to their argument.
    assert others == {
        ("service/build.py", "{**event, 'at': to_iso(now())}"),
        ("simulator/sandbox.py", "{**event, 'at': to_iso(utc_now())}"),
    }


def test_a_running_service_writes_no_other_output() -> None:
    written = set()
    for name, module in modules().items():
        if not name.startswith("cli/") or Path(name).name in SERVING:
            called = [call.func for call in calls_in(module)]
            texts = [ast.unparse(each) for each in called if name_of(each) in WRITERS]
            texts += [text for each in called if (text := ast.unparse(each)).startswith("sys.std")]
            written |= {(name, text) for text in texts}

    assert written == {
        ("adapters/pywa.py", "logging.getLogger"),  # it reads the records of pywa
        ("cli/serve.py", "click.echo"),  # the routes, before the first request
        ("process/library_logging.py", "logging.getLogger"),
    }


def test_two_streams_are_written_and_by_two_functions_with_text_alone() -> None:
    texts = [ast.unparse(call) for module in modules().values() for call in calls_in(module)]

    assert [text for text in texts if text.startswith("LineWriter(")] == [
        "LineWriter(lambda: sys.stderr)",
        "LineWriter(lambda: sys.stdout)",
    ]
    greeting = "text if self._access.is_news(text) else _AGAIN.format(url=url)"
    assert [text for text in texts if text.startswith("write_text(")] == [f"write_text({greeting})"]


def test_a_service_announces_its_address_and_number() -> None:
    calls = [call for module in modules().values() for call in calls_in(module)]
    announced = [call for call in calls if name_of(call.func) == "announce"]

    output = {keyword.arg for call in announced for keyword in call.keywords}

    assert output == {"url", "pid"}
    assert {ast.unparse(call.args[0]) for call in announced} == {"'wats.ready'"}


def test_every_line_that_was_written_has_its_documented_keys(output: Output) -> None:
    lines = output.surfaces["stderr"].splitlines()

    faults = {fault for line in lines for fault in faults_of(line)}

    assert faults == set()


PROVOKED = {
    "store": {
        *("wats.admin.action", "wats.inbox.dead", "wats.outbox.dead", "wats.webhook.update"),
    },
    "no-store": {"wats.webhook.update"},
    "workers": {
        *("wats.admin.action", "wats.inbox.dead", "wats.outbox.dead", "wats.worker.replaced"),
    },
}


def test_every_log_line_of_a_service_was_provoked(output: Output) -> None:
    events = {json.loads(line)["event"] for line in output.surfaces["stderr"].splitlines()}

    always = {
        *("wats.graph.failure", "wats.handler.failed", "wats.handler.warning", "wats.library.log"),
        *("wats.telemetry.sink.error", "wats.webhook.rejected"),
    }
    assert events == always | PROVOKED[output.variant]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Traceback (most recent call last):", id="no-json"),
        pytest.param('{"event":"wats.unheard.of","at":"2026-11-22T12:00:00.000Z"}', id="event"),
        pytest.param('"wats.inbox.dead"', id="no-object"),
        pytest.param('{"event":"wats.request.error","errorName":"Error"}', id="no-time"),
        pytest.param(
            '{"event":"wats.request.error","errorName":"Error","at":"2026-11-22T12:00:00.000Z",'
            '"path":"/x"}',
            id="another-key",
        ),
        pytest.param(
            '{"event":"wats.request.error","errorName":"No such person","at":'
            '"2026-11-22T12:00:00.000Z"}',
            id="text",
        ),
        pytest.param(
            '{"event":"wats.graph.failure","outcome":"not_sent","cause":null,"metaCode":15550001111,'
            '"metaSubcode":null,"metaType":null,"fbtraceId":null,"parameter":null,"at":'
            '"2026-11-22T12:00:00.000Z"}',
            id="number",
        ),
    ],
)
def test_a_line_that_is_not_as_documented_is_found(line: str) -> None:
    assert len(faults_of(line)) == 1


def test_a_line_that_is_as_documented_is_not() -> None:
    line = '{"event":"wats.request.error","errorName":"KeyError","at":"2026-11-22T12:00:00.000Z"}'

    assert faults_of(line) == []
