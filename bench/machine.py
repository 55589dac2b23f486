"""The conditions of the figures: cores, placement of processes, speed of the disk."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_WRITES = 64


class Cores(msgspec.Struct, frozen=True):
    """The cores of servers and of the load; `None` where they cannot be chosen."""

    server: int | None
    load: int | None

    @property
    def apart(self) -> bool:
        """Whether they are two."""
        return self.server != self.load


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The description of the machine at the head of the report."""

    python: str
    system: str
    processor: str
    cores: int
    placed: Cores
    fsync_ms: float


def choose_cores() -> Cores:
    """Return a core for the servers and another for the load, physical ones if possible."""
    if sys.platform != "linux":
        return Cores(None, None)
    available = sorted(os.sched_getaffinity(0))
    server = available[0]
    others = [core for core in available if core not in _siblings(server)]
    return Cores(server, (others or available[1:] or available)[0])


def _siblings(core: int) -> set[int]:
    """Return the numbers under which the system knows the hardware of *core*."""
    try:
        text = Path(_SIBLINGS.format(core)).read_text(encoding="ascii").strip()
    except OSError:
        return {core}
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Keep this process, and permanently those that it starts meanwhile, on *core*."""
    if sys.platform != "linux" or core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def facts(cores: Cores, folder: Path) -> Facts:
    """Return a description of this machine, and of the disk that *folder* is on."""
    return Facts(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        placed=cores,
        fsync_ms=_fsync_ms(folder),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _fsync_ms(folder: Path) -> float:
    """Return how long the disk takes to sync 4 KiB."""
    path = folder / "fsync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_WRITES):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return median(times) * 1e3


def peak_mib(pid: int) -> float | None:
    """Return the peak memory of process *pid*; `None` where the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return sizes[0] / 1024 if sizes else None


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of process *pid* so far; `None` where the system does not report it.

    The system counts in hundredths of a second.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    # After the name, which is in brackets and may hold any text, the times are the 12th and 13th.
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
