"""Child processes of `wats` commands that report when they are ready."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from types import TracebackType

READY_SECONDS = 30.0


class Process:
    """A `wats` command in a process of its own: ready on entry, ended on exit.

    Its `url` is the announced one. Its stderr is ours.
    """

    def __init__(self, *arguments: str, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = {**os.environ, **environ}
        self.url = ""

    async def __aenter__(self) -> "Process":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "wats"),
            *self._arguments,
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None  # noqa: S101 - it was requested
        try:
            async with asyncio.timeout(READY_SECONDS):
                self.url = json.loads(await self._process.stdout.readline())["url"]
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    async def kill(self) -> None:
        """End it immediately, as a power cut would, without any clean-up."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
