"""Starting and ending the program, with programs that stand in for it (vLLM itself: test_likelihoods.py, slow)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from refinery.errors import UserError
from refinery.models import open_model, vllm
from refinery.models.base import Sampling
from refinery.models.vllm import VllmServer
from refinery.spec import ModelSpec
from tests.models import server as loopback

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A shell script in vLLM's place; $@ are its arguments, $port the one it is to listen on."""

    def make(text: str) -> str:
        path = tmp_path / "vllm"
        find = 'for each in "$@"; do case "$each" in --port=*) port="${each#--port=}";; esac; done\n'
        path.write_text(f"#!/bin/sh\n{find}{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def entry(command: str, **more: object) -> ModelSpec:
    return ModelSpec.model_validate({"backend": "vllm", "model": "lab", "command": command, **more})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 15
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


SERVES = f'exec {sys.executable} {loopback.__file__} --answer=echo --port="$port"'


def test_it_is_started_asked_and_ended(program: Program, tmp_path: Path) -> None:
    command = program(f'echo $$ > {tmp_path}/pid; echo "$@" > {tmp_path}/args\n{SERVES}')

    async def work() -> str:
        model = open_model(entry(command, args=["--enforce-eager"], max_context=100), "writer")
        try:
            replies = [model.generate([{"role": "user", "content": f"q{n}"}], Sampling()) for n in range(5)]
            return " ".join(reply.text for reply in await asyncio.gather(*replies))
        finally:
            await model.close()

    assert asyncio.run(work()) == "q0 q1 q2 q3 q4"
    arguments = (tmp_path / "args").read_text()
    assert "--host=127.0.0.1" in arguments and "--enforce-eager" in arguments and "--max-model-len=100" in arguments
    assert "--generation-config=vllm" in arguments and "--enable-prefix-caching" in arguments
    assert gone(int((tmp_path / "pid").read_text()))


def test_one_that_dies_while_it_loads_shows_the_end_of_its_log(program: Program) -> None:
    command = program("echo loading weights; echo 'ValueError: no such thing' >&2; exit 3")
    with pytest.raises(UserError) as error, VllmServer(entry(command), "models.writer"):
        pass
    line = str(error.value)
    assert line.startswith("models.writer: vllm serve ended (exit code 3); the end of ") and "\n" not in line
    assert line.endswith("loading weights | ValueError: no such thing")


def test_one_that_dies_under_the_run_stops_it(program: Program, tmp_path: Path) -> None:
    command = program(f"echo $$ > {tmp_path}/pid\n{SERVES}")

    async def work() -> None:
        model = open_model(entry(command), "writer")
        try:
            await model.generate([{"role": "user", "content": "q"}], Sampling())
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            for _ in range(100):
                await asyncio.sleep(0.05)
                await model.generate([{"role": "user", "content": "q"}], Sampling())
        finally:
            await model.close()

    with pytest.raises(UserError, match=r"models.writer: vllm serve ended \(exit code -9\)"):
        asyncio.run(work())


def test_a_program_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match=r"models.writer: no program '/nowhere/vllm'"):
        VllmServer(entry("/nowhere/vllm"), "models.writer").__enter__()


def test_what_it_started_ends_with_it_also_when_it_will_not(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "GRACE", 0.5)
    command = program(f"trap '' TERM; sleep 600 & echo $$ $! > {tmp_path}/pids; wait; wait")

    async def work() -> None:
        model = open_model(entry(command), "writer")
        asking = asyncio.create_task(model.generate([{"role": "user", "content": "q"}], Sampling()))
        while not (tmp_path / "pids").exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        asking.cancel()
        await model.close()

    asyncio.run(work())
    assert gone(*map(int, (tmp_path / "pids").read_text().split()))


def test_a_killed_run_leaves_no_server(program: Program, tmp_path: Path) -> None:
    command = program(f"sleep 600 & echo $$ $! > {tmp_path}/pids; wait")
    code = (
        "from refinery.models.vllm import VllmServer; from refinery.spec import ModelSpec\n"
        f"VllmServer(ModelSpec(backend='vllm', model='lab', command={command!r}), 'm').__enter__()"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pids").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert gone(*map(int, (tmp_path / "pids").read_text().split()))
