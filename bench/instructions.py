"""`python -m bench.instructions`: the machine instructions of a request, counted by Valgrind.

The processor time of a request differs by 5 % between two processes of the same code, and the
number of its instructions by 1 %. It includes neither the kernel nor waits for memory.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from typing_extensions import override

from bench.contestants import CONTESTANTS, ServerEntrant, Stage
from bench.machine import Cores, choose_cores
from bench.processes import ROOT, ChildFailed, Server

NAMES: Final = "stored", "inline", "send", "send-keyed"

CONTROL_SECONDS: Final = 60.0

_TOTAL: Final = "totals: "


class CountingStage(Stage):
    """A stage on which Valgrind runs `wats serve`.

    Args:
        tree: The folder of the version of the project to run.
    """

    def __init__(self, cores: Cores, folder: Path, connections: int, tree: Path) -> None:
        super().__init__(cores, folder, connections)
        self._tree = tree
        self._gateway: Server | None = None

    @property
    def _counts(self) -> Path:
        return self.path("counts")

    @override
    def start(self, *arguments: str, on_load_core: bool = False) -> Server:
        if arguments[0] != "wats":
            return super().start(*arguments, on_load_core=on_load_core)
        valgrind = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={self._counts}",
        ]
        # Sets and dictionaries of texts have the same order in each process.
        environ = {"PYTHONPATH": str(self._tree / "src"), "PYTHONHASHSEED": "0"}
        self._gateway = self.enter(arguments, environ=environ, prefix=valgrind)
        return self._gateway

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the instructions of the gateway during the block."""
        self._control("on")
        yield
        self._control("off")

    def _control(self, state: str) -> None:
        assert self._gateway is not None
        command = ["callgrind_control", f"--instr={state}", str(self._gateway.pid)]
        done = subprocess.run(command, capture_output=True, timeout=CONTROL_SECONDS, check=False)
        if done.returncode:
            msg = "Valgrind does not respond."
            raise ChildFailed(msg)

    def total(self) -> int:
        """Return the number of counted instructions. The gateway must have ended."""
        for line in self._counts.read_text().splitlines():
            if line.startswith(_TOTAL):
                return int(line.removeprefix(_TOTAL))
        msg = "Valgrind did not count."
        raise ChildFailed(msg)


def count(name: str, tree: Path, seconds: float) -> float:
    """Return the number of instructions of *tree* for each request of the contestant *name*."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as folder:
        with CountingStage(choose_cores(), Path(folder), 64, tree) as stage:
            entrant = CONTESTANTS[name].enter(stage)
            assert isinstance(entrant, ServerEntrant)
            entrant.measure(seconds)  # CPython replaces instructions of code that has run often
            warm = entrant.answers
            with stage.counting():
                entrant.measure(seconds)
        return stage.total() / (entrant.answers - warm)


def main(given: Sequence[str] | None = None) -> None:
    """Count and print a line for each measurement that the command line selects."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--tree", type=Path, help="another version of the project, for comparison")
    options = parser.parse_args(given)
    if shutil.which("callgrind_control") is None:
        sys.exit("Valgrind is missing. On Debian, install the package valgrind.")
    (ROOT / "build").mkdir(exist_ok=True)
    trees = [ROOT] if options.tree is None else [options.tree.resolve(), ROOT]
    try:
        for name in options.only:
            counts = [count(name, tree, options.seconds) for tree in trees]
            ratio = "" if len(counts) == 1 else f"{counts[1] / counts[0]:8.2f}"
            print(f"{name:12}", *(f"{each:10,.0f}" for each in counts), ratio, flush=True)
    except ChildFailed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
