"""The request cache, over a model that counts what reaches it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refinery.errors import RowError
from refinery.journal import Journal
from refinery.models.base import Likelihood, Reply, Sampling
from refinery.models.cache import CachedModel, generation_digest, likelihood_digest, reusable
from refinery.records import Message
from refinery.store import Store


class Counting:
    """Answers with the number of the request, fails where the prompt says so."""

    identity = "counting"

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.pause = 0.0
        self.tokens, self.finish = 5, "stop"

    async def generate(self, messages: list[Message], sampling: Sampling, sample: int = 0) -> Reply:
        self.asked.append((messages, sampling, sample))
        number = len(self.asked)
        await asyncio.sleep(self.pause)
        if messages[-1]["content"].startswith("fail"):
            raise RowError("server_error", "no", transient=True)
        return Reply(f"answer {number}", self.finish, 10, self.tokens)  # type: ignore[arg-type]

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        self.asked.append((messages, continuation))
        return Likelihood([-1.0, -0.5 * len(self.asked)])

    async def close(self) -> None:
        pass


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


Work = Callable[[CachedModel], Awaitable[Any]]


@pytest.fixture
def with_cache(tmp_path: Path) -> Callable[[Counting, Work], Any]:
    """Run some work on a model through a cache; each call is a run of its own on one store."""

    def run(model: Counting, work: Work) -> Any:
        async def all_of_it() -> Any:
            cached = CachedModel(model, store, journal)
            try:
                return await asyncio.wait_for(work(cached), 20)
            finally:
                await cached.close()

        store = Store(tmp_path / "s.duckdb")
        with Journal(store, every=0.05) as journal:
            return asyncio.run(all_of_it())

    return run


@pytest.fixture(params=["same run", "next run"])
def twice(request: pytest.FixtureRequest, with_cache: Any) -> Callable[[Counting, Work, Work], tuple[Any, Any]]:
    """Two pieces of work in one run, and in two."""

    def run(model: Counting, first: Work, second: Work) -> tuple[Any, Any]:
        async def both(cached: CachedModel) -> tuple[Any, Any]:
            return await first(cached), await second(cached)

        if request.param == "same run":
            return with_cache(model, both)
        return with_cache(model, first), with_cache(model, second)

    return run


def ask(text: str, sampling: Sampling = Sampling(), sample: int = 0) -> Work:
    return lambda cached: cached.generate(user(text), sampling, sample)


def test_an_answer_is_asked_once(twice: Any) -> None:
    model = Counting()
    first, second = twice(model, ask("q"), ask("q"))
    assert len(model.asked) == 1
    assert second == replace(first, cached=True) and not first.cached


def test_a_likelihood_is_asked_once(twice: Any) -> None:
    model = Counting()
    work = lambda cached: cached.loglikelihood(user("q"), "yes")  # noqa: E731
    first, second = twice(model, work, work)
    assert len(model.asked) == 1 and second.logprobs == first.logprobs and second.cached and not first.cached


DIFFERENT: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 5},
    {"seed": 1},
    {"stop": ("x",)},
]


def test_whatever_shapes_the_answer_is_in_the_digest() -> None:
    base = generation_digest("m", user("q"), Sampling(), 0)
    system = [{"role": "system", "content": "s"}, *user("q")]
    others = [
        *(generation_digest("m", user("q"), Sampling(**values), 0) for values in DIFFERENT),
        generation_digest("m", user("q"), Sampling(), 1),
        generation_digest("m", user("q "), Sampling(), 0),
        generation_digest("m", system, Sampling(), 0),
        generation_digest("provider/m", user("q"), Sampling(), 0),
        likelihood_digest("m", user("q"), ""),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert generation_digest("m", user("q"), Sampling(max_tokens=3), 0) == base


def test_a_request_that_differs_is_asked(with_cache: Any) -> None:
    model = Counting()

    async def work(cached: CachedModel) -> None:
        for values in DIFFERENT:
            await cached.generate(user("q"), Sampling(**values))
        await cached.generate(user("q"), Sampling())
        await cached.generate(user("q"), Sampling(), 1)
        await cached.loglikelihood(user("q"), "a")
        await cached.loglikelihood(user("q"), "b")

    with_cache(model, work)
    assert len(model.asked) == len(DIFFERENT) + 4
    with_cache(model, work)
    assert len(model.asked) == len(DIFFERENT) + 4


@pytest.mark.parametrize(
    ("finish", "tokens", "old", "new", "reused"),
    [
        ("stop", 5, 8, 8, True),
        ("stop", 5, 8, 100, True),
        ("stop", 5, 8, 5, True),
        ("stop", 5, 8, 4, False),
        ("length", 8, 8, 8, True),
        ("length", 8, 8, 100, False),
        ("length", 8, 8, 4, False),
        ("stop", 0, 8, 16, True),  # a server that counts no tokens
        ("stop", 0, 8, 7, False),
    ],
)
def test_max_tokens(with_cache: Any, finish: str, tokens: int, old: int, new: int, reused: bool) -> None:
    model = Counting()
    model.finish, model.tokens = finish, tokens
    with_cache(model, ask("q", Sampling(max_tokens=old)))
    reply = with_cache(model, ask("q", Sampling(max_tokens=new)))
    assert len(model.asked) == (1 if reused else 2) and reply.cached is reused


def test_several_limits_of_one_request_stand_side_by_side(with_cache: Any) -> None:
    model = Counting()
    model.finish, model.tokens = "length", 8
    with_cache(model, ask("q", Sampling(max_tokens=8)))
    model.finish, model.tokens = "stop", 12
    whole = with_cache(model, ask("q", Sampling(max_tokens=16)))
    assert with_cache(model, ask("q", Sampling(max_tokens=8))).text == "answer 1"
    assert with_cache(model, ask("q", Sampling(max_tokens=64))).text == whole.text == "answer 2"
    assert len(model.asked) == 2
    assert reusable([], 8) is None


def test_equal_requests_under_way_are_sent_once(with_cache: Any) -> None:
    model = Counting()
    model.pause = 0.05

    async def work(cached: CachedModel) -> list[Reply]:
        return await asyncio.gather(*(cached.generate(user(f"q{i % 3}"), Sampling()) for i in range(30)))

    replies = with_cache(model, work)
    assert len(model.asked) == 3 and len({reply.text for reply in replies}) == 3
    assert sum(not reply.cached for reply in replies) == 3


def test_a_failure_reaches_all_who_wait_and_is_not_stored(with_cache: Any) -> None:
    model = Counting()
    model.pause = 0.02

    async def work(cached: CachedModel) -> list[Any]:
        tasks = [cached.generate(user("fail"), Sampling()) for _ in range(3)]
        return [*await asyncio.gather(*tasks, return_exceptions=True), cached.counts]

    *errors, counts = with_cache(model, work)
    assert [error.reason for error in errors] == ["server_error"] * 3 and len(model.asked) == 1
    assert (counts.sent, counts.cached, counts.failed) == (0, 0, 1)
    with_cache(model, work)
    assert len(model.asked) == 2


def test_all_of_equal_requests_that_are_cancelled_together_end(with_cache: Any) -> None:
    """Twice, as a step that is stopped does it: none of them takes over from another and asks again."""
    model = Counting()
    model.pause = 5.0

    async def work(cached: CachedModel) -> None:
        tasks = [asyncio.create_task(cached.generate(user("q"), Sampling())) for _ in range(4)]
        await asyncio.sleep(0.02)
        for _ in range(2):
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(tasks, timeout=0.5)
        assert all(task.cancelled() for task in tasks)

    with_cache(model, work)
    assert len(model.asked) == 1


def test_a_cancelled_caller_does_not_take_the_others_along(with_cache: Any) -> None:
    model = Counting()
    model.pause = 0.05

    async def work(cached: CachedModel) -> list[Any]:
        tasks = [asyncio.create_task(cached.generate(user("q"), Sampling())) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = with_cache(model, work)
    assert isinstance(first, asyncio.CancelledError) and isinstance(third, asyncio.CancelledError)
    assert second.text == "answer 2" and len(model.asked) == 2  # the second asked again for itself


def test_text_that_is_not_unicode_is_not_sent(with_cache: Any) -> None:
    model = Counting()
    for work in (ask("half \ud83d"), lambda cached: cached.loglikelihood(user("q"), "\udc00")):
        with pytest.raises(RowError) as error:
            with_cache(model, work)
        assert error.value.reason == "invalid_text"
    assert model.asked == []


def test_an_interrupt_keeps_what_was_answered(with_cache: Any) -> None:
    model = Counting()

    async def work(cached: CachedModel) -> None:
        await asyncio.gather(*(cached.generate(user(f"q{i}"), Sampling()) for i in range(20)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_cache(model, work)

    async def again(cached: CachedModel) -> None:
        await asyncio.gather(*(cached.generate(user(f"q{i}"), Sampling()) for i in range(20)))

    with_cache(model, again)
    assert len(model.asked) == 20


def test_counts(with_cache: Any) -> None:
    async def work(cached: CachedModel) -> Any:
        for text in ("a", "b", "a"):
            await cached.generate(user(text), Sampling())
        return cached.counts

    counts = with_cache(Counting(), work)
    assert (counts.sent, counts.cached, counts.failed) == (2, 1, 0)
    assert (counts.prompt_tokens, counts.completion_tokens) == (20, 10)
