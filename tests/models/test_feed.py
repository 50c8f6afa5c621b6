"""Calls taken by a worker while others are under way. No model."""

import asyncio
import threading
import time

import pytest

from refinery.errors import RowError
from refinery.models.feed import Feed


def doubler(sizes, at_once=4):
    """A worker that answers one call at a time and takes others in between."""

    def run(take):
        under_way = []
        while True:
            under_way += take(at_once - len(under_way))
            if not under_way:
                return
            sizes.append(len(under_way))
            call = under_way.pop(0)
            time.sleep(0.001)
            call.answer(RowError("odd") if call.item % 2 else call.item * 2)

    return run


def test_each_call_gets_its_own_answer_while_others_wait():
    sizes = []
    feed = Feed(doubler(sizes))

    async def go():
        return await asyncio.gather(*(feed(n) for n in range(40)), return_exceptions=True)

    found = asyncio.run(go())
    assert found[::2] == [2 * n for n in range(0, 40, 2)]
    assert all(isinstance(each, RowError) and each.reason == "odd" for each in found[1::2])
    assert max(sizes) == 4 and sizes.count(4) > 30, "a free place is taken at once"
    assert asyncio.run(go())[::2] == found[::2], "in another event loop too"
    feed.close()


def test_an_error_of_the_worker_goes_to_every_caller_and_the_next_call_starts_anew():
    failing = True

    def run(take):
        calls = take(2)
        if failing and calls:
            raise ValueError("broken")
        while calls:
            for call in calls:
                call.answer(call.item)
            calls = take(2)

    feed = Feed(run)

    async def all_of(count):
        return await asyncio.gather(*(feed(n) for n in range(count)), return_exceptions=True)

    assert [type(each) for each in asyncio.run(all_of(5))] == [ValueError] * 5
    failing = False
    assert asyncio.run(all_of(5)) == list(range(5))
    feed.close()


def test_a_call_that_was_cancelled_is_not_taken():
    taken, gate = [], threading.Event()

    def run(take):
        while calls := take(1):
            gate.wait(10)
            taken.append(calls[0].item)
            calls[0].answer(calls[0].item)

    feed = Feed(run)

    async def go():
        first, second, third = (asyncio.create_task(feed(n)) for n in range(3))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, third), second

    found, second = asyncio.run(go())
    assert found == [0, 2] and taken == [0, 2]
    with pytest.raises(asyncio.CancelledError):
        second.result()
    feed.close()
