"""Coroutines run in a thread of their own, so that no signal ever interrupts them between two of their lines.

A signal's exception (Ctrl-C, SIGTERM) is raised in the main thread, which only waits; the coroutine is cancelled at a
point where it waits, and has cleaned up before the exception goes on. In the main thread an event loop would take the
signals over: uvloop's would keep them from whoever else watches (refinery/cli/interrupt.py), and an exception raised
in one of its callbacks leaves tasks behind that nobody ends.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Event, Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What the coroutine returns or raises. On an exception in this thread meanwhile it is cancelled and awaited; a
    second one, as of a second Ctrl-C, leaves it where it is."""
    under_way: list[tuple[asyncio.AbstractEventLoop, Any]] = []
    stopped = Event()
    result: Future[Result] = Future()

    async def main() -> Result:
        under_way.append((asyncio.get_running_loop(), asyncio.current_task()))
        if stopped.is_set():
            coroutine.close()
            raise asyncio.CancelledError
        return await coroutine

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                found = runner.run(main())
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(found)

    thread = Thread(target=work, name="loop", daemon=True)
    try:
        thread.start()
        return result.result()
    finally:
        stopped.set()
        for loop, task in under_way:
            with suppress(RuntimeError):  # the loop is closed: all is over
                loop.call_soon_threadsafe(task.cancel)
        if thread.ident is not None:
            thread.join()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (it is not on Windows): a tenth faster where a server answers at once."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop  # type: ignore[no-any-return]
