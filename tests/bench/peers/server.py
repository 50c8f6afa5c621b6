"""A loopback server that speaks the OpenAI chat API and does no work, so that what is measured is the client.

    python tests/bench/peers/server.py PORT [--latency-ms 50] [--refuse-every 50] [--jitter 1.0]

An answer is "rewritten: " and the last message's words. `--refuse-every K` answers each K-th request with HTTP 429 and
no Retry-After; `--jitter S` draws the latency from a lognormal of that sigma with the same mean. GET /stats gives what
was seen since the last GET /reset.
"""

import argparse
import asyncio
import random
import time
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson

REFUSAL = {"error": {"message": "rate limited", "type": "rate_limit", "code": 429}}


@dataclass
class Stats:
    requests: int = 0
    refused: int = 0
    connections: int = 0
    in_flight: int = 0
    peak: int = 0
    """Most requests in flight at once."""
    first: float | None = None
    """When the first request came and the last answer went, on a clock of the server's own, in seconds."""
    last: float | None = None

    def reset(self) -> None:
        for field in fields(self):
            if field.name != "in_flight":
                setattr(self, field.name, field.default)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with Content-Length bodies, which is all that the clients send."""

    def __init__(self, args: argparse.Namespace, stats: Stats):
        self.args, self.stats = args, stats
        self.buffer = b""
        self.closing = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.stats.connections += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, length = self.buffer[:end], 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                elif name.lower() == b"connection":
                    self.closing = value.strip().lower() == b"close"
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            method, path = head.split(b" ", 2)[:2]
            self.look(path) if method == b"GET" else self.answer(orjson.loads(body))

    def look(self, path: bytes) -> None:
        if path == b"/stats":
            self.send(200, asdict(self.stats))
        elif path == b"/reset":
            self.stats.reset()
            self.send(200, {})
        else:
            self.send(200, {"object": "list", "data": [{"id": "fake-model", "object": "model"}]})

    def answer(self, request: dict[str, Any]) -> None:
        if not request.get("messages"):  # how one client asks what a server is
            return self.send(400, {"error": {"message": "empty messages", "code": 400}})
        stats = self.stats
        stats.first = stats.first or time.monotonic()
        stats.requests += 1
        stats.in_flight += 1
        stats.peak = max(stats.peak, stats.in_flight)
        if self.args.refuse_every and stats.requests % self.args.refuse_every == 0:
            stats.refused += 1
            return self.done(429, REFUSAL)
        content = request["messages"][-1]["content"]
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content)
        text = f"rewritten: {content[:400]}"
        usage = {"prompt_tokens": len(content) // 4, "completion_tokens": len(text) // 4}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": request.get("model")}
        reply |= {"usage": usage, "choices": [choice]}
        if not self.args.latency_ms:
            return self.done(200, reply)
        asyncio.get_running_loop().call_later(self.latency(), self.done, 200, reply)

    def latency(self) -> float:
        """Seconds."""
        sigma = self.args.jitter
        return self.args.latency_ms / 1000 * (random.lognormvariate(-(sigma**2) / 2, sigma) if sigma else 1.0)

    def done(self, status: int, reply: dict[str, Any]) -> None:
        self.stats.in_flight -= 1
        self.stats.last = time.monotonic()
        if not self.transport.is_closing():
            self.send(status, reply)

    def send(self, status: int, reply: dict[str, Any]) -> None:
        body = orjson.dumps(reply)
        head = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)
        if self.closing:
            self.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--refuse-every", type=int, default=0)
    parser.add_argument("--jitter", type=float, default=0.0)
    args, stats = parser.parse_args(), Stats()
    random.seed(7)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(
        loop.create_server(lambda: Connection(args, stats), "127.0.0.1", args.port, backlog=2048)  # type: ignore[arg-type]
    )
    print("ready", flush=True)
    loop.run_forever()


if __name__ == "__main__":
    main()
