"""Write the generated blocks of the documentation.

A block is between `<!-- NAME: begin -->` and `<!-- NAME: end -->`. Do not edit its content: change
the data in the source, and run `.venv/bin/python docs/generate.py`.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from wats import errors
from wats.cli import main
from wats.clock import EPOCH
from wats.config import markdown_table
from wats.faults import Fault
from wats.graph.endpoints import ENDPOINTS
from wats.graph.errors import PERMISSION_CODES, RULES
from wats.inbound import content
from wats.inbound.describe import describe_classes, describe_updates
from wats.inbound.normalize import FIELDS, normalize
from wats.inspection import meta
from wats.inspection.checklist import ITEMS
from wats.inspection.setup import PROMISES
from wats.log_format import LEVELS, LogLevel
from wats.outbound.composers.describe import as_markdown as composers
from wats.simulator.recipients import as_markdown
from wats.store.outbox import SEND_TRANSITIONS, SendState
from wats.store.records import TRANSITIONS, DeliveryState
from wats.telemetry.contract.families import FAMILIES, SPANS
from wats.telemetry.contract.labels import Label, Subject
from wats.telemetry.contract.values import Kind, UpdateKind
from wats.telemetry.schema import schema_of
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.openapi import build_document
from wats.web.parts import HOOK_LABEL
from wats.web.problems import GRAPH_CODES
from wats.web.routing import Posture
from wats.web.table import route_table

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/wats"
TOPICS = SOURCE / "cli/topics.json"
SHORT_TOPIC = 300
"""The number of characters below which the beginning of a page is not enough for a topic."""
CORPUS = ROOT / "tests/corpus/webhooks.jsonl"
PAGES = (ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"<!-- (?P<name>[a-z-]+): begin -->\n.*?\n?<!-- (?P=name): end -->", flags=re.DOTALL
)

HTTP_MEANINGS = {
    "consumer_not_found": "No consumer with this name has ever been registered; for a poll, the "
    "config has no puller with this name.",
    "delivery_not_found": "No outstanding delivery or dead letter has this id: it is done, or it "
    "was discarded.",
    "rate_limited": "Meta's rate limit does not permit the message within a second. Nothing was "
    "sent; retry after `Retry-After`, also with the same key.",
    "outbox_full": "`outbox.maxWaiting` messages wait to be sent later. Nothing was stored; retry "
    "after `Retry-After`, also with the same key.",
    "outbox_item_not_found": "No message in the outbox has this id, or its idempotency key has "
    "expired since it was sent.",
    "conversation_window_unavailable": "The store could not be read; retry.",
    "graph_request_failed": "Meta returned an error, could not be reached, or the outcome is "
    "unknown. The status is 503 if the request was throttled. `outcome` is `not_sent` or "
    "`unknown`; `retryable` states whether the same request can be retried, and "
    "`advice` the remedy.",
    "idempotency_conflict": "The key was used before with another body. Use a new key.",
    "idempotency_in_flight": "A request with this key is in flight. Retry it after the time in "
    "`Retry-After` to get its response.",
    "idempotency_outcome_unknown": "It is unknown whether the message of this key was sent. wats "
    "never sends it again under this key; to send it anyway, use a new key. For a request with "
    "`Prefer: respond-async` and no key: it is unknown whether the outbox has the message.",
    "internal_error": "A bug in wats. The class of the error is in the log and the diagnostics.",
    "invalid_entry_array": "Webhook: `entry` is missing or not an array.",
    "invalid_envelope": "Webhook: the JSON is not an object.",
    "unknown_number": "Webhook: an update of a number that is not configured, if `otherNumbers` is "
    "`refuse`.",
    "invalid_idempotency_key": "The key is blank, longer than 256 characters or not a single line.",
    "invalid_json": "Webhook: the body is not JSON, or is nested deeper than 512 levels.",
    "invalid_mode": "Challenge: `hub.mode` is not `subscribe`.",
    "invalid_signature_format": "Webhook: `X-Hub-Signature-256` is not `sha256=` and 64 lower-case "
    "hexadecimal digits.",
    "invalid_verify_token": "Challenge: `hub.verify_token` is not the configured one.",
    "length_required": "The upload of a file has no `Content-Length`.",
    "malformed_body": "The body is invalid; `details` lists every invalid field with the reason, "
    "up to 100 fields.",
    "malformed_http": "The bytes are not a valid HTTP/1.x request, or its head is larger than "
    "64 KiB. The connection is closed.",
    "malformed_json": "The body is not JSON, or is nested deeper than 512 levels.",
    "malformed_path": "A variable part of the path is invalid.",
    "malformed_query": "A query parameter is invalid; `details` names the parameter.",
    "media_type_mismatch": "The content or the name of a file belongs to another type than the "
    "stated one; `details` has the valid form. Nothing was sent to Meta.",
    "media_unusable": "Meta named a host that the access token is not sent to, or its file is "
    "larger than 100 MiB or compressed. `outcome` is `not_sent`.",
    "method_not_allowed": "The route does not support this method; `Allow` lists the supported "
    "methods.",
    "missing_body": "Webhook: a chunked request without a body.",
    "missing_challenge": "Challenge: `hub.challenge` is missing or empty.",
    "missing_object_field": "Webhook: `object` is missing or not a string.",
    "missing_signature": "Webhook: the header `X-Hub-Signature-256` is missing.",
    "not_found": "The path does not exist or is hidden from this caller, or there is no message "
    "or file with this id.",
    "not_ready": "`/readyz`: the service is about to stop, the store cannot be read, hangs or has "
    "another schema version, or stored updates are not dispatched.",
    "not_started": "The application is served, but was not started; see the log.",
    "overloaded": "Request bodies in flight exceed the memory budget, requests of the API in "
    "progress three quarters of the connections, or files in transfer a quarter of "
    "`graph.maxConnections`. Nothing was sent. Retry after `Retry-After`; Meta retries webhooks "
    "automatically.",
    "payload_too_large": "The body is larger than 1 MiB; for a webhook, larger than "
    "`webhook.maxBodyBytes`; for a file, larger than the limit of its type.",
    "persistence_not_configured": "The route needs a store, and none is configured. A send with an "
    "`Idempotency-Key` gets 501: nothing was sent, and a retry cannot succeed.",
    "persistence_unavailable": "The store could not be read or written in time. Nothing was sent, "
    "and an update that is stored later is a duplicate for Meta; the outbox may have a message "
    "with a key, and sends it once. Retry after `Retry-After`; Meta retries webhooks "
    "automatically.",
    "signature_mismatch": "Webhook: the signature matches no configured app secret.",
    "store_closed": "The service is starting or stopping; retry.",
    "insufficient_scope": "The token lacks the scope of the operation.",
    "too_many_polls": "As many polls of this puller wait in this process as are permitted. Retry "
    "after `Retry-After`.",
    "unauthorized": "`Authorization` is missing or holds no valid service token.",
    "unsupported_media_type": "The body is compressed or not a form, or its file has a type that "
    "WhatsApp does not accept; `details` has the valid form.",
    "upload_timeout": "No byte of a file arrived for 20 seconds, or the last one not within 10 "
    "minutes. Nothing was stored by Meta.",
    "window_closed": "The customer's service window is closed and `messages.windowGuard` is on: "
    "nothing was sent, and the `Idempotency-Key` can be used again. Send a template.",
    "unsupported_object": "Webhook: `object` is not `whatsapp_business_account`.",
}
"""The meaning of each HTTP error code, for clients."""

START_MEANINGS = {
    "address_unavailable": "The service cannot listen on this host and port.",
    "store_in_use": "Another service uses the SQLite database. Use `wats serve --workers` or "
    "PostgreSQL for several processes.",
    "forked_application": "The application was made by another process, before a fork.",
    "database_copy_refused": "`wats database copy`: a database is in use, the target has rows or "
    "cannot hold a row of the source, or the source does not exist.",
    "database_backup_refused": "`wats database backup` or `wats database restore`: a file cannot "
    "be used; the database is as it was before.",
    "invalid_config": "The error that lists all configuration mistakes; each entry of `issues` has "
    "its own code.",
    "invalid_handler": "A handler cannot be imported or called, has the name of another handler, "
    "or was added after the start.",
    "invalid_persistence_url": "`open_store` does not support this URL.",
    "invalid_service_port": "`wats serve --paas`: the variable `PORT` does not hold a port.",
    "invalid_service_workers": "Several workers cannot share a database in memory.",
    "invalid_numbers": "A token or a subscriber names a number that is not configured.",
    "invalid_secret": "A subscriber has no secret, or one that its format cannot use; or two "
    "tokens are equal.",
    "invalid_pullers": "There are pullers and no database.",
    "invalid_subscribers": "There are subscribers and no database.",
    "invalid_telemetry_sink": "A sink lacks a required method, is a class instead of an object, or "
    "its construction failed.",
    "invalid_timeout": "The connect timeout of a Graph client is not shorter than its call "
    "timeout.",
    "invalid_token": "An access token has invalid characters.",
    "invalid_url": "The URL of a Graph client, or of its proxy, is not http or https.",
    "invalid_version": "The API version of a Graph client is invalid.",
    "migration_checksum_mismatch": "The database was created by a newer version, or a migration "
    "file was edited.",
    "migration_failed": "A migration failed; the database was not changed.",
}
"""The cause of each startup error, for operators and developers."""

KIND_MEANINGS = {
    UpdateKind.MESSAGE: "A customer wrote, tapped, ordered or reacted.",
    UpdateKind.STATUS: "The delivery status of a sent message changed.",
    UpdateKind.ACCOUNT: "Something about the account or a number changed.",
    UpdateKind.UNKNOWN: "An update of a webhook field without a separate kind.",
    UpdateKind.CALL_CONNECT: "A call is incoming, or was accepted.",
    UpdateKind.CALL_TERMINATE: "A call ended.",
    UpdateKind.CALL_STATUS: "The status of an outgoing call changed.",
    UpdateKind.GROUP_LIFECYCLE: "A group was created or deleted.",
    UpdateKind.GROUP_PARTICIPANTS: "A participant joined, left or requested to join.",
    UpdateKind.GROUP_SETTINGS: "The settings of a group changed.",
    UpdateKind.GROUP_STATUS: "A group was suspended or reinstated.",
    UpdateKind.USER_PREFERENCES: "A customer changed the preference for marketing messages.",
    UpdateKind.SYSTEM: "A customer changed their number or identity.",
    UpdateKind.CHAT_OPENED: "A customer opened the chat for the first time.",
    UpdateKind.PAYMENT_STATUS: "The status of a requested payment changed.",
    UpdateKind.ERROR: "Meta reports an error that does not belong to an item.",
    UpdateKind.USER_ACTION: "A customer action other than a message.",
    UpdateKind.USER_ID_UPDATE: "The business-scoped id of a customer changed.",
    UpdateKind.TEMPLATE: "A template was reviewed, rated, paused or changed.",
    UpdateKind.HISTORY: "Earlier messages of a number that is also used in the phone app.",
    UpdateKind.MESSAGE_ECHO: "A message sent by another app of the business.",
    UpdateKind.APP_STATE_SYNC: "Contacts of the phone app.",
    UpdateKind.FLOW: "The state or health of a flow changed.",
    UpdateKind.AUTOMATIC_EVENT: "An event that Meta inferred from a conversation.",
    UpdateKind.STANDBY: "An event in a conversation that another app is handling.",
    UpdateKind.HANDOVER: "A conversation was handed over from one app to another.",
}
"""The meaning of each kind of update, for authors of handlers."""

_BY_HAND = {"kept", "derived", "retained", "shared"}
"""The checklist items that cannot be checked remotely."""

_EXPOSED = {
    Subject.ALWAYS: "always",
    Subject.STORE: "with a store",
}
_METHODS = {
    Kind.COUNTER: "increment_counter",
    Kind.HISTOGRAM: "record_histogram",
    Kind.GAUGE: "set_gauge",
}
_POSTURES = {
    Posture.OPEN: "open",
    Posture.API: "401",
    Posture.HIDDEN: "404, hidden",
    Posture.ADMIN: "404, hidden; also with a telemetry token",
}
_STEPS = {
    DeliveryState.PENDING: "stored, not leased",
    DeliveryState.LEASED: "leased by a process until it settles or the lease expires",
    DeliveryState.RETRY: "the handler failed; due again after a backoff",
    DeliveryState.DONE: "the handler returned; the row is deleted",
    DeliveryState.DEAD: "a dead letter: no more attempts, kept for inspection",
}

_SENDS = {
    SendState.QUEUED: "stored; its turn has not come",
    SendState.SENDING: "leased by a process, which may have called Meta",
    SendState.RETRY: "certainly not sent; sent again after a pause",
    SendState.SENT: "Meta accepted it; the content is deleted",
    SendState.FAILED: "a dead letter: certainly not sent, and no more attempts",
    SendState.UNKNOWN: "a dead letter: maybe sent; not sent again without an operator",
}


def families() -> str:
    """Return the metric families, and the maximum number of series per set."""
    every = schema_of(route_labels(route_table(example_profile(), groups_enabled=True)))
    rows = [
        (
            _code(family.name),
            family.kind,
            ", ".join(_code(label.key) for label in family.labels),
            family.set,
            _EXPOSED[Subject(family.needs)],
            str(family.series),
            family.help,
        )
        for family in every.families
    ]
    table = _table(("Family", "Kind", "Labels", "Set", "Exposed", "Series", "Help"), rows)
    totals = [(_code(each.set), f"{each.series:,}", f"{each.budget:,}") for each in every.sets]
    return f"{table}\n\n{_table(('Set', 'Maximum series', 'Budget'), totals)}"


def labels() -> str:
    """Return every label with its closed values, and the families that have it."""
    known: dict[Label, list[str]] = {}
    for family in FAMILIES:
        for label in family.labels:
            known.setdefault(label, []).append(_code(family.name))
    rows = [
        (_code(label.key), _values(label), _code(label.other), ", ".join(names))
        for label, names in sorted(known.items(), key=lambda item: item[0].key)
    ]
    return _table(("Label", "Values", "Other values become", "Families"), rows)


def buckets() -> str:
    """Return the bounds of the histograms."""
    rows = [
        (_code(family.name), " ".join(f"{bound:g}" for bound in family.buckets))
        for family in FAMILIES
        if family.buckets
    ]
    return _table(("Histogram", "Upper bounds in seconds"), rows)


def attributes() -> str:
    """Return the attribute dictionary: the attributes of each family, in order."""
    rows = [
        (
            _code(family.name),
            _code(_METHODS[family.kind]),
            ", ".join(map(_code, family.attributes)) or "none",
        )
        for family in FAMILIES
        if family.attributes is not None
    ]
    return _table(("Family", "Method of the sink", "Attributes, in this order"), rows)


def spans() -> str:
    """Return the spans that a sink can receive."""
    rows = [(_code(name.value), ", ".join(map(_code, keys))) for name, keys in SPANS.items()]
    return _table(("Span", "Attributes, in this order"), rows)


def attribute_values() -> str:
    """Return every attribute with its values."""
    by_attribute = {
        label.attribute: label
        for family in reversed(FAMILIES)  # of two lists, the first one has all values
        for label in family.labels
        if label.attribute
    }
    keys = dict.fromkeys(key for family in FAMILIES for key in family.attributes or ())
    rows = [
        (
            _code(key),
            _values(by_attribute[key])
            if key in by_attribute
            else "a whole number from 100 to 599; 0 without a response",
        )
        for key in keys
    ]
    return _table(("Attribute", "Values"), rows)


def http_codes() -> str:
    """Return the HTTP error codes with their statuses."""
    statuses = answered_codes()
    rows = [
        (_code(code), ", ".join(map(str, sorted(statuses[code]))), HTTP_MEANINGS[code])
        for code in sorted(statuses, key=lambda code: (min(statuses[code]), code))
    ]
    return _table(("Code", "Status", "Meaning"), rows)


def start_codes() -> str:
    """Return the codes of startup errors, except those of the config file."""
    rows = [(_code(code), START_MEANINGS[code]) for code in sorted(raised_at_start())]
    return _table(("Code", "Cause"), rows)


def reply_errors() -> str:
    """Return the errors of replies and sends in process that the HTTP API does not have."""
    rows = [(_code(cls.__name__), _code(cls.code), cls.text) for cls in _leaves(errors.ReplyError)]
    started = errors.NotStarted
    rows.append((_code(started.__name__), _code(started.code), "`app.send`: " + started.text))
    return _table(("Exception", "Code", "Meaning"), rows)


def faults() -> str:
    """Return the causes for which a file or a database cannot be used."""
    return _table(("Cause", "Meaning"), [(_code(each.value), each.meaning) for each in Fault])


def graph_errors() -> str:
    """Return the table of Graph errors."""
    rows = [
        (
            str(rule.code) if rule.subcode is None else f"{rule.code} / {rule.subcode}",
            _code(rule.name),
            _code(rule.category.value),
            "yes" if rule.retryable else "no",
            "any" if rule.gives_reason else "4xx",
            rule.advice,
        )
        for rule in sorted(RULES, key=lambda rule: (rule.code, rule.subcode or 0))
    ]
    first, last = PERMISSION_CODES[0], PERMISSION_CODES[-1]
    return "\n\n".join(
        [
            _table(("Code", "Name", "Category", "Retryable", "Certain", "Advice"), rows),
            f"Codes {first} to {last} are treated as 200. Other codes have the category `unknown`.",
        ]
    )


def graph_calls() -> str:
    """Return the calls of Graph that applications may make through wats."""
    rows = [
        (
            _code(each.path),
            " ".join(each.methods),
            _code(each.family.value),
            each.service.value,
        )
        for each in ENDPOINTS
    ]
    return _table(("Path", "Methods", "Family", "Served"), rows)


def graph_own_codes() -> str:
    """Return the codes of errors that Meta did not report."""
    causes = {
        errors.Unauthorized: "no service token, or an invalid one",
        errors.InsufficientScope: "the token lacks a scope of the call",
        errors.RateLimited: "the rate limit does not permit the message now",
        errors.OutboxFull: "too many messages wait in the outbox",
        errors.WindowClosed: "the window guard refused the message",
        errors.IdempotencyOutcomeUnknown: "the outcome of the key is unknown",
        errors.GraphError: "Graph did not respond, or a proxy responded in its place",
        errors.CallerError: "any other mistake of the request",
        errors.WatsError: "any other failure of wats, such as a store that cannot be reached",
    }
    rows = [(str(code), causes[kind]) for kind, code in GRAPH_CODES.items()]
    return _table(("Code", "Cause"), rows)


def routes() -> str:
    """Return the routes, with the statuses of the OpenAPI document."""
    profile = example_profile()
    table = route_table(profile, groups_enabled=True)
    document = msgspec.json.decode(build_document(table, profile=profile, complete=True))
    rows: list[tuple[str, ...]] = []
    for row in table:
        item = document["paths"][re.sub(r"[:*](\w+)", r"{\1}", row.path)]
        for operation in row.operations:
            answers = item[operation.method.value.lower()]["responses"]
            path = "HOOK" if row.label == HOOK_LABEL else row.path.replace("*", ":")
            path = re.sub(f"^{profile.service.api_prefix}(?=/)", "P", path)
            rows.append(
                (
                    operation.method.value,
                    _code(path),
                    _POSTURES[row.posture],
                    operation.summary,
                    " ".join(status for status in answers if status != "200"),
                )
            )
    return _table(("Method", "Path", "Without a token", "Summary", "Other statuses"), rows)


def commands() -> str:
    """Return the help of every command."""
    parts = []
    for path, command in walk_commands():
        context = click.Context(
            command,
            info_name=path,
            terminal_width=88,
            max_content_width=88,
            help_option_names=["-h", "--help"],
        )
        text = command.get_help(context)
        parts.append(f"## `{path}`\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def kinds() -> str:
    """Return the kinds of updates, with their webhook fields."""
    fields: dict[UpdateKind, list[str]] = {kind: [] for kind in UpdateKind}
    for name, field in FIELDS.items():
        for row in {row.kind for row in (field.whole, *field.members.values()) if row is not None}:
            fields[row].append(name)
    elsewhere = {
        UpdateKind.SYSTEM: ["messages"],
        UpdateKind.CHAT_OPENED: ["messages"],
        UpdateKind.PAYMENT_STATUS: ["messages"],
        UpdateKind.CALL_TERMINATE: ["calls"],
    }
    rows = [
        (
            _code(kind.value),
            KIND_MEANINGS[kind],
            ", ".join(map(_code, sorted({*fields[kind], *elsewhere.get(kind, [])}))) or "any",
        )
        for kind in UpdateKind
    ]
    return _table(("Kind", "Meaning", "Webhook fields"), rows)


def contents() -> str:
    """Return the message types with typed content."""
    types: dict[str, type[content.Part]] = {
        **content.CONTENT_TYPES,
        "contacts": content.Contacts,
        "edit": content.Edit,
    }
    rows = [
        (
            _code(kind),
            _code(holds.__name__),
            ", ".join(_code(name) for name in holds.__struct_fields__),
        )
        for kind, holds in sorted(types.items())
    ]
    return _table(("Type", "Content", "Fields"), rows)


def updates() -> str:
    """Return an example of every content of updates, from the webhooks of the tests."""
    rows = map(json.loads, CORPUS.read_text("utf-8").splitlines())
    bodies = [row["body"] for row in rows if row["source"] not in ("malformed", "synthetic")]
    found = [normalize(body, received_at=EPOCH).updates for body in bodies]
    return describe_updates(chain.from_iterable(found), KIND_MEANINGS)


def states() -> str:
    """Return the state machine of a delivery."""
    rows = [
        (
            _code(state.value),
            _STEPS[state],
            ", ".join(_code(after.value) for after in DeliveryState if after in following)
            or "final",
        )
        for state, following in TRANSITIONS.items()
    ]
    return _table(("State", "Meaning", "Can become"), rows)


def send_states() -> str:
    """Return the state machine of a message in the outbox."""
    rows = [
        (
            _code(state.value),
            _SENDS[state],
            ", ".join(_code(after.value) for after in SendState if after in following) or "final",
        )
        for state, following in SEND_TRANSITIONS.items()
    ]
    return _table(("State", "Meaning", "Can become"), rows)


def log_levels() -> str:
    """Return the log events of each level."""
    rows = [
        (_code(level.value), ", ".join(_code(each) for each, its in LEVELS.items() if its is level))
        for level in LogLevel
    ]
    return _table(("Level", "Events"), [row for row in rows if row[1]])


def alerts() -> str:
    """Return the alerts, with severity and delay."""
    groups = yaml.safe_load((ROOT / "operators/rules.yml").read_text("utf-8"))["groups"]
    rows = [
        (
            f"[{rule['alert']}](#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            rule.get("for", "immediate"),
            group["name"].removeprefix("wats-"),
        )
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    ]
    return _table(("Alert", "Severity", "After", "Families"), rows)


def checklist() -> str:
    """Return the checklist items, with the party that checks each item."""
    rows = [
        (_code(item.name), item.promise, "you" if item.name in _BY_HAND else "`wats doctor`")
        for item in ITEMS
    ]
    return _table(("Item", "Requirement", "Checked by"), rows)


def setup() -> str:
    """Return the items that `wats doctor` checks in addition to the checklist."""
    rows = [(_code(name), promise) for name, promise in PROMISES.items()]
    rows += [
        (_code(name), promise + ("" if name in meta.WITHOUT_TOKEN else " (`--live`)"))
        for name, promise in meta.PROMISES.items()
    ]
    return _table(("Item", "Requirement"), rows)


def layers() -> str:
    """Return the layers of imports, as the linter enforces them."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    order = next(each["layers"] for each in contracts if each["type"] == "layers")
    lines = [f"  {layer}" if place else layer for place, layer in enumerate(order)]
    return "\n".join(["```text", *lines, "```"])


