"""Several servers, budgets, patience and the pace, against real servers on the loopback that misbehave."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from refinery.errors import RowError, UserError
from refinery.journal import Journal
from refinery.models import open_model, pace, servers
from refinery.models.base import Reply, Sampling
from refinery.models.cache import CachedModel
from refinery.models.pace import Pace
from refinery.records import Message
from refinery.spec import ModelSpec
from refinery.store import Store
from tests.models import server as loopback
from tests.models.server import serve

KEY = "sk-very-secret-1234"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(servers, "FIRST_AWAY", 0.05)


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def spec(*urls: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{"backend": "openai", "model": "m", "base_urls": urls, "concurrency": 8, **more})


def run(entry: ModelSpec, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        model = open_model(entry, "judge")
        try:
            return await asyncio.wait_for(work(model), 60)
        finally:
            await model.close()

    return asyncio.run(all_of_it())


async def ask(model: Any, count: int, side_by_side: int = 64) -> list[Any]:
    """`count` replies or errors, so many callers at a time."""
    found: list[Any] = [None] * count
    waiting = iter(range(count))

    async def caller() -> None:
        for number in waiting:
            try:
                found[number] = await model.generate(user(f"q{number}"), Sampling())
            except (RowError, UserError) as error:
                found[number] = error

    await asyncio.gather(*(caller() for _ in range(side_by_side)))
    return found


def answered(results: list[Any]) -> int:
    return sum(isinstance(result, Reply) for result in results)


# ---- several servers


def test_requests_go_to_the_least_loaded_server() -> None:
    with serve(latency=0.02) as fast, serve(latency=0.2) as slow:
        results = run(spec(fast.url, slow.url), lambda model: ask(model, 200))
        counts = [each.stats("/counts") for each in (fast, slow)]
    assert answered(results) == 200
    assert [each["most"] for each in counts] == [8, 8]
    assert sum(each["answered"] for each in counts) == 200
    assert counts[0]["answered"] > 4 * counts[1]["answered"] > 0


def test_a_dead_server_is_left_out_and_asked_again_when_it_is_back() -> None:
    with serve(latency=0.01, answer="echo") as alive:
        with serve(latency=0.01, answer="echo") as other:
            port = int(other.url.rsplit(":", 1)[1].split("/")[0])

            async def work(model: Any) -> tuple[list[Any], int]:
                before = await ask(model, 40)
                other.process.kill()
                other.process.wait()
                without = await ask(model, 100)
                with serve(latency=0.01, answer="echo", port=port) as back:
                    deadline = time.monotonic() + 20
                    after: list[Any] = []
                    while not back.stats("/counts")["answered"] and time.monotonic() < deadline:
                        after += await ask(model, 20)
                    return [*before, *without, *after], back.stats("/counts")["answered"]

            results, at_the_new_one = run(spec(alive.url, other.url, retries=1), work)
    assert answered(results) == len(results) and at_the_new_one > 0


def test_a_server_that_never_was_there_does_no_harm_beside_one_that_is() -> None:
    with serve() as gone:
        pass
    with serve() as alive:
        results = run(spec(gone.url, alive.url), lambda model: ask(model, 50))
    assert answered(results) == 50


def test_a_failing_server_is_given_a_rest() -> None:
    with serve(error_every=1) as failing, serve(latency=0.01) as alive:
        results = run(spec(failing.url, alive.url), lambda model: ask(model, 200))
        counts = failing.stats("/counts")
    assert answered(results) == 200 and counts["requests"] < 30


# ---- patience


def test_a_server_that_dies_and_returns_does_not_end_the_run() -> None:
    with serve(latency=0.02, answer="echo") as first:
        port = int(first.url.rsplit(":", 1)[1].split("/")[0])

        async def work(model: Any) -> list[Any]:
            asking = asyncio.create_task(ask(model, 400, side_by_side=16))
            await asyncio.sleep(0.3)
            first.process.kill()
            first.process.wait()
            await asyncio.sleep(3)
            assert not asking.done()
            command = [sys.executable, loopback.__file__, f"--port={port}", "--answer=echo"]
            again = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                return await asking
            finally:
                again.kill()
                again.wait()

        results = run(spec(first.url, retries=2), work)
    assert [result.text for result in results] == [f"q{n}" for n in range(400)]


# ---- the pace


@pytest.mark.parametrize(("every", "rows_a_second"), [(50, 500), (10, 200)])
def test_sporadic_refusals_do_not_slow_the_run_down(
    every: int, rows_a_second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.25)
    with serve(latency=0.05, rate_limit_every=every) as server:

        async def work(model: Any) -> tuple[list[Any], float]:
            start = time.perf_counter()
            results = await ask(model, 2000, side_by_side=256)
            return results, time.perf_counter() - start

        results, seconds = run(spec(server.url, concurrency=64), work)
        counts = server.stats("/counts")
    assert answered(results) == 2000 and counts["most"] <= 64
    assert 2000 / seconds > rows_a_second / 2  # half: the machine of a test may be busy


def test_the_limit_follows_the_share_of_refusals_and_falls_gently() -> None:
    def after(share: float, rounds: int) -> float:
        found, chance = Pace(64), random.Random(0)
        for _ in range(rounds):
            found.full = True
            for _ in range(found.room):
                found.reply(chance.random() < share)
        return found.limit

    assert after(0.0, 4) == 64 and after(0.02, 60) > 50
    assert after(0.1, 60) > 12
    assert after(1.0, 1) > 32 * 0.74 and after(1.0, 100) == 1.0


def test_more_in_flight_stops_where_it_brings_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that works on 40 requests at a time and lets the others wait, in simulated time."""
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
    found, seen = Pace(1024), []
    for _ in range(200):
        found.full = True
        for _ in range(found.room):
            clock[0] += 1 / min(found.room, 40)
            found.reply(False)
        seen.append(found.limit)
    assert max(seen) < 150 and min(seen[20:]) >= 32


