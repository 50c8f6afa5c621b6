"""A server that misbehaves on purpose, in a thread of the test, and a project whose rows it writes.

`Faulty(rule)` asks `rule(number, body)` what becomes of each request: None for an answer, a status, or one of reset
(the connection, before an answer), cut (in the middle of its body), torn (JSON that ends too early, with HTTP 200),
hang (no answer ever). What it was asked and what it answered in full is counted by request.
"""

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter

from aiohttp import web

from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store
from tests.accounts import check_accounts, rows_of
from tests.models.server import answer

HEAD = """
name: faults
models:
  writer: {backend: openai, model: writer, base_url: "URL", concurrency: 16, retries: 8, timeout: 20}
  judge: {backend: openai, model: judge, base_url: "URL", concurrency: 16, retries: 8, timeout: 20}
source: {path: "FOLDER/rows.jsonl", split: {train: 1.0, validation: 0, test: 0}}
store: "FOLDER/store.duckdb"
graph:
"""
GRAPH = """
  rewritten: {op: rewrite, from: source, model: writer, prompt: "rewritten {{ question }} {{ answer }}"}
  agrees: {op: check_answer, from: rewritten}
  clean: {op: deduplicate, from: agrees, min_cosine: null}
  asked: {op: questions, from: clean, model: writer, kinds: [direct], n: 2, form: lines, keep_articles: true}
  fused:
    op: fuse
    from: asked
    model: writer
    prompt: "fused {{ question }} {{ rewrite }} {{ answer }}"
    rounds: 2
    judges: [{model: judge, prompt: "fused {{ candidate }} {{ question }}"}]
"""
IN_FLIGHT = 32
"""Requests on the wire at once, at most: those of both models."""


class Faulty:
    """`with Faulty(rule) as server:`; `server.url` is its base_url, the same after `die` and `live`."""

    def __init__(self, rule=None, latency=0.0):
        self.rule, self.latency = rule or (lambda number, body: None), latency
        self.number = self.now = self.port = 0
        self.asked, self.answered, self.faults = Counter(), Counter(), Counter()
        self.bodies = {}

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.live()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(RuntimeError):
            self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def live(self):
        self._call(self._start())

    def die(self):
        """Listens no more and drops every connection."""
        self._call(self._end())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self):
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._transports = set()

    async def _end(self):
        for transport in self._transports:
            transport.abort()
        await self._runner.cleanup()

    async def _chat(self, request):
        self._transports.add(request.transport)
        body = json.loads(await request.read())
        name = json.dumps(body, sort_keys=True)
        self.number += 1
        self.asked[name] += 1
        self.bodies[name] = body
        self.now += 1
        try:
            await asyncio.sleep(self.latency)
            fault = self.rule(self.number, body)
            if fault:
                self.faults[fault] += 1
                return await self._fail(request, fault, body)
            response = web.json_response(reply(body))
            self.answered[name] += 1
            return response
        finally:
            self.now -= 1

    async def _fail(self, request, fault, body):
        if isinstance(fault, int):
            return web.json_response({"error": {"message": f"failing with {fault}"}}, status=fault)
        if fault == "hang":
            await asyncio.sleep(3600)
        whole = json.dumps(reply(body)).encode()
        if fault == "torn":
            return web.Response(body=whole[: len(whole) // 2], content_type="application/json")
        if fault == "cut":
            response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
            await asyncio.sleep(0.005)
        request.transport.abort()
        return web.Response()


def reply(body):
    text = answer(body, "play")
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": len(text.split())}}


def now_and_then(share, *faults, seed=0):
    """A rule: so many of the requests, drawn by chance, fail in one of these ways."""
    chance = random.Random(seed)
    return lambda number, body: chance.choice(faults) if chance.random() < share else None


def row(n):
    return {"question": f"What is number {n}?", "answer": f"It is word{n}"}


class Project:
    """Rows and a spec in a folder, with its own store."""

    def __init__(self, folder, url, rows=30, graph=GRAPH, head=HEAD):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.url, self.text = folder, url, head + graph
        self.write([row(n) for n in range(rows)] if isinstance(rows, int) else rows)

    def write(self, rows):
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def spec(self, *overrides):
        path = self.folder / "spec.yaml"
        path.write_text(self.text.replace("URL", self.url).replace("FOLDER", str(self.folder)))
        return load_spec(path, overrides)

    @property
    def store(self):
        return Store(self.spec().store_path)

    def run(self, *overrides):
        """(results, {step: counts}) of a run in this process, its accounts checked."""
        spec = self.spec(*overrides)
        results = run_graph(spec, self.store)
        return results, check_accounts(spec, self.store)

    def finish(self, runs=4):
        """Run until no row waits to be asked again; the rows, and how many runs it took."""
        for number in range(1, runs + 1):
            results, _ = self.run()
            if not any(result.transient for result in results.values()):
                return self.rows(), number
        raise AssertionError(f"rows are still waiting after {runs} runs")

    def rows(self):
        return rows_of(self.spec(), self.store)


def asked_again(server):
    """Requests that were sent although their answer had come, in full, before."""
    return sum(n - 1 for n in server.answered.values() if n > 1)
