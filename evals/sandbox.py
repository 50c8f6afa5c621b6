"""Run a program that a model wrote, with its tests, where it can do no harm, and say whether the tests passed.

Each program gets processes of its own (evals/sandbox_child.py) in new namespaces: no network, no other process in
sight, a file system that holds Python and the system's libraries read-only and a small scratch folder in memory, a user
that owns nothing, an empty environment, and limits on time, memory, processes and files. Linux alone has these; where
the system does not let them be made nothing is run, unless the caller says `isolated=False`, which leaves the limits
and the empty environment and no more.

"Passed" is a word that only the runner knows, said after the last test: leaving early with any exit code, or printing
that all is well, does not pass, and no descriptor that the program can read brings the word. The tests run with
builtins and modules as they were before the program. A result of a class that was not there before it and says itself
what it equals is refused, unless the tests are about that class.

What remains possible, as in every tester that shares a process with what it tests: a program that climbs from its own
frame to ours (sys._getframe), searches the interpreter's objects or its memory (gc, ctypes), and so finds the word or
changes the tests; one whose threads change things while the tests run; one that gives a name of the tests another
meaning (`abs`, or a class that equals all in the function's place); numbers of its own whose difference from all is 0.
A mark for passing says nothing on a model that was taught to seek such ways.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from refinery.errors import UserError

CHILD = Path(__file__).with_name("sandbox_child.py")
SLACK = 30.0
"""Seconds beyond the program's own in which its processes must have started and ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    seconds: float = 3.0
    """Of the program and its tests together, from their start; lm-eval's own limit."""
    memory: int = 1 << 30
    """Bytes of address space of each process."""
    processes: int = 16
    """Processes and threads at a time."""
    files: int = 16 << 20
    """Bytes that all its files may have together."""


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    reason: str
    """ok, raised, timed_out, exited (it left before its tests were over) or deceived (a result that equals all)."""
    detail: str = ""
    """The exception, in one line."""


def run(program: str, tests: str, limits: Limits | None = None, *, isolated: bool = True) -> Verdict:
    """Run `program`, then `tests`, which see its names. UserError where this system cannot isolate it."""
    if isolated and (why := unavailable()):
        raise UserError(f"code cannot be run in a sandbox here ({why}); evaluate.run_code: unsandboxed runs it without")
    told = _ask(program, tests, limits or Limits(), isolated)
    if "setup" in told:
        raise UserError(f"the sandbox broke down: {told['setup']}")
    return Verdict(told["reason"] == "ok", told["reason"], told.get("detail", ""))


def run_all(
    jobs: Iterable[tuple[str, str]], limits: Limits | None = None, *, isolated: bool = True, workers: int | None = None
) -> list[Verdict]:
    """Verdicts of many (program, tests), in order; as many at a time as there are processors. Equal jobs run once."""
    jobs = list(jobs)
    distinct = list(dict.fromkeys(jobs))
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        found = pool.map(lambda job: run(job[0], job[1], limits, isolated=isolated), distinct)
        known = dict(zip(distinct, found, strict=True))
    return [known[job] for job in jobs]


@lru_cache(maxsize=1)
def unavailable() -> str:
    """Why programs cannot be isolated on this machine; "" where they can, shown by a trial."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    told = _ask("", "", Limits(seconds=10.0), isolated=True)
    return "" if told["reason"] == "ok" else told.get("setup") or told["reason"]


def _ask(program: str, tests: str, limits: Limits, isolated: bool) -> dict[str, Any]:
    """What the child reports: {"reason", "detail"}, or with "setup" where it could not even begin."""
    with tempfile.TemporaryDirectory(prefix="refinery-code-", ignore_cleanup_errors=True) as folder:
        job = {"program": program, "tests": tests, "isolated": isolated, "folder": folder, "limits": asdict(limits)}
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(CHILD), str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
                cwd="/",
                pass_fds=(write,),
                start_new_session=True,
            )
        finally:
            os.close(write)
        try:
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                process.communicate(json.dumps(job).encode(), timeout=limits.seconds + SLACK)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.set_blocking(read, False)
            return _parsed(read, isolated)
        finally:
            os.close(read)


def _parsed(read: int, isolated: bool) -> dict[str, Any]:
    """The report. One that cannot be read is the program's doing, and without isolation a missing one too: it can
    reach its runner then."""
    try:
        told = os.read(read, 1 << 16)
    except BlockingIOError:
        told = b""
    if not told and isolated:
        return {"reason": "broken", "setup": "the runner ended without a word"}
    try:
        return dict(json.loads(told))
    except (ValueError, TypeError):
        return {"reason": "exited", "detail": "its runner's report cannot be read" if told else "its runner is gone"}
