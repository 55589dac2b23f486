"""The results, as a table for people and as JSON for machines."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import msgspec

from bench.contestants import CONTESTANTS, Round
from bench.fanout import FanoutRates
from bench.hiding import THRESHOLD, Hiding, Verdict
from bench.machine import Facts
from bench.telemetry import Costs, Render
from bench.writer import Cost, WriterCosts

WEBHOOK_GOALS = (
    ("stored", "bare", 0.60),
    ("stored-postgres", "bare", 0.30),
    ("stored", "pywa", 1.7),
    ("stored", "pywa-fastapi", 1.7),
    ("inline", "bare", 1.2),
    ("statuses", "stored", 1.0),
)
SEND_GOALS = (
    ("send-keyed", "send-bare", 0.35),
    ("send", "send-bare", None),
    ("send-inline", "send-bare", None),
)
"""The goal for the first rate as a multiple of the second, if there is one."""

RENDER_GOAL = 20
"""The goal for the rate of rendering a scrape, as a multiple of prometheus_client's."""

FANOUT_GOAL = 0.5
"""The goal for deliveries to a subscriber per second, as a multiple of the loop of aiohttp."""

WRITER_GOAL = 1.2
"""The goal for the cost of an update in a large store, as a multiple of that in an empty one."""

_VERDICT = "  {:31} {:>9} {:>13} {:>8} {:>8}  {}"
_COST = "  {:40} {:>8} {:>8} {:>6} {:>12} {:>8} {:>6}"
_ROW = "{:34} {:>10} {:>18} {:>7} {:>7} {:>7} {:>9} {:>6}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds of one contestant, and the most memory that its server had."""

    rounds: list[Round]
    peak_mib: float | None

    @property
    def cpu_us(self) -> float | None:
        """The processor time for one request, in microseconds."""
        known = [each.cpu_us for each in self.rounds if each.cpu_us is not None]
        return median(known) if known else None

    @property
    def settled_rates(self) -> list[float]:
        """Updates handled and settled per second; empty where there is no inbox."""
        return [each.settled_rate for each in self.rounds if each.settled_rate is not None]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    wats: str
    facts: Facts
    connections: int
    seconds: float
    results: dict[str, Result]
    fanout: FanoutRates | None
    telemetry: Costs | None
    hiding: Hiding | None
    writer: WriterCosts | None

    def to_json(self) -> bytes:
        """Return all measurements."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def to_text(self) -> str:
        """Return the report for people."""
        parts = [_head(self)]
        if self.results:
            parts.append(_requests(self.results))
        for requests, goals in (("webhooks", WEBHOOK_GOALS), ("sends", SEND_GOALS)):
            if ratios := list(_ratios(self.results, goals)):
                parts.append("\n".join([f"How many times as many {requests}", *ratios]))
        if self.fanout is not None:
            parts.append(_fanout(self.fanout))
        if self.telemetry is not None:
            parts.append(_telemetry(self.telemetry))
        if self.hiding is not None:
            parts.append(_hiding(self.hiding))
        if self.writer is not None:
            parts.append(_writer(self.writer))
        return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    facts, placed = report.facts, report.facts.placed
    lines = [
        f"wats {report.wats}, {facts.python}, {facts.system}, {facts.processor}, "
        f"{facts.cores} cores",
        f"{report.connections} connections, rounds of {report.seconds:g} s, medians; "
        f"an fsync of 4 KiB takes {facts.fsync_ms:.2f} ms",
    ]
    if placed.server is None:
        lines.append("This system pins nothing: servers and load moved between cores.")
    elif not placed.apart:
        lines.append("There is one core: servers and load shared it, and the figures are low.")
    else:
        lines.append(f"Servers on core {placed.server}, load on core {placed.load}")
    return "\n".join(lines)


def _requests(results: Mapping[str, Result]) -> str:
    heads = (
        "",
        "per second",
        "lowest to highest",
        "CPU us",
        "p50 ms",
        "p99 ms",
        "peak MiB",
        "load",
    )
    lines = [_ROW.format(*heads)]
    for name, result in results.items():
        title = CONTESTANTS[name].title
        settled = result.settled_rates
        lines.append(_row(f"{title}: acknowledged" if settled else title, result))
        if settled:
            row = _ROW.format(f"{title}: handled", *_rates(settled), "", "", "", "", "")
            lines.append(row.rstrip())
    return "\n".join(lines)


def _row(title: str, result: Result) -> str:
    rounds = result.rounds
    return _ROW.format(
        title,
        *_rates([each.rate for each in rounds]),
        _known([result.cpu_us], ".1f"),
        _known([each.p50_ms for each in rounds], ".2f"),
        _known([each.p99_ms for each in rounds], ".2f"),
        _known([result.peak_mib], ".0f"),
        _known([each.load_busy for each in rounds], ".0%"),
    )


def _known(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(median(known), form) if known else "-"


def _rates(rates: Sequence[float]) -> tuple[str, str]:
    return f"{median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"


def _ratios(
    results: Mapping[str, Result], goals: Sequence[tuple[str, str, float | None]]
) -> Iterator[str]:
    for ours, theirs, goal in goals:
        if ours in results and theirs in results:
            # Rounds are compared pairwise: the speed of the machine varies from one minute to the
            # next.
            pairs = list(zip(results[ours].rounds, results[theirs].rounds, strict=True))
            figures = [_ratio([(mine.rate, base.rate) for mine, base in pairs])]
            if results[ours].settled_rates:
                figures[0] += " acknowledged"
                handled = _ratio([(mine.settled_rate, base.rate) for mine, base in pairs])
                figures.append(f"{handled} handled")
            costs = _ratio([(base.cpu_us, mine.cpu_us) for mine, base in pairs])
            figures.append(f"{costs} by processor time")
            titles = f"{CONTESTANTS[ours].title} / {CONTESTANTS[theirs].title}"
            suffix = "" if goal is None else f" (goal {goal})"
            yield f"  {titles}: {', '.join(figures)}{suffix}"


def _ratio(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    known = [one / other for one, other in pairs if one is not None and other]
    return f"{median(known):.2f}" if known else "-"


def _fanout(rates: FanoutRates) -> str:
    speed = _ratio(list(zip(rates.wats, rates.loop, strict=True)))
    cost = _ratio(list(zip(rates.loop_cpu_us, rates.wats_cpu_us, strict=True)))
    lines = [
        f"To deliver {rates.deliveries:,} stored updates to one subscriber, per second",
        *(
            f"  {name:34} {_rates(theirs)[0]:>9} {_rates(theirs)[1]:>18} {median(costs):>7.1f} us"
            for name, theirs, costs in (
                ("wats", rates.wats, rates.wats_cpu_us),
                ("a loop of aiohttp", rates.loop, rates.loop_cpu_us),
            )
        ),
        f"  wats / loop: {speed}, {cost} by processor time (goal {FANOUT_GOAL})",
    ]
    return "\n".join(lines)


def _telemetry(costs: Costs) -> str:
    lines = ["To count one HTTP request, a counter and a histogram, in nanoseconds"]
    lines += [f"  {name:34} {cost:>9,.0f}" for name, cost in costs.request_ns.items()]
    lines.append("To count every event of a stored webhook, in nanoseconds")
    lines += [f"  families: {name:24} {cost:>9,.0f}" for name, cost in costs.stored_ns.items()]
    lines.append("To count one HTTP request and call a sink, in microseconds")
    lines += [f"  {name:34} {cost:>9,.1f}" for name, cost in costs.sink_us.items()]
    lines.append(
        f"To render every series there can be, in milliseconds (goal {RENDER_GOAL} times as fast)"
    )
    lines += map(_render, costs.renders)
    return "\n".join(lines)


def _render(render: Render) -> str:
    ours, theirs = render.wats_ms, render.prometheus_client_ms
    return (
        f"  {render.name + ',':22} {render.samples:,} samples: wats {ours:.2f}, "
        f"prometheus_client {theirs:.2f}, {theirs / ours:.0f} times"
    )


def _hiding(hiding: Hiding) -> str:
    lines = [
        f"Whether the time of its 404 distinguishes a path from one that does not exist, "
        f"{hiding.pairs:,} pairs each; it can from |t| = {THRESHOLD:g} on",
        _VERDICT.format("", "median us", "difference ns", "t", "t of 95%", ""),
        *(_verdict(each) for each in hiding.verdicts),
    ]
    return "\n".join(lines)


def _verdict(verdict: Verdict) -> str:
    found = "distinguished" if verdict.distinguished else "the same"
    return _VERDICT.format(
        verdict.name,
        f"{verdict.median_us:.1f}",
        f"{verdict.difference_ns:+.0f}",
        f"{verdict.t:+.2f}",
        f"{verdict.t_kept:+.2f}",
        f"{found}, as it must be" if verdict.distinguished == verdict.differs else f"{found}!",
    )


def _writer(costs: WriterCosts) -> str:
    lines = [
        f"To write an update to SQLite, in microseconds, in an empty store and in one of "
        f"{costs.messages:,} messages ({costs.mib:,.0f} MiB; goal at most {WRITER_GOAL} times)",
        _COST.format("", "wall", "filled", "times", "CPU", "filled", "times"),
        *map(_cost, costs.costs),
        "To look for something that is not there in all of its buckets, in microseconds of CPU",
        *(f"  {name:58} {spent:>6,.0f}" for name, spent in costs.look_ups_us.items()),
    ]
    return "\n".join(lines)


def _cost(cost: Cost) -> str:
    return _COST.format(
        cost.name,
        *_growth(cost.empty_us, cost.filled_us),
        *_growth(cost.empty_cpu_us, cost.filled_cpu_us),
    )


def _growth(empty: float | None, filled: float) -> tuple[str, str, str]:
    if empty is None:
        return "-", f"{filled:.1f}", "-"
    return f"{empty:.1f}", f"{filled:.1f}", f"{filled / empty:.2f}"
