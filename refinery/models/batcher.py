"""Calls that arrive one by one, run together: for a model's forward pass, an encoder, a query of the store."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """`await batcher(item)` answers with the item's result of `run(items)`.

    A batch is taken when the event loop has nothing new to add to it, or at `max_batch`, and not before the batch
    under way is done. `run` is called in one thread of the batcher's own, so it needs no locks and the loop stays
    free; it returns one result for each item, in order, and a result that is an exception is raised to that item's
    caller alone. An exception raised by `run` itself goes to every caller of the batch.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result | Exception]], *, max_batch: int, name: str = "batch"
    ):
        self.run, self.max_batch = run, max_batch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy = False
        """True from the first waiting call until no call waits and no batch runs."""
        self._seen = 0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the last loop may have ended with calls waiting
            self._loop, self._waiting, self._busy = loop, [], False
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy, self._seen = True, 0
            loop.call_soon(self._gather)
        return await future

    def close(self) -> None:
        """Let the batch under way end and drop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _gather(self) -> None:
        """Take a batch, unless calls arrived since the last look: then look again when the loop has gone round."""
        assert self._loop is not None
        waiting = self._waiting = [call for call in self._waiting if not call[1].done()]
        if not waiting:
            self._busy = False
        elif len(waiting) > self._seen and len(waiting) < self.max_batch:
            self._seen = len(waiting)
            self._loop.call_soon(self._gather)
        else:
            batch, self._waiting = waiting[: self.max_batch], waiting[self.max_batch :]
            self._task = self._loop.create_task(self._answer(batch))

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        assert self._loop is not None
        try:
            results = await self._loop.run_in_executor(self._thread, self.run, [item for item, _ in batch])
            for (_, future), result in list(zip(batch, results, strict=True)):  # all of them before any is told
                settle(future, result)
        except Exception as error:
            for _, future in batch:
                settle(future, error)
        finally:
            self._seen = 0
            self._gather()


def settle(future: "asyncio.Future[Result]", result: Result | Exception) -> None:
    """Give a call its result, in the thread of its loop; an exception is raised to the caller."""
    if future.done():  # its caller was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
