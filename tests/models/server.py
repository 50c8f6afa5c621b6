"""An OpenAI-compatible server on the loopback for tests: answers by rule, fails on request, counts what it was asked.

`with serve(latency=0.05, rate_limit_every=10) as server:` runs it in a process of its own; `server.url` is the
base_url, `server.stats()` what GET /stats says: requests, answered, most at once, last headers and body.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

GARBAGE = {
    "not_json": b"<html>bad gateway</html>",
    "no_choices": b'{"object": "chat.completion"}',
    "empty_choices": b'{"choices": []}',
    "list": b"[1, 2]",
    "torn": b'{"choices": [{"message": {"content": "hal',
    "null": b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    "empty": b'{"choices": [{"message": {"content": " "}, "finish_reason": "stop"}]}',
    "number": b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}',
    "surrogate": b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}',
    "refusal": b'{"choices": [{"message": {"content": null, "refusal": "I will not."}, "finish_reason": "stop"}]}',
    "filtered": b'{"choices": [{"message": {"content": "half"}, "finish_reason": "content_filter"}]}',
    "unfinished": b'{"choices": [{"message": {"content": "half an answ"}, "finish_reason": null}]}',
    "aborted": b'{"choices": [{"message": {"content": "half an answ"}, "finish_reason": "abort"}]}',
    "error_in_200": b'{"error": {"code": 502, "message": "provider is down"}}',
}


def answer(body: dict[str, Any], how: str) -> str:
    """`echo`: the last message; `hash`: 8 hex digits of messages, seed and temperature; `play`: a grade from 0.0 to 0.9
    from a model called judge..., from others the hash and, four times of five, the last word of the last message;
    `wordy`: as play, with 0 to 4 words between the two."""
    if "messages" not in body:
        return f"after {body['prompt']}"
    if how == "echo":
        return body["messages"][-1]["content"]
    shape = json.dumps([body["messages"], body.get("seed"), body.get("temperature")])
    name = hashlib.sha256(shape.encode()).hexdigest()[:8]
    if how == "hash":
        return f"answer {name}"
    if "Write each pair as two lines" in body["messages"][-1]["content"]:
        return f"Q: What of {name}?\nA: It is {name}\nQ: And what of it, {name}?\nA: Nothing"
    if body["model"].startswith("judge"):
        return f"0.{int(name, 16) % 10}"
    between = "so " * (int(name, 16) // 5 % 5) if how == "wordy" else ""
    return f"answer {name} {between}{body['messages'][-1]['content'].split()[-1] if int(name, 16) % 5 else 'amiss'}"


class Server:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.requests = self.answered = self.now = self.most = 0
        self.last: dict[str, Any] = {}
        self.bodies: list[Any] = []

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response({**self._counts(), "bodies": self.bodies, "last": self.last})

    async def take(self, _: web.Request) -> web.Response:
        taken, self.bodies = self.bodies, []
        return web.json_response(taken)

    async def models(self, _: web.Request) -> web.Response:
        names = {"writer", "judge", "model", self.options.model} - {""}
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def counts(self, _: web.Request) -> web.Response:
        return web.json_response(self._counts())

    def _counts(self) -> dict[str, int]:
        return {"requests": self.requests, "answered": self.answered, "now": self.now, "most": self.most}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        number = self.requests
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            body = json.loads(await request.read())
            self.last = {"headers": dict(request.headers), "body": body}
            if self.options.keep_bodies:
                self.bodies.append(body)
            if self.options.latency:
                await asyncio.sleep(self.options.latency)
            failure = self._failure(request, body, number) or await self._broken(request, number)
            return failure or await self._hang(number) or self._answer(request, body)
        finally:
            self.now -= 1

    async def _broken(self, request: web.Request, number: int) -> web.StreamResponse | None:
        """A body that is reset halfway, or one that never ends."""
        torn, endless = (bool(k) and number % k == 0 for k in (self.options.torn_every, self.options.endless_every))
        if not torn and not endless:
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if torn:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(b'{"choices": [{"message": {"content": "ha')
        while endless:
            await response.write(b"a" * 100)
            await asyncio.sleep(0.02)
        if request.transport:
            request.transport.abort()
        return response

    async def _hang(self, number: int) -> None:
        if self.options.hang_every and number % self.options.hang_every == 0:
            await asyncio.sleep(3600)

    def _failure(self, request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse | None:
        o = self.options

        def every(k: int) -> bool:
            return bool(k) and number % k == 0

        def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
            return web.json_response({"error": {"message": message}}, status=status, headers=headers)

        if o.key and request.headers.get("Authorization") != f"Bearer {o.key}":
            return refuse(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        if o.model and body["model"] != o.model:
            return refuse(404, f"The model `{body['model']}` does not exist.")
        words = sum(len(message["content"].split()) for message in body.get("messages", ()))
        if o.context and words > o.context:
            return refuse(400, f"This model's maximum context length is {o.context} tokens, you asked {words}.")
        if every(o.rate_limit_every):
            return refuse(429, "slow down", {"Retry-After": o.retry_after} if o.retry_after else None)
        if every(o.error_every):
            return refuse(o.error_status, "overloaded")
        if every(o.reset_every) and request.transport:
            request.transport.abort()
            return web.Response()
        if every(o.garbage_every):
            return web.Response(body=GARBAGE[o.garbage], content_type="application/json")
        return None

    def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        self.answered += 1
        words = answer(body, self.options.answer).split(" ")
        cut = len(words) > body["max_tokens"]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(words[: body["max_tokens"]])},
            "finish_reason": "length" if cut else "stop",
        }
        if request.path.endswith("/v1/completions"):
            choice["text"] = choice.pop("message")["content"]
        usage = {"prompt_tokens": 10, "completion_tokens": min(len(words), body["max_tokens"])}
        if self.options.no_usage:
            usage = {}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


@dataclass
class Running:
    url: str
    process: "subprocess.Popen[str]"

    def stats(self, path: str = "/stats") -> dict[str, Any]:
        """`path`: /stats for everything, /counts for the numbers alone."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path) as response:
            return json.load(response)

    def take(self) -> list[Any]:
        """The bodies kept (`keep_bodies`) since the last call."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/take") as response:
            return json.load(response)


@contextlib.contextmanager
def serve(**options: Any) -> Iterator[Running]:
    """The server with these options (see `parser`), stopped when the block ends."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Running(f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", process)
    finally:
        process.kill()
        process.wait()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    found.add_argument("--port", type=int, default=0)
    found.add_argument("--latency", type=float, default=0.0)
    found.add_argument("--answer", default="hash", choices=["hash", "echo", "play", "wordy"])
    found.add_argument("--rate-limit-every", type=int, default=0)
    found.add_argument("--retry-after", default="")
    found.add_argument("--error-every", type=int, default=0)
    found.add_argument("--error-status", type=int, default=503)
    found.add_argument("--reset-every", type=int, default=0)
    found.add_argument("--hang-every", type=int, default=0)
    found.add_argument("--torn-every", type=int, default=0)
    found.add_argument("--endless-every", type=int, default=0)
    found.add_argument("--no-usage", type=int, default=0)
    found.add_argument("--garbage", default="not_json", choices=sorted(GARBAGE))
    found.add_argument("--garbage-every", type=int, default=0)
    found.add_argument("--key", default="")
    found.add_argument("--model", default="")
    found.add_argument("--context", type=int, default=0)
    found.add_argument("--keep-bodies", type=int, default=0)
    return found


async def main(options: argparse.Namespace) -> None:
    server = Server(options)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/stats", server.stats)
    app.router.add_get("/counts", server.counts)
    app.router.add_get("/take", server.take)
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(parser().parse_args()))
