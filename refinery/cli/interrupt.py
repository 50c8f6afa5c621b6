"""Ctrl-C and SIGTERM that are sure to end a run soon, whatever it is waiting for."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.5
"""Seconds that a run has to stop by itself: a batch on its way through a model may take longer."""
EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Those of a shell, which says 128 more than the signal's number."""


@contextmanager
def prompt_exit(message: str, last_words: Callable[[], None]) -> Iterator[None]:
    """In the block, Ctrl-C raises KeyboardInterrupt as ever, SIGTERM what its handler does; where the block is not over
    PATIENCE seconds later the process ends, having said `message` and called `last_words` (which gets 0.3 s). A second
    signal ends it at once.

    Nothing is lost by that: what was answered is in the journal, which a killed run leaves to the next. In the main
    thread only; the signal is noticed by a thread of its own, since the main one may sit in a long computation.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    over = threading.Event()

    def watch() -> None:
        while received := theirs.recv(1):
            if received[0] not in EXIT_CODES:
                continue
            theirs.settimeout(PATIENCE)
            try:
                while (again := theirs.recv(1)) and again[0] not in EXIT_CODES:
                    pass
                if not again:
                    return
            except TimeoutError:
                pass
            if over.is_set():
                return
            ending = threading.Thread(target=last_words, daemon=True)
            ending.start()
            ending.join(0.3)
            sys.stderr.write(f"\n{message}\n")
            sys.stderr.flush()
            os._exit(EXIT_CODES[received[0]])

    watcher = threading.Thread(target=watch, name="interrupt", daemon=True)
    before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        ours.close()
        watcher.join(0.2)
        theirs.close()