BLOCKS: Mapping[str, Callable[[], str]] = {
    "alerts": alerts,
    "attribute-values": attribute_values,
    "attributes": attributes,
    "buckets": buckets,
    "checklist": checklist,
    "classes": describe_classes,
    "commands": commands,
    "composers": composers,
    "contents": contents,
    "families": families,
    "faults": faults,
    "graph-calls": graph_calls,
    "graph-errors": graph_errors,
    "graph-own-codes": graph_own_codes,
    "http-codes": http_codes,
    "keys": markdown_table,
    "kinds": kinds,
    "labels": labels,
    "layers": layers,
    "log-levels": log_levels,
    "recipients": as_markdown,
    "reply-errors": reply_errors,
    "routes": routes,
    "setup": setup,
    "spans": spans,
    "start-codes": start_codes,
    "states": states,
    "send-states": send_states,
    "updates": updates,
}
"""The generator of each block, by name."""


def walk_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its path, groups before their members."""
    waiting: list[tuple[str, click.Command]] = [("wats", main)]
    while waiting:
        path, command = waiting.pop(0)
        yield path, command
        if isinstance(command, click.Group):
            waiting += [(f"{path} {name}", each) for name, each in subcommands(command)]


def subcommands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands of *group*, which it may have to load, by name."""
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        if (command := group.get_command(context, name)) is not None:
            yield name, command


