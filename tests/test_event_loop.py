"""Coroutines beside signals, in real processes that get real ones."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from refinery import event_loop


def test_results_and_errors_pass():
    async def double(n):
        await asyncio.sleep(0)
        if n < 0:
            raise ValueError(f"{n} is negative")
        return 2 * n

    assert event_loop.run(double(4)) == 8
    with pytest.raises(ValueError, match="-1 is negative"):
        event_loop.run(double(-1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_passes_too(error):
    async def end():
        raise error

    with pytest.raises(error):
        event_loop.run(end())


HEAD = """
import asyncio, signal, sys, time
from refinery import event_loop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts programs in the background ignores it
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
"""


@contextmanager
def process(body: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert started.stdout and started.stdout.readline() == "begun\n"
        yield started
    finally:
        started.kill()


ORDERLY = """
    async def worker():
        try:
            while True:
                await asyncio.sleep(0)  # callbacks without end, in any of which a signal may come
        finally:
            await asyncio.sleep(0.05)
            print("cleaned up", flush=True)

    async def main():
        workers = [asyncio.create_task(worker()) for _ in range(3)]
        print("begun", flush=True)
        try:
            await asyncio.gather(*workers)
        finally:
            await asyncio.gather(*workers, return_exceptions=True)

    try:
        event_loop.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_tasks_clean_up(sent, code):
    with process(ORDERLY) as started:
        time.sleep(0.1)
        started.send_signal(sent)
        out, said = started.communicate(timeout=20)
    assert (started.returncode, out, said) == (code, "cleaned up\n" * 3, "")


STUBBORN = """
    from refinery.cli.interrupt import prompt_exit

    async def main():
        print("begun", flush=True)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("stays", flush=True)

    try:
        with prompt_exit("goodbye", lambda: print("last words", flush=True)):
            event_loop.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_does_not_end_is_ended(sent, code):
    with process(STUBBORN) as started:
        before = time.monotonic()
        started.send_signal(sent)
        out, said = started.communicate(timeout=20)
    assert (started.returncode, out, said) == (code, "stays\nlast words\n", "\ngoodbye\n")
    assert 1 < time.monotonic() - before < 4


def test_a_second_signal_ends_it_at_once():
    with process(STUBBORN) as started:
        started.send_signal(signal.SIGINT)
        assert started.stdout and started.stdout.readline() == "stays\n"
        before = time.monotonic()
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=20)
    assert started.returncode == 130 and time.monotonic() - before < 1
