"""One run a store: an advisory lock beside the database, released by the kernel however the process ends."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from refinery.errors import UserError


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold `path` for as long as the block runs. A second holder gets a UserError with the first one's pid and start.

    The file stays behind (removing it would let two processes lock two files of one name); its content is only
    for that message. kill -9 releases the lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{path}: cannot make the lock file ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is in use by another run{_holder(path)}; wait for it or stop it") from None
        except OSError as error:
            raise UserError(f"{path}: no locks on this file system ({error.strerror}); move {what}") from error
        os.ftruncate(descriptor, 0)
        started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "started": started}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text())
        return f" (pid {held['pid']}, started {held['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