def answered_codes() -> dict[str, set[int]]:
    """Return every HTTP error code in the source, with its statuses."""
    statuses: dict[str, set[int]] = {}
    service = (errors.Overloaded, errors.NotStarted, errors.StoreError, errors.GraphError)
    for cls in _leaves(errors.CallerError, *service):
        if cls not in {errors.MalformedRequest, errors.WebhookRefused, *_AT_START}:
            statuses.setdefault(cls.code, set()).add(cls.status)
    for name, words in _calls("MalformedRequest", "WebhookRefused", "problem"):
        code, status = (words[1], words[0]) if name == "problem" else (words[0], _third(words))
        if isinstance(code, str) and isinstance(status, int):
            statuses.setdefault(code, set()).add(status)
    statuses["graph_request_failed"].add(503)
    statuses["persistence_not_configured"].add(501)
    return statuses


def raised_at_start() -> set[str]:
    """Return the codes of operators' mistakes, except those in docs/configuration.md."""
    codes = {errors.ConfigError.code, *(cls.code for cls in _AT_START)}
    found = _calls("ConfigIssue", outside="config")
    return codes | {words[0] for _, words in found if isinstance(words[0], str)}


_AT_START = (
    errors.MigrationFailed,
    errors.SchemaMismatch,
    errors.CopyRefused,
    errors.BackupRefused,
    errors.StoreInUse,
    errors.ForkedApplication,
)


