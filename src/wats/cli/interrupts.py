"""SIGINT before a command reacts to it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Let SIGINT end the process in the block, also during imports.

    An import may swallow a `KeyboardInterrupt`: some modules catch every exception, and Python
    ignores those in its own callbacks. SIGINT stays ignored, as in the background of a shell.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
