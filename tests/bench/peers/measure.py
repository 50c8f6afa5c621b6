"""Run one client against the loopback server and measure it from outside.

Every client is a script `run_NAME.py ROWS BASE_URL CONCURRENCY WORK`, started in a fresh process with the interpreter
of its own virtual environment, all caches in the folder WORK and no telemetry, and leaves WORK/out.jsonl or a store.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EVERY = 0.2
"""Seconds between looks at the memory."""


@dataclass(frozen=True)
class Pass:
    """One run of one client. Seconds, megabytes, rows a second."""

    name: str
    code: int
    """Exit code; negative where it was killed for taking too long."""
    rows: int
    out: int | None
    """Rows that came out."""
    requests: int
    refused: int
    wall: float
    """From the start of the process to its end."""
    rows_s: float
    """Rows that came out, by wall."""
    window: float
    """From the first request to the last answer, as the server saw it."""
    window_rows_s: float
    peak_in_flight: int
    pss_mb: float
    """Most memory of the process and its descendants at one moment, shared pages divided among those that share."""
    cpu: float
    """User and system time of the process and its descendants."""
    load: float
    """The machine's one-minute load average at the start."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Server:
    def __init__(self, port: int):
        self.port, self.base_url = port, f"http://127.0.0.1:{port}/v1"

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as reply:
            return json.load(reply)


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """The loopback server, in a process of its own, for the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(HERE / "server.py"), str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield Server(port)
        finally:
            process.terminate()


def measure(
    python: str,
    name: str,
    rows: Path,
    server: Server,
    concurrency: int,
    *,
    work: Path | None = None,
    limit: float = 300,
) -> Pass:
    """`work` keeps what the client left there before; without, it starts in an empty folder, which is then deleted."""
    folder = work or Path(tempfile.mkdtemp(prefix=f"bench_{name}_"))
    server.get("reset")
    count = sum(1 for _ in rows.open("rb"))
    (folder / "out.jsonl").unlink(missing_ok=True)
    command = [python, "-P", str(HERE / f"run_{name}.py"), str(rows), server.base_url, str(concurrency), str(folder)]
    load, before = os.getloadavg()[0], _cpu()
    with (folder / "log.txt").open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=_environment(folder), start_new_session=True
        )
        pss = _watch(process, started + limit)
        wall = time.perf_counter() - started
    cpu, seen, out = _cpu() - before, server.get("stats"), _rows_out(folder)
    window = (seen["last"] or 0.0) - (seen["first"] or 0.0)
    if process.returncode:
        print((folder / "log.txt").read_text("utf-8", "replace")[-800:], file=sys.stderr)
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    return Pass(
        name=name,
        code=process.returncode,
        rows=count,
        out=out,
        requests=seen["requests"],
        refused=seen["refused"],
        wall=round(wall, 3),
        rows_s=round((out or 0) / wall, 1),
        window=round(window, 3),
        window_rows_s=round((seen["requests"] - seen["refused"]) / window, 1) if window else 0.0,
        peak_in_flight=seen["peak"],
        pss_mb=round(pss / 1024, 1),
        cpu=round(cpu, 2),
        load=round(load, 2),
    )


def _environment(folder: Path) -> dict[str, str]:
    """Caches under `folder`, telemetry off, nothing looked up on the network."""
    at = {"HOME": "", "HF_HOME": "hf", "CURATOR_CACHE_DIR": "curator", "DATA_DESIGNER_HOME": "designer"}
    off = {"TELEMETRY_ENABLED": "0", "NEMO_TELEMETRY_ENABLED": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    off |= {"HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "OPENAI_API_KEY": "x"}
    return {**os.environ, **{name: str(folder / below) for name, below in at.items()}, **off}


def _watch(process: "subprocess.Popen[bytes]", give_up: float) -> int:
    """Wait for the end, or put one; the most memory seen, in kB."""
    most = 0
    while True:
        most = max(most, sum(_pss(pid) for pid in _tree(process.pid)))
        try:
            process.wait(EVERY)
            return most
        except subprocess.TimeoutExpired:
            if time.perf_counter() > give_up:
                os.killpg(process.pid, signal.SIGKILL)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _pss(pid: int) -> int:
    """kB; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def _cpu() -> float:
    """Seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _rows_out(folder: Path) -> int | None:
    out, store = folder / "out.jsonl", folder / "bench.duckdb"
    if out.exists():
        return sum(1 for _ in out.open("rb"))
    if not store.exists():
        return None
    from refinery.store import Store

    steps: Sequence[Any] = Store(store, read_only=True).query(
        """SELECT count(*) AS n FROM outcomes WHERE action = 'changed' AND step =
           (SELECT fingerprint FROM steps WHERE name = 'rewritten' ORDER BY started_at DESC LIMIT 1)"""
    )
    return int(steps[0]["n"])