# ---- money


def test_a_spent_budget_stops_cleanly_and_keeps_what_was_answered(tmp_path: Path) -> None:
    # 10 tokens in, 2 out: 10 * 100 + 2 * 1000 = 3000 USD for a million requests
    price = {"price": {"input": 100, "output": 1000}}
    with serve(latency=0.02) as server:
        store = Store(tmp_path / "s.duckdb")
        with Journal(store) as journal:

            async def work(model: Any) -> tuple[list[Any], Any]:
                cached = CachedModel(model, store, journal)
                return await ask(cached, 200, side_by_side=50), cached.counts

            results, counts = run(spec(server.url, budget=0.0999, **price), work)
        asked = server.stats("/counts")
        kept = store.query("SELECT count(*) AS n FROM generations")[0]["n"]
    assert 34 <= answered(results) <= 34 + 7 and asked["requests"] == asked["answered"] == kept == answered(results)
    assert counts.cost == pytest.approx(0.003 * kept) and counts.in_flight == 0
    (line,) = {str(result) for result in results if isinstance(result, UserError)}
    assert line.startswith("models.judge: the budget of $0.0999 is spent ($0.1") and "same command again" in line


def test_a_budget_needs_a_server_that_counts() -> None:
    with serve(no_usage=1) as server:
        results = run(spec(server.url, budget=1, price={"input": 1, "output": 1}), lambda model: ask(model, 3, 1))
    assert "does not say how many tokens" in str(results[-1])


def test_what_was_sent_again_is_counted() -> None:
    with serve(error_every=4) as server:

        async def work(model: Any) -> tuple[list[Any], Any]:
            return await ask(model, 30), model.counts

        results, counts = run(spec(server.url), work)
        asked = server.stats("/counts")
    assert answered(results) == 30
    assert counts.retries == asked["requests"] - 30 > 0 and counts.in_flight == 0 and counts.cost == 0


# ---- time


@pytest.mark.parametrize("trouble", [{"hang_every": 1}, {"endless_every": 1}])
def test_an_answer_that_never_ends_times_out(trouble: dict[str, int]) -> None:
    with serve(**trouble) as server:
        start = time.monotonic()
        results = run(spec(server.url, timeout=0.5, retries=1), lambda model: ask(model, 2))
        took = time.monotonic() - start
    assert {(result.reason, result.transient) for result in results} == {("timeout", True)}
    assert 1.0 <= took < 10


def test_the_total_timeout_covers_all_tries() -> None:
    with serve(error_every=1, latency=0.1) as server:
        start = time.monotonic()
        entry = spec(server.url, timeout=1, total_timeout=1.2, retries=1000)
        results = run(entry, lambda model: ask(model, 2))
        took = time.monotonic() - start
    assert {result.reason for result in results} == {"timeout"} and took < 5
    assert "within 1.2 s and" in results[0].detail and "HTTP 503" in results[0].detail


# ---- everything at once


def test_a_bad_day_loses_no_row() -> None:
    trouble = {"rate_limit_every": 7, "error_every": 5, "reset_every": 11, "torn_every": 13, "garbage_every": 17}
    with serve(latency=0.01, answer="echo", garbage="torn", **trouble) as server:
        results = run(spec(server.url, retries=20), lambda model: ask(model, 300))
    assert [result.text for result in results] == [f"q{n}" for n in range(300)]


def test_a_key_is_nowhere_in_what_is_stored_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serve(key=KEY, latency=0.01) as server, serve(key="another") as strict:
        store = Store(tmp_path / "s.duckdb")
        with Journal(store, every=3600) as journal:

            async def work(model: Any) -> list[Any]:
                return await ask(CachedModel(model, store, journal), 20)

            results = run(spec(server.url, api_key=KEY), work)
            results += run(spec(strict.url, api_key=KEY, model="other"), work)
            written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            assert b"q7" in written and KEY.encode() not in written
    assert answered(results) == 20
    rows = json.dumps(store.query("SELECT * FROM generations"), default=str)
    said = " ".join(map(str, results)) + caplog.text + rows + repr(spec(server.url, api_key=KEY))
    assert KEY not in said and "refused the api_key" in said
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


# ---- what is asked


def test_prefill_completion_and_schema_on_the_wire() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    begun = [*user("count"), {"role": "assistant", "content": "one two"}]
    with serve(keep_bodies=1) as server:

        async def work(model: Any) -> list[Reply]:
            return [
                await model.generate(begun, Sampling()),
                await model.generate("once upon", Sampling(0.5, max_tokens=9), 3),
                await model.generate(user("q"), Sampling(schema=schema)),
            ]

        replies = run(spec(server.url, extra_body={"chat_template_kwargs": {"x": 1}}), work)
        prefill, raw, structured = server.stats()["bodies"]
    assert prefill["messages"] == begun
    assert prefill["add_generation_prompt"] is False and prefill["continue_final_message"] is True
    assert replies[1].text == "after once upon"
    assert raw["prompt"] == "once upon" and not {"messages", "chat_template_kwargs"} & raw.keys() and raw["seed"] >= 0
    assert structured["response_format"]["json_schema"]["schema"] == schema
    assert structured["response_format"]["type"] == "json_schema"
    assert "add_generation_prompt" not in structured


def test_a_servers_template_is_its_own() -> None:
    with pytest.raises(UserError, match=r"models.judge: the chat template is the server's own"):
        run(spec("http://127.0.0.1:9/v1"), lambda model: model.user_slot())
