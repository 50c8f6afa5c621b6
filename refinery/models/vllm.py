"""`vllm serve` on this machine, started for one run and stopped with it, asked through the one HTTP client.

The program is found by `command:` and need not live in Refinery's environment. Its log is kept in the temporary folder;
where it dies, its last lines are the message. It answers on the loopback alone, under a key of its own.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from refinery.errors import UserError
from refinery.models.base import Likelihood, Prompt, Reply, Sampling
from refinery.models.openai import OpenAIModel
from refinery.models.weights import adapter_folder, resolve
from refinery.records import Message

if TYPE_CHECKING:
    from refinery.spec import ModelSpec

START = 1800.0
"""Seconds in which a server must come up: a large model's weights may have to be downloaded first."""
GRACE = 10.0
"""Seconds a server has to end by itself before it is killed."""
LAST_LINES = 8

WATCH = 'read -r _; kill -s TERM -- "-$0"; sleep 3; kill -s KILL -- "-$0"'
"""A shell that ends the process group it is told when its standard input closes: when the run that holds it is gone."""


class VllmServer:
    """`with VllmServer(spec, place) as server:` serves the model at `server.url` until the block ends, however.

    The server and whatever it started form a process group of their own, which is ended with the block, and also when
    this process is gone without having left it. UserError where it cannot be started or dies while it loads.
    """

    def __init__(self, spec: "ModelSpec", place: str):
        self.spec, self.place = spec, place
        self.key = secrets.token_hex(16)
        self.url = ""
        self.log = Path(tempfile.gettempdir()) / f"refinery-vllm-{os.getpid()}-{secrets.token_hex(4)}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def __enter__(self) -> "VllmServer":
        program = shutil.which(str(Path(self.spec.command).expanduser()))
        if not program:
            raise UserError(
                f'{self.place}: no program {self.spec.command!r}: pip install "refinery[vllm]", or name the one of '
                "another environment (command: /path/to/bin/vllm)"
            )
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        environment = {**os.environ, "VLLM_API_KEY": self.key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a group of its own: Ctrl-C reaches the run, which stops it
            )
        try:
            watch = ["/bin/sh", "-c", WATCH, str(self._process.pid)]
            quiet = subprocess.DEVNULL
            self._watch = subprocess.Popen(
                watch, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
            )
            self._await()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the whole group: asked first, killed after GRACE seconds."""
        self.stopping = True
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _signal(process.pid, signal.SIGKILL)  # the engine it started, too
        process.wait()
        if self._watch and self._watch.stdin:
            self._watch.kill()
            self._watch.stdin.close()
            self._watch.wait()

    def died(self) -> UserError | None:
        """What to say where the server is no longer there."""
        if self._process is None or self._process.poll() is None:
            return None
        return UserError(f"{self.place}: vllm serve ended (exit code {self._process.returncode}); {self._last_lines()}")

    def _arguments(self, port: int) -> list[str]:
        spec = self.spec
        found = ["serve", resolve(spec.model), "--host=127.0.0.1", f"--port={port}", "--served-model-name=model"]
        found += ["--generation-config=vllm"]  # else the checkpoint's own top_p and the like would apply
        found += ["--enable-prefix-caching", f"--dtype={spec.dtype}"]
        found += [f"--revision={spec.revision}"] if spec.revision else []
        found += ["--trust-remote-code"] if spec.trust_remote_code else []
        found += [f"--max-model-len={spec.max_context}"] if spec.max_context else []
        if spec.adapter:
            folder = adapter_folder(spec.adapter)
            rank = json.loads((folder / "adapter_config.json").read_text("utf-8")).get("r", 16)
            found += ["--enable-lora", f"--max-lora-rank={_next_rank(rank)}", "--lora-modules", f"adapter={folder}"]
        return [*found, *spec.args]

    def _await(self) -> None:
        """Until the server answers. One that asks for another key is not ours: a stranger took the port."""
        deadline = time.monotonic() + START
        health = urllib.request.Request(self.url + "/models", headers={"Authorization": f"Bearer {self.key}"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if self.stopping:
                raise UserError(f"{self.place}: vllm serve was stopped while it loaded")
            if error := self.died():
                raise error
            try:
                with direct.open(health, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise UserError(f"{self.place}: vllm serve did not come up within {START:g} s; {self._last_lines()}")

    def _last_lines(self) -> str:
        whole = self.log.read_text("utf-8", "replace").strip().splitlines()
        telling = [line for line in whole if re.search(r"\w(Error|Exception): ", line)]
        lines = whole[-LAST_LINES:]
        if telling and not set(telling) & set(lines):  # the end is only what was cleared away afterwards
            lines = [*telling[-2:], *lines[-2:]]
        return f"the end of {self.log}: " + " | ".join(line.strip() for line in lines)


class VllmModel:
    """A model served by a vLLM of its own, which starts with the first request and ends with `close`."""

    def __init__(self, spec: "ModelSpec", identity: str, name: str = ""):
        self.spec, self.identity = spec, identity
        self.place = f"models.{name}" if name else f"model {spec.model}"
        self.server = VllmServer(spec, self.place)
        key = SecretStr(self.server.key)
        served = spec.model_copy(
            update={"api_key": key, "likelihood": "prompt_logprobs", "tokenizer": resolve(spec.model)}
        )
        self._client = OpenAIModel(served, identity, name, urls=["http://127.0.0.1"])
        self._client.served = "adapter" if spec.adapter else "model"
        self.counts = self._client.counts
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        return await (await self._started()).generate(prompt, sampling, sample)

    async def generate_named(self, prompt: Prompt, sampling: Sampling, name: str) -> Reply:
        return await (await self._started()).generate_named(prompt, sampling, name)

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        if self.spec.adapter:
            raise UserError(
                f"{self.place}: vLLM's engine fails at scoring text with an adapter; take backend: transformers for "
                "it, or merge the adapter into the weights"
            )
        return await (await self._started()).loglikelihood(messages, continuation)

    async def score_ids(self, prompt: list[int], target: list[int]) -> list[tuple[float, bool | None]]:
        return await (await self._started()).score_ids(prompt, target)

    async def complete_ids(self, ids: list[int], sampling: Sampling, name: str = "") -> Reply:
        return await (await self._started()).complete_ids(ids, sampling, name)

    async def user_slot(self) -> str:
        return await self._client.user_slot()

    async def close(self) -> None:
        self.server.stopping = True
        if self._watching:
            self._watching.cancel()
        if self._starting and not self._starting.done():
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._client.close()
        await asyncio.to_thread(self.server.stop)
        self._starting = None

    async def _started(self) -> OpenAIModel:
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
        if not self._starting.done():
            await asyncio.shield(self._starting)
        self._starting.result()
        return self._client

    async def _start(self) -> None:
        await asyncio.to_thread(self.server.__enter__)
        self._client.servers.move([self.server.url])
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Stop the run where the server dies under it."""
        while (error := self.server.died()) is None:
            await asyncio.sleep(0.5)
        self._client.servers.halt(error)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _signal(group: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, which)


def _next_rank(rank: int) -> int:
    """The smallest rank that vLLM has buffers for."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
