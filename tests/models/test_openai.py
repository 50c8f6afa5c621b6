"""The OpenAI backend against a real server on the loopback."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from refinery.errors import RowError, UserError
from refinery.models import identity, open_model, pace, servers
from refinery.models.base import Reply, Sampling
from refinery.records import Message
from refinery.spec import ModelSpec
from tests.models.server import GARBAGE, serve

KEY = "sk-very-secret-1234"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(servers, "FIRST_AWAY", 0.05)


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def spec(url: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{"backend": "openai", "model": "m", "base_url": url, "concurrency": 8, **more})


def run(entry: ModelSpec, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        model = open_model(entry, "judge")
        try:
            return await asyncio.wait_for(work(model), 60)
        finally:
            await model.close()

    return asyncio.run(all_of_it())


def ask_many(count: int, **sampling: Any) -> Callable[[Any], Awaitable[list[Any]]]:
    async def work(model: Any) -> list[Any]:
        tasks = [model.generate(user(f"q{i}"), Sampling(**sampling)) for i in range(count)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    return work


def reasons(results: list[Any]) -> set[tuple[str, bool]]:
    return {(result.reason, result.transient) for result in results if isinstance(result, RowError)}


def test_what_is_sent_and_what_comes_back() -> None:
    with serve(answer="echo", keep_bodies=1, key=KEY) as server:
        entry = spec(
            server.url, api_key=KEY, extra_body={"chat_template_kwargs": {"enable_thinking": False}, "n": None}
        )
        sampling = Sampling(0.7, 0.9, 20, 64, ("\n\n",), 3)

        async def work(model: Any) -> list[Reply]:
            system = [{"role": "system", "content": "be short"}, *user("hello there")]
            return [
                await model.generate(user("one two three"), Sampling(max_tokens=2)),
                *[await model.generate(system, sampling, sample) for sample in (0, 1, 0)],
            ]

        greedy, first, *_ = run(entry, work)
        stats = server.stats()
    assert greedy == Reply("one two", "length", 10, 2)
    assert first == Reply("hello there", "stop", 10, 2)
    bodies = stats["bodies"]
    plain = {"model": "m", "messages": user("one two three"), "max_tokens": 2, "temperature": 0.0}
    assert bodies[0] == plain | {"chat_template_kwargs": {"enable_thinking": False}}
    assert {key: bodies[1][key] for key in ("temperature", "top_p", "top_k", "max_tokens", "stop")} == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_tokens": 64, "stop": ["\n\n"]
    }  # fmt: skip
    assert bodies[1]["messages"][0] == {"role": "system", "content": "be short"}
    assert bodies[1]["seed"] != bodies[2]["seed"] and bodies[1] == bodies[3]
    assert 0 <= bodies[1]["seed"] < 2**31
    assert stats["last"]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_every_slot_is_used_and_no_more() -> None:
    with serve(latency=0.1) as server:
        results = run(spec(server.url, concurrency=6), ask_many(40))
        stats = server.stats()
    assert all(isinstance(result, Reply) for result in results)
    assert (stats["requests"], stats["most"]) == (40, 6)


@pytest.mark.parametrize(
    "trouble",
    [
        {"rate_limit_every": 3},
        {"error_every": 3},
        {"error_every": 3, "error_status": 500},
        {"reset_every": 4},
        {"garbage_every": 3, "garbage": "not_json"},
        {"garbage_every": 3, "garbage": "torn"},
        {"garbage_every": 3, "garbage": "unfinished"},
        {"torn_every": 3},
    ],
)
def test_passing_trouble_is_retried(trouble: dict[str, Any]) -> None:
    with serve(answer="echo", **trouble) as server:
        results = run(spec(server.url, retries=8), ask_many(24))
        stats = server.stats()
    assert [result.text for result in results] == [f"q{i}" for i in range(24)]
    assert stats["answered"] == 24 and stats["requests"] > 24


def test_retry_after_is_honoured() -> None:
    with serve(rate_limit_every=1, retry_after="0.4") as server:
        start = time.monotonic()
        results = run(spec(server.url, retries=2), ask_many(2))
        took = time.monotonic() - start
        stats = server.stats()
    assert reasons(results) == {("rate_limited", True)} and stats["requests"] == 6
    assert 0.8 <= took < 30


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), (None, None)],
)
def test_retry_after_forms(header: str | None, seconds: float | None) -> None:
    assert pace.seconds_asked(header) == seconds


def test_waits_double_with_jitter_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.5)
    for tries, longest in ((1, 0.5), (2, 1.0), (5, 8.0), (50, 30.0)):
        waits = [pace.wait_before(tries, None) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert max(waits) - min(waits) > longest / 4
    for asked in (0.0, 1.0):  # eight tries outlast what a server that asks for a second each time is busy for
        waits = [pace.wait_before(tries, asked) for tries in range(1, 9)]
        assert sum(waits) >= sum(0.5 * min(0.25 * 2**n, 30) for n in range(8)) and min(waits) >= asked
    assert 3.0 <= pace.wait_before(1, 3.0) < 3.2 and pace.wait_before(1, 1e9) < 121


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ({"error_every": 1}, ("server_error", True)),
        ({"rate_limit_every": 1}, ("rate_limited", True)),
        ({"reset_every": 1}, ("server_error", True)),
        ({"error_every": 1, "error_status": 418}, ("bad_request", False)),
    ],
)
def test_lasting_trouble_fails_the_row(trouble: dict[str, Any], expected: tuple[str, bool]) -> None:
    with serve(**trouble) as server:
        results = run(spec(server.url, retries=1), ask_many(3))
        stats = server.stats()
    assert reasons(results) == {expected} and len(results) == 3
    assert stats["requests"] == (6 if expected[1] else 3)


def test_a_slow_server_times_out() -> None:
    with serve(hang_every=2) as server:
        results = run(spec(server.url, retries=0, timeout=1.5, concurrency=1), ask_many(3))
    assert [isinstance(result, Reply) for result in results] == [True, False, True]
    assert reasons(results) == {("timeout", True)}


@pytest.mark.parametrize("garbage", sorted(GARBAGE))
def test_garbage_fails_the_row(garbage: str) -> None:
    expected = {"null": "empty_response", "empty": "empty_response", "surrogate": "invalid_text", "refusal": "refused"}
    expected |= {"filtered": "refused", "unfinished": "unfinished", "aborted": "server_error"}
    expected |= {"error_in_200": "server_error"}
    with serve(garbage_every=1, garbage=garbage) as server:
        results = run(spec(server.url, retries=1), ask_many(2))
        stats = server.stats()
    reason = expected.get(garbage, "bad_response")
    passing = reason in ("unfinished", "server_error")
    assert reasons(results) == {(reason, passing)} and len(results) == 2
    asked_again = passing or reason == "bad_response"
    assert stats["requests"] == (4 if asked_again else 2)  # what the model said is not asked again


def test_a_prompt_too_long_is_told_apart() -> None:
    with serve(context=5) as server:

        async def work(model: Any) -> list[Any]:
            tasks = [model.generate(user(text), Sampling()) for text in ("a b", "a b c d e f")]
            return await asyncio.gather(*tasks, return_exceptions=True)

        short, long = run(spec(server.url), work)
        stats = server.stats()
    assert isinstance(short, Reply) and isinstance(long, RowError)
    assert (long.reason, long.transient) == ("prompt_too_long", False) and "5 tokens" in long.detail
    assert stats["requests"] == 2


def stopped(results: list[Any]) -> str:
    """The one line that every request raised."""
    assert {type(result) for result in results} == {UserError}
    (line,) = {str(result) for result in results}
    assert "\n" not in line and line.startswith("models.judge: ") and KEY not in line
    return line


def test_a_refused_key_stops_the_run_and_is_not_shown() -> None:
    with serve(key="sk-right") as server:
        line = stopped(run(spec(server.url, api_key=KEY), ask_many(1)))
    assert "refused the api_key (HTTP 401)" in line


def test_a_key_in_a_servers_words_is_hidden() -> None:
    async def work(model: Any) -> Any:
        clean = model.servers.clean
        return clean(f'{{"error": {{"message": "bad\\n key {KEY}"}}}}'), clean(f"<p>{KEY}</p>")

    with serve() as server:
        entry = spec(server.url, api_key=KEY)
        assert run(entry, work) == ("bad key ***", "<p>***</p>")
        assert KEY not in repr(entry) and KEY not in identity(entry)


def test_an_unknown_model_stops_the_run() -> None:
    with serve(model="other") as server:
        line = stopped(run(spec(server.url), ask_many(1)))
    assert "no model 'm' at http://127.0.0.1" in line and "does not exist" in line


def test_a_server_that_is_not_there_stops_the_run_soon() -> None:
    with serve() as server:
        url = server.url
    line = stopped(run(spec(url, retries=5), ask_many(12)))
    assert f"cannot reach {url}" in line and "3 tries" in line


def test_a_server_that_dies_is_told_after_the_retries() -> None:
    with serve() as server:

        async def work(model: Any) -> list[Any]:
            assert await model.generate(user("a"), Sampling())
            server.process.kill()
            server.process.wait()
            return await ask_many(4)(model)

        line = stopped(run(spec(server.url, retries=2, patience=0.5), work))
        assert "cannot reach" in line and "for 0.5 s" in line and "same command again" in line


def test_a_server_that_fails_everything_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "HOPELESS", 5)
    with serve(error_every=1) as server:
        results = run(spec(server.url, retries=0, concurrency=1), ask_many(30))
        stats = server.stats()
    assert reasons(results) == {("server_error", True)}
    assert "no answer to 5 requests; the last: HTTP 503: overloaded" in stopped(results[4:])
    assert stats["requests"] == 5


def test_scoring_needs_another_backend() -> None:
    with pytest.raises(UserError, match="needs a backend that scores text"):
        run(spec("http://127.0.0.1:9/v1"), lambda model: model.loglikelihood(user("q"), "a"))


def test_a_missing_or_odd_address() -> None:
    with pytest.raises(UserError, match="backend openai needs a base_url"):
        run(ModelSpec(backend="openai", model="m"), ask_many(1))
    assert "is not an http address" in stopped(run(spec("localhost:8000/v1"), ask_many(1)))


def test_identity_is_what_is_served_not_where() -> None:
    base = identity(spec("http://a/v1"))
    assert base == identity(spec("http://b:8000/v1", api_key="k", concurrency=1, timeout=5, retries=1)) == "m"
    others = [
        identity(spec("http://a/v1", provider="p")),
        identity(spec("http://a/v1", model="n")),
        identity(spec("http://a/v1", extra_body={"top_a": 1})),
        identity(spec("http://a/v1", extra_body={"top_a": 2})),
    ]
    assert len({base, *others}) == 5


def test_a_model_serves_one_event_loop_after_another() -> None:
    with serve(answer="echo") as server:
        model = open_model(spec(server.url))

        async def work() -> str:
            try:
                return (await model.generate(user("hi"), Sampling())).text
            finally:
                await model.close()

        assert [asyncio.run(work()), asyncio.run(work())] == ["hi", "hi"]
