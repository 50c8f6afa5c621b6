import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from refinery.models.batcher import Batcher


def doubled(batches: list[list[int]]) -> Callable[[list[int]], list[int | Exception]]:
    def run(items: list[int]) -> list[int | Exception]:
        batches.append(list(items))
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]

    return run


def run(work: Callable[[], Awaitable[object]]) -> object:
    return asyncio.run(asyncio.wait_for(work(), 20))  # type: ignore[arg-type]


def test_calls_made_together_run_together_in_order_up_to_the_limit() -> None:
    batches: list[list[int]] = []
    batcher = Batcher(doubled(batches), max_batch=4)

    async def work() -> None:
        assert await asyncio.gather(*map(batcher, range(10))) == [2 * i for i in range(10)]

    run(work)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_calls_that_arrive_in_later_turns_of_the_loop_still_join() -> None:
    batches: list[list[int]] = []
    batcher = Batcher(doubled(batches), max_batch=100)

    async def late(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await batcher(number)

    async def work() -> None:
        assert await asyncio.gather(*map(late, range(8))) == [2 * i for i in range(8)]

    run(work)
    assert batches == [list(range(8))]


def test_what_arrives_during_a_batch_is_the_next_one() -> None:
    batches: list[list[int]] = []
    started, go = threading.Event(), threading.Event()

    def slow(items: list[int]) -> list[int]:
        batches.append(items)
        started.set()
        go.wait(10)
        return items

    batcher = Batcher(slow, max_batch=100)

    async def work() -> None:
        first = asyncio.create_task(batcher(0))
        while not started.is_set():
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher(i)) for i in (1, 2, 3)]
        await asyncio.sleep(0.01)
        go.set()
        assert await asyncio.gather(first, *rest) == [0, 1, 2, 3]

    run(work)
    assert batches == [[0], [1, 2, 3]]


def test_an_exception_goes_to_its_own_caller() -> None:
    batcher = Batcher(doubled([]), max_batch=10)

    async def work() -> None:
        results = await asyncio.gather(*map(batcher, [1, -1, 2]), return_exceptions=True)
        assert results[0] == 2 and results[2] == 4
        assert isinstance(results[1], ValueError) and str(results[1]) == "-1"

    run(work)


@pytest.mark.parametrize("broken", [lambda items: 1 / 0, lambda items: [1]])
def test_a_run_that_fails_fails_its_batch_and_no_other(broken: Callable[[list[int]], list[int]]) -> None:
    batcher = Batcher(lambda items: broken(items) if 0 in items else items, max_batch=2)

    async def work() -> None:
        results = await asyncio.gather(*map(batcher, [0, 1, 2, 3]), return_exceptions=True)
        assert all(isinstance(result, (ZeroDivisionError, ValueError)) for result in results[:2]), results
        assert results[2:] == [2, 3]

    run(work)


def test_a_cancelled_call_is_left_out_and_harms_no_other() -> None:
    batches: list[list[int]] = []
    batcher = Batcher(doubled(batches), max_batch=10)

    async def work() -> None:
        tasks = [asyncio.create_task(batcher(i)) for i in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0] == 0 and results[2] == 4 and isinstance(results[1], asyncio.CancelledError)
        assert await batcher(5) == 10

    run(work)
    assert batches == [[0, 2], [5]]


def test_run_is_called_in_one_thread_off_the_loop() -> None:
    threads = set()

    def where(items: list[int]) -> list[int]:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return items

    batcher = Batcher(where, max_batch=1)

    async def work() -> None:
        await asyncio.gather(*map(batcher, range(5)))

    run(work)
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_it_serves_one_event_loop_after_another() -> None:
    batcher = Batcher(doubled([]), max_batch=10)

    async def left_waiting() -> None:
        asyncio.ensure_future(batcher(1))  # noqa: RUF006
        await asyncio.sleep(0)

    async def work() -> None:
        assert await batcher(2) == 4

    run(left_waiting)
    run(work)
    batcher.close()
