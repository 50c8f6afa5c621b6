"""An OpenAI-compatible server on this machine that answers rewrite prompts with recorded rewrites of a real model.

    python tests/loopback_rewrites.py <folder with distilled_alpaca.json> [--port 8000]

A prompt is answered with the recorded output of the row whose instruction and input it holds, so that the whole road
from rows through a server to diagnostics can be walked on real text without a GPU.
"""

import argparse
import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aiohttp import web

Row = Mapping[str, str]


class Recorded:
    """The recorded rows, and how many prompts they have answered."""

    def __init__(self, rows: Sequence[Row]):
        # The longest instruction first: a shorter one may be part of it.
        self.rows = sorted(rows, key=lambda row: -len(row["instruction"]))
        self.answered = 0

    def find(self, prompt: str) -> Row | None:
        return next((r for r in self.rows if r["instruction"] in prompt and r["input"] in prompt), None)

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = "\n".join(message["content"] for message in body["messages"])
        row = self.find(prompt)
        if row is None:
            return web.json_response({"error": {"message": "no recorded row has this instruction"}}, status=400)
        self.answered += 1
        message = {"role": "assistant", "content": row["output"]}
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(row["output"].split())}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"id": "recorded", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
        )

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self.complete)
        return app


@contextlib.contextmanager
def serving(recorded: Recorded) -> Iterator[str]:
    """The base URL of the server, run in a thread with a loop of its own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = web.AppRunner(recorded.app())

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner.addresses[0][1]

    try:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve recorded rewrites as an OpenAI-compatible server.")
    parser.add_argument("folder", type=Path, help="holds distilled_alpaca.json")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    rows = json.loads((given.folder / "distilled_alpaca.json").read_text("utf-8"))
    web.run_app(Recorded(rows).app(), host="127.0.0.1", port=given.port)


if __name__ == "__main__":
    main()