def _leaves(*roots: type[errors.WatsError]) -> Iterator[type[errors.WatsError]]:
    for root in roots:
        if root.__subclasses__():
            yield from _leaves(*root.__subclasses__())
        else:
            yield root


def _calls(*names: str, outside: str = "") -> Iterator[tuple[str, list[object]]]:
    """Yield the calls of *names* in the source, each with its positional arguments as constants."""
    for path in sorted(SOURCE.rglob("*.py")):
        if outside and path.is_relative_to(SOURCE / outside):
            continue
        yield from ((name, words) for name, words in _calls_in(path) if name in names)


@cache
def _calls_in(path: Path) -> list[tuple[str, list[object]]]:
    return [
        (node.func.id, [_constant(each) for each in node.args])
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
    ]


def _third(words: list[object]) -> object:
    third = words[2] if len(words) > 2 else None
    return third if isinstance(third, int) else HTTPStatus.BAD_REQUEST.value


def _constant(node: ast.expr) -> object:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute):
        status = getattr(HTTPStatus, node.attr, None)
        return int(status) if isinstance(status, HTTPStatus) else None
    return None


def _values(label: Label) -> str:
    if label.values:
        return ", ".join(map(_code, label.values))
    return f"{label.described}, and {_code(label.other)}"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def render(page: str) -> str:
    """Return *page* with every block regenerated."""
    return _BLOCK.sub(
        lambda found: (
            f"<!-- {found['name']}: begin -->\n{BLOCKS[found['name']]()}\n"
            f"<!-- {found['name']}: end -->"
        ),
        page,
    )


