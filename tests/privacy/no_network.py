"""Runs a command that the kernel kills as soon as it, or a child, connects anywhere.

    python no_network.py [--with-children] COMMAND [ARGUMENT…]

It is also killed when it starts a child process: the death of a child that connects would go
unnoticed. With `--with-children` it may start some.

The filter matches `connect` and every call that sends to an address, so it catches name lookups
too, whichever library makes them. Accepting connections is permitted. The filter needs no
privilege: any process may forbid itself system calls permanently.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple


class Machine(NamedTuple):
    """How the kernel names this architecture, and its numbers of the calls."""

    audit: int
    sendto: int
    forbidden: tuple[int, ...]
    clone: int
    forks: tuple[int, ...]


MACHINES = {
    # connect, sendmsg, sendmmsg; fork, vfork
    "x86_64": Machine(0xC000003E, 44, (42, 46, 307), 56, (57, 58)),
    "aarch64": Machine(0xC00000B7, 206, (203, 211, 269), 220, ()),
}
CLONE3 = 435
"""Its flags are in memory, which a filter cannot read. Without it libc uses clone."""

CLONE_THREAD = 0x10000

IO_URING_SETUP = 425
"""With it, calls would be made that the filter does not see. It is made to look absent."""

X32 = 0x40000000
"""From here on x86-64 numbers the same calls once more."""

LOAD, EQUAL, AT_LEAST, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FLAGS, ADDRESS = 0, 4, 16, 48
"""The offsets of the number of a call, its architecture, its first and its fifth argument."""

KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | errno.ENOSYS


Test = tuple[int, int, bool, int]
"""A comparison, its operand, the result that decides, and the decision."""


def no_network(machine: Machine) -> bytes:
    """Return the filter that kills a process that connects anywhere."""
    tests: list[Test] = [
        (EQUAL, machine.audit, False, KILL),
        (AT_LEAST, X32, True, KILL),
        *((EQUAL, number, True, KILL) for number in machine.forbidden),
        (EQUAL, IO_URING_SETUP, True, REFUSE),
        (EQUAL, machine.sendto, False, ALLOW),
        (EQUAL, 0, False, KILL),
        (EQUAL, 0, False, KILL),
    ]
    loads = {0: ARCHITECTURE, 1: NUMBER, len(tests) - 2: ADDRESS, len(tests) - 1: ADDRESS + 4}
    return program(tests, loads, ALLOW)


def no_children(machine: Machine) -> bytes:
    """Return the filter that kills a process that starts another one; threads are allowed."""
    tests: list[Test] = [
        *((EQUAL, number, True, KILL) for number in machine.forks),
        (EQUAL, CLONE3, True, REFUSE),
        (EQUAL, machine.clone, False, ALLOW),
        (HAS_BITS, CLONE_THREAD, True, ALLOW),
    ]
    return program(tests, {0: NUMBER, len(tests) - 1: FLAGS}, KILL)


def program(tests: list[Test], loads: dict[int, int], otherwise: int) -> bytes:
    """Return a filter, as the kernel takes it: each test goes on to the next one or decides."""

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    # A step jumps over the one behind it, which decides.
    steps = []
    for place, (code, value, decides_if, decision) in enumerate(tests):
        if place in loads:
            steps.append(step(LOAD, loads[place]))
        steps.append(step(code, value, *((0, 1) if decides_if else (1, 0))))
        steps.append(step(RETURN, decision))
    return b"".join((*steps, step(RETURN, otherwise)))


def forbid(make: Callable[[Machine], bytes]) -> None:
    """Put a filter over this process and all that it starts; several are obeyed together."""
    steps = make(MACHINES[platform.machine()])
    buffer = ctypes.create_string_buffer(steps, len(steps))
    header = struct.pack("@HP", len(steps) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_new_privileges, set_filter, filtered = 38, 22, 2
    if prctl(no_new_privileges, 1, 0, 0, 0) or prctl(set_filter, filtered, header, 0, 0):
        raise OSError(ctypes.get_errno(), "The kernel takes no filter.")


if __name__ == "__main__":
    command = sys.argv[1:]
    forbid(no_network)
    if command[0] == "--with-children":
        del command[0]
    else:
        forbid(no_children)
    os.execvp(command[0], command)  # noqa: S606 - the tests' own command
