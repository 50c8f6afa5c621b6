"""Calls that arrive one by one, taken by a worker that makes room for the next as soon as one is done."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from refinery.models.batcher import settle

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Call(Generic[Item]):
    """One caller's item, and where its answer goes."""

    item: Item
    _loop: asyncio.AbstractEventLoop
    _future: "asyncio.Future[Any]"

    def answer(self, result: Any) -> None:
        """From any thread; an exception is raised to the caller."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle, self._future, result)

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer any more."""
        return self._future.done()


class Feed(Generic[Item]):
    """`await feed(item)` answers with what `run` gives that item.

    `run(take)` is called in one thread of the feed's own, never twice at a time. `take(n)` hands it up to n calls that
    wait; it answers each when it will, and returns when none is left. An exception that it raises goes to every caller
    that waits for an answer.
    """

    def __init__(self, run: "Callable[[Callable[[int], list[Call[Item]]]], None]", *, name: str = "feed"):
        self.run = run
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: deque[Call[Item]] = deque()
        self._taken: list[Call[Item]] = []
        self._busy = False

    async def __call__(self, item: Item) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            self._waiting.append(Call(item, loop, future))
            start = not self._busy
            self._busy = True
        if start:
            loop.call_soon(self._thread.submit, self._work)  # calls of this moment come along
        return await future

    def close(self) -> None:
        """Let what is under way end and drop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take(self, n: int) -> list[Call[Item]]:
        with self._lock:
            found: list[Call[Item]] = []
            while self._waiting and len(found) < n:
                if not (call := self._waiting.popleft()).gone:
                    found.append(call)
            self._taken = [call for call in self._taken if not call.gone] + found
            return found

    def _work(self) -> None:
        while True:
            try:
                self.run(self._take)
            except Exception as error:
                with self._lock:
                    failed = [*self._taken, *self._waiting]
                    self._waiting.clear()
                for call in failed:
                    call.answer(error)
            with self._lock:
                self._taken = []
                if not self._waiting:
                    self._busy = False
                    return
