"""A real model behind a real server on the loopback: completions of texts and token ids, chats, and scored prompts.

It computes without padding or a cache, one request at a time, so that it shares nothing with what it is compared to but
the weights. As a program it stands in for vLLM's: `model_server.py serve MODEL --port=N ...`.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from refinery.models.transformers import load


@dataclass
class ModelServer:
    offers: str = "prompt_logprobs"
    """How it scores a prompt: prompt_logprobs, echo or not at all ("")."""
    model: str = "lab"
    context: int = 1 << 30
    fails_after: int = 1 << 30
    """Requests after which every other one is refused with HTTP 500."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._model, self._tokenizer = load(self.model, device="cpu")
        self._exact = load(self.model, device="cpu")[0].double()

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        chat = request.path.endswith("/chat/completions")
        if len(self.bodies) > self.fails_after and len(self.bodies) % 2:
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        ids = self._ids(body, chat)
        scores = body.get("echo") or "prompt_logprobs" in body
        if len(ids) + max(1, body["max_tokens"]) > self.context:
            return web.json_response({"error": {"message": "maximum context length exceeded"}}, status=400)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": "x"}
        if scores:
            choice |= self._scored(ids, body)
        else:
            choice |= self._written(ids, body)
        if chat:
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return web.json_response({"choices": [choice], "usage": usage})

    def _ids(self, body: dict[str, Any], chat: bool) -> list[int]:
        if chat:
            return list(
                self._tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
            )
        prompt = body["prompt"]
        return list(prompt) if isinstance(prompt, list) else list(self._tokenizer(prompt)["input_ids"])

    def _written(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        import torch

        made = self._model.generate(torch.tensor([ids]), max_new_tokens=body["max_tokens"], do_sample=False)[0]
        new = made[len(ids) :].tolist()
        ended = self._tokenizer.eos_token_id in new
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        for stop in body.get("stop") or []:
            text, found, _ = text.partition(stop)
            ended = ended or bool(found)
        return {"text": text, "finish_reason": "stop" if ended else "length"}

    def _scored(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            logprobs = self._exact(torch.tensor([ids])).logits[0].log_softmax(-1)
        found = [logprobs[i, token].item() for i, token in enumerate(ids[1:])]
        best = [logprobs[i].max().item() for i in range(len(ids) - 1)]
        ranks = [int((logprobs[i] > p).sum()) + 1 for i, p in enumerate(found)]
        if self.offers == "prompt_logprobs" and body.get("prompt_logprobs") == 0:
            each = [{str(t): {"logprob": p, "rank": r}} for t, p, r in zip(ids[1:], found, ranks, strict=True)]
            return {"prompt_logprobs": [None, *each]}
        if self.offers == "echo" and body.get("echo"):
            return {"logprobs": {"token_logprobs": [None, *found], "top_logprobs": [None, *({"?": p} for p in best)]}}
        return {}


async def listen(server: ModelServer, port: int) -> web.AppRunner:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", server.complete)
    app.router.add_post("/v1/chat/completions", server.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


@contextlib.contextmanager
def serve(**options: Any) -> Iterator[ModelServer]:
    """The server with these options, stopped when the block ends."""
    server = ModelServer(**options)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    running: list[web.AppRunner] = []

    async def start() -> None:
        runner = await listen(server, 0)
        running.append(runner)
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(running[0].cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _forever(arguments: list[str]) -> None:
    port = next(int(each.removeprefix("--port=")) for each in arguments if each.startswith("--port="))
    await listen(ModelServer(model=arguments[1]), port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_forever(sys.argv[1:]))
