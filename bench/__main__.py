"""`python -m bench`: measure wats and its rivals in turns, on one core, and print a table."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.contestants import CONTESTANTS, Contestant, Entrant, Round, Stage
from bench.fanout import FanoutOrder, FanoutRates
from bench.hiding import measure_hiding
from bench.machine import Cores, choose_cores, facts, on_core
from bench.processes import ROOT, ChildFailed, run
from bench.report import Report, Result
from bench.telemetry import TURNS, Costs
from bench.writer import Order, WriterCosts
from wats import __version__

TELEMETRY = "telemetry"
HIDING = "hiding"
WRITER = "writer"
FANOUT = "fanout"
SPECIAL = (FANOUT, TELEMETRY, HIDING, WRITER)
DELIVERIES_PER_SECOND = 1500
"""The number of deliveries of a round of `fanout`, for each second that a round takes."""
WRITER_ROUNDS = 3
"""The number of rounds of the writer per round of the others."""
WARM_UP_SECONDS = 1.0
TELEMETRY_SECONDS = 0.4
_IMPORT_SECONDS = 60.0
_WRITER_SECONDS = 600.0


def main() -> None:
    """Run the benchmark that the command line selects."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # On the disk of the working tree: a file system in memory would make every commit free.
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
            Path(folder).chmod(0o711)  # a database server may run as another user
            cores = choose_cores()
            # This process is nearly idle, and not on the core of the servers.
            with on_core(cores.load):
                report = _measure(options, cores, Path(folder))
    except ChildFailed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    print(report.to_text(), end="")
    if options.json is not None:
        options.json.write_bytes(report.to_json())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="the length of a round")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds each has")
    parser.add_argument("--connections", type=int, default=64, help="number of connections")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*CONTESTANTS, *SPECIAL],
        default=[*CONTESTANTS, *SPECIAL],
        metavar="NAME",
        help=f"measure only these: {', '.join([*CONTESTANTS, *SPECIAL])}",
    )
    parser.add_argument("--pairs", type=int, default=100_000, help="how many for hiding")
    parser.add_argument(
        "--messages", type=int, default=5_000_000, help="how many in the store of the writer"
    )
    options = parser.parse_args()
    if (
        options.seconds <= 0
        or min(options.rounds, options.connections, options.messages) < 1
        or options.pairs < 100
    ):
        parser.error("--seconds and the numbers must be positive, --pairs 100 or more")
    return options


def _measure(options: argparse.Namespace, cores: Cores, folder: Path) -> Report:
    chosen = {name: each for name, each in CONTESTANTS.items() if name in options.only}
    machine = facts(cores, folder)
    with Stage(cores, folder, options.connections) as stage:
        results = _take_turns(stage, chosen, seconds=options.seconds, rounds=options.rounds)
        fanout = None
        if FANOUT in options.only:
            fanout = _fan_out(stage, folder, options)
        hiding = None
        if HIDING in options.only:
            _say(HIDING)
            hiding = measure_hiding(stage, options.pairs)
    telemetry = None
    if TELEMETRY in options.only:
        telemetry = _count(cores, min(TELEMETRY_SECONDS, options.seconds))
    writer = None
    if WRITER in options.only:
        writer = _write(cores, folder, options)
    return Report(
        wats=__version__,
        facts=machine,
        connections=options.connections,
        seconds=options.seconds,
        results=results,
        fanout=fanout,
        telemetry=telemetry,
        hiding=hiding,
        writer=writer,
    )


def _take_turns(
    stage: Stage, chosen: dict[str, Contestant], *, seconds: float, rounds: int
) -> dict[str, Result]:
    """Run the rounds of *chosen* in turns, so that a slow minute affects all."""
    entrants: dict[str, Entrant] = {}
    for name, contestant in chosen.items():
        _say(f"{contestant.title} starts")
        entrants[name] = contestant.enter(stage)
        entrants[name].measure(min(WARM_UP_SECONDS, seconds))
    measured: dict[str, list[Round]] = {name: [] for name in entrants}
    for number in range(1, rounds + 1):
        for name, entrant in entrants.items():
            _say(f"round {number} of {rounds}: {chosen[name].title}")
            measured[name].append(entrant.measure(seconds))
    return {
        name: Result(rounds=measured[name], peak_mib=entrant.peak_mib())
        for name, entrant in entrants.items()
    }


def _fan_out(stage: Stage, folder: Path, options: argparse.Namespace) -> FanoutRates:
    _say(FANOUT)
    order = FanoutOrder(
        folder=str(folder),
        url=stage.start("bench.graph", on_load_core=True).url,
        deliveries=max(round(options.seconds * DELIVERIES_PER_SECOND), 1),
        rounds=options.rounds,
    )
    output = run(
        "bench.fanout",
        msgspec.json.encode(order),
        core=stage.cores.server,
        timeout_seconds=_WRITER_SECONDS,
    )
    return msgspec.json.decode(output, type=FanoutRates)


def _count(cores: Cores, seconds: float) -> Costs:
    _say("telemetry")
    timeout_seconds = _IMPORT_SECONDS + 10 * TURNS * seconds
    given = str(seconds).encode()
    output = run("bench.telemetry", given, core=cores.server, timeout_seconds=timeout_seconds)
    return msgspec.json.decode(output, type=Costs)


def _write(cores: Cores, folder: Path, options: argparse.Namespace) -> WriterCosts:
    _say(WRITER)
    rounds = WRITER_ROUNDS * options.rounds
    order = Order(folder=str(folder), messages=options.messages, rounds=rounds)
    output = run(
        "bench.writer",
        msgspec.json.encode(order),
        core=cores.server,
        timeout_seconds=_WRITER_SECONDS,
    )
    return msgspec.json.decode(output, type=WriterCosts)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