def topics() -> str:
    """Return the topics of `wats help` as JSON: the beginning of each page of `docs/`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pages = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
    found = {
        name: _topic(path.read_text("utf-8"), f"{project['urls']['Homepage']}/docs/{path.name}")
        for name, path in pages.items()
        if name != "index"
    }
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _topic(page: str, url: str) -> dict[str, object]:
    by_hand = _BLOCK.sub("", page)
    beginning, *sections = re.split(r"^## (.+)$", by_hand, flags=re.MULTILINE)
    title, _, text = beginning.partition("\n")
    text = _plain(text)
    if len(text) < SHORT_TOPIC:
        text = f"{text}\n\n{sections[0]}\n\n{_first_paragraphs(_plain(sections[1]))}"
    return {"title": title.removeprefix("# "), "text": text, "sections": sections[::2], "url": url}


def _plain(text: str) -> str:
    text = re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE)  # tables
    text = re.sub(r"\[(.+?)\]\([^)]+\)", r"\1", text)  # links
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _first_paragraphs(section: str) -> str:
    """Return the beginning of *section*, up to its first subsection, with complete examples."""
    kept = ""
    paragraphs = section.partition("\n### ")[0].split("\n\n")
    for paragraph, following in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        is_inside = kept.count("```") % 2 == 1  # of an example
        is_enough = len(kept) > SHORT_TOPIC and not kept.endswith(":\n\n")
        is_of_table = paragraph.endswith(":") and not following.startswith("```")
        if not is_inside and (is_enough or is_of_table):
            break
        kept += f"{paragraph}\n\n"
    return kept.strip()


if __name__ == "__main__":
    TOPICS.write_text(topics(), "utf-8")
    for path in PAGES:
        path.write_text(render(path.read_text("utf-8")), "utf-8")
