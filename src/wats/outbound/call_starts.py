"""The starts of calls: a message is sent only after the store has recorded that its call starts.

call A ─┐
call B ─┼─▸ recorded in one transaction, while the calls after them wait for the next
call C ─┘
"""

import asyncio

from wats.cancellation import resolve
from wats.store import Store
from wats.store.records import Delivery


class CallStarts:
    """Records the starts of the calls of leased items.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Delivery, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, delivery: Delivery) -> bool:
        """Record that the call of *delivery* starts; return whether its lease is held.

        Raises:
            StoreError: It was not recorded, so there must be no call.
        """
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, recorded))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
            self._writing.add_done_callback(self._ended)
        return await recorded

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                lost = await self._store.renew([each for each, _ in batch], is_final=True)
            except BaseException as error:
                for _, recorded in batch:
                    resolve(recorded, None, error)
                if not isinstance(error, Exception):
                    raise
                continue
            for delivery, recorded in batch:
                resolve(recorded, delivery not in lost, None)

    def _ended(self, writing: "asyncio.Task[None]") -> None:
        """Cancel the calls that wait, if any code in the process cancelled the task."""
        self._writing = None
        waiting, self._waiting = self._waiting, []
        for _, recorded in waiting:
            recorded.cancel()
