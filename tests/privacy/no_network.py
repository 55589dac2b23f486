"""Runs a command that the kernel kills as soon as it, or a child of it, turns to anybody.

    python no_network.py COMMAND [ARGUMENT…]

What counts is `connect`, and whatever sends to an address: so a look-up of a name does, too. It
makes no difference which library does it. To accept connections is no such thing. It needs no
privilege: any process may forbid itself system calls for good.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple


class Machine(NamedTuple):
    """How the kernel names this architecture, and its numbers of the calls."""

    audit: int
    sendto: int
    forbidden: tuple[int, ...]


MACHINES = {
    # connect, sendmsg, sendmmsg
    "x86_64": Machine(0xC000003E, 44, (42, 46, 307)),
    "aarch64": Machine(0xC00000B7, 206, (203, 211, 269)),
}
IO_URING_SETUP = 425
"""With it, calls would be made that no filter sees. It may say that it does not exist."""

X32 = 0x40000000
"""From here on x86-64 numbers the same calls once more."""

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, ADDRESS = 0, 4, 48
"""Where the number of a call stands, its architecture, and the fifth argument, of 8 bytes."""

KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | errno.ENOSYS


def program(machine: Machine) -> bytes:
    """Return the filter, as the kernel takes it: each step a test that goes on or decides."""

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    # A step jumps over the one behind it, which decides.
    tests: list[tuple[int, int, bool, int]] = [
        (EQUAL, machine.audit, False, KILL),
        (AT_LEAST, X32, True, KILL),
        *((EQUAL, number, True, KILL) for number in machine.forbidden),
        (EQUAL, IO_URING_SETUP, True, REFUSE),
        (EQUAL, machine.sendto, False, ALLOW),
        (EQUAL, 0, False, KILL),
        (EQUAL, 0, False, KILL),
    ]
    loads = {0: ARCHITECTURE, 1: NUMBER, len(tests) - 2: ADDRESS, len(tests) - 1: ADDRESS + 4}
    steps = []
    for place, (code, value, decides_if, decision) in enumerate(tests):
        if place in loads:
            steps.append(step(LOAD, loads[place]))
        steps.append(step(code, value, *((0, 1) if decides_if else (1, 0))))
        steps.append(step(RETURN, decision))
    return b"".join((*steps, step(RETURN, ALLOW)))


def forbid() -> None:
    """Put the filter over this process and all that it starts."""
    steps = program(MACHINES[platform.machine()])
    buffer = ctypes.create_string_buffer(steps, len(steps))
    header = struct.pack("@HP", len(steps) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_new_privileges, set_filter, filtered = 38, 22, 2
    if prctl(no_new_privileges, 1, 0, 0, 0) or prctl(set_filter, filtered, header, 0, 0):
        raise OSError(ctypes.get_errno(), "The kernel takes no filter.")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the tests' own command
