"""The inside of evals/sandbox.py: a script on the standard library alone, so that nothing of ours is within reach.

Three processes. The first makes the namespaces, the second builds the file system and watches the clock, the third
gives up all rights and runs the program. The third can tell the second only that the tests are over, with the word that
proves it, or what went wrong; the second alone reports to the caller.
"""

import builtins
import contextlib
import ctypes
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
KEPT = NOSUID | NODEV | NOEXEC | 1024 | 2048  # and noatime, nodiratime: a mount's flags that may not be taken away
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache")
DEATH_SIGNAL, DUMPABLE, NO_NEW_PRIVILEGES = 1, 4, 38
FIRST_USER = 1 << 20  # no one on the machine has a number that high; one for each sandbox, so that limits do not mix
COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__contains__")

libc = ctypes.CDLL(None, use_errno=True)


def called(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    called(libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def main() -> None:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    job = json.loads(sys.stdin.buffer.read())
    try:
        as_root = separate() if job["isolated"] else False
    except OSError as error:
        tell(report, "broken", setup=str(error))
        return
    if (pid := os.fork()) == 0:
        watch(job, as_root, report)
        os._exit(0)
    os.close(report)
    os.waitpid(pid, 0)


def tell(report: int, reason: str, **more: str) -> None:
    os.write(report, json.dumps({"reason": reason, **more}).encode()[: 1 << 15])


def separate() -> bool:
    """New namespaces. Root needs no user namespace and can then become a user without rights; others become one
    within a namespace of users. True in the first case."""
    rest = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0 and libc.unshare(rest) == 0:
        return True
    called(libc.unshare(NEWUSER | rest), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return False


def watch(job: dict, as_root: bool, report: int) -> None:
    """Build the file system, start the program, wait for its word no longer than it has, and report."""
    libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(DUMPABLE, 0, 0, 0, 0)
    limits = job["limits"]
    try:
        if job["isolated"]:
            furnish(job["folder"], limits["files"])
        else:
            os.chdir(job["folder"])
    except OSError as error:
        tell(report, "broken", setup=str(error))
        return
    hear, say = os.pipe()
    ask, give = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            for mine in (hear, give, report):
                os.close(mine)
            perform(job, as_root, ask, say)
        finally:
            os._exit(1)
    word = os.urandom(16).hex()  # after the fork, whose memory is a copy of this one
    os.write(give, word.encode())
    for its in (say, ask, give):
        os.close(its)
    reason, detail = heard(hear, word, time.monotonic() + limits["seconds"])
    with contextlib.suppress(ProcessLookupError):
        if job["isolated"]:
            os.kill(-1, signal.SIGKILL)  # all that is left in this process namespace
        else:
            os.killpg(pid, signal.SIGKILL)
    tell(report, reason, detail=detail)


def heard(hear: int, word: str, until: float) -> tuple[str, str]:
    """(reason, detail) from what the program's process says before it ends or its time is over."""
    said = b""
    while len(said) < 1 << 13:
        left = until - time.monotonic()
        if left <= 0 or not select.select([hear], [], [], left)[0]:
            return "timed_out", ""
        part = os.read(hear, 1 << 12)
        if not part:
            break
        said += part
        if b"\n" in said:
            break
    first = said.split(b"\n")[0].decode("utf-8", "replace")
    if first == f"ok {word}":
        return "ok", ""
    kind, _, detail = first.partition(" ")
    return (kind, detail) if kind in ("raised", "deceived") else ("exited", "")


# --- the file system


def furnish(folder: str, size: int) -> None:
    """A file system of its own at `folder`, which becomes the root; /tmp is the current folder."""
    root = Path(folder)
    mount(None, "/", None, REC | PRIVATE)
    mount("tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={size},nr_inodes=4096,mode=755")
    for place in dict.fromkeys((*SYSTEM, sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parent))):
        show(Path(place), root)
    (root / "dev").mkdir()
    for device in ("null", "zero", "urandom"):
        (root / "dev" / device).touch()
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, BIND)
    (root / "proc").mkdir()
    with contextlib.suppress(OSError):  # a container may forbid it; a program that needs it fails
        mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    os.chroot(root)
    os.chdir("/tmp")


def show(place: Path, root: Path) -> None:
    """The folder or file at the same place, read-only."""
    target = root / place.relative_to("/")
    if os.path.lexists(target) or not place.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        target.symlink_to(place.readlink())
        return
    if place.is_dir():
        target.mkdir()
    else:
        target.touch()
    mount(str(place), str(target), None, BIND | REC)
    flags = os.statvfs(place).f_flag & KEPT
    mount(None, str(target), None, BIND | REMOUNT | RDONLY | NOSUID | NODEV | flags)


# --- the program


def perform(job: dict, as_root: bool, ask: int, say: int) -> None:
    """Run the program and its tests; the last line is reached where no test failed."""
    give_up_rights(job, as_root)
    write, read = os.write, os.read
    try:
        load(job["program"], job["tests"])()
    except Deception as error:
        write(say, f"deceived {error}\n".encode())
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        write(say, f"raised {line}\n".encode("utf-8", "replace"))
    else:
        write(say, b"ok " + read(ask, 64) + b"\n")


def give_up_rights(job: dict, as_root: bool) -> None:
    os.setsid()
    limits = job["limits"]
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, int(limits["seconds"]) + 1),
        (resource.RLIMIT_FSIZE, limits["files"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    if as_root:
        os.setgroups([])
        user = FIRST_USER + int.from_bytes(job["folder"][-8:].encode(), "big") % 10**9
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    elif job["isolated"]:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        called(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    if job["isolated"]:  # else it would count all that the user runs
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], limits["processes"]))
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)


class Deception(BaseException):
    """A result that compares as it likes."""


def load(program: str, tests: str) -> Callable[[], None]:
    """The program has run when this returns; what is returned runs the tests, on builtins and modules as they were."""
    settrace, setprofile, place = sys.settrace, sys.setprofile, vars(builtins)
    kept, code, named = dict(place), compile(tests, "<tests>", "exec"), frozenset(re.findall(r"\w+", tests))
    modules = {}
    for name in re.findall(r"^\s*(?:import|from)\s+([A-Za-z_][\w.]*)", tests, re.MULTILINE):
        try:
            modules[name] = importlib.import_module(name)
        except ImportError:  # the tests will say so themselves
            continue
    before = {name: dict(vars(module)) for name, module in modules.items()}
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["candidate"] = candidate = types.ModuleType("candidate")
    exec(compile(program, "<program>", "exec"), vars(candidate))
    place.update(kept)
    settrace(None)
    setprofile(None)
    for name, module in modules.items():
        sys.modules[name] = module
        vars(module).update(before[name])
    space = {name: watched(value, named) for name, value in vars(candidate).items()}
    space["__builtins__"] = kept
    return lambda: exec(code, space)


def watched(value: Any, named: frozenset[str]) -> Any:
    """A function whose result is looked at; its own calls to itself are not, so that they cost nothing."""
    if not isinstance(value, types.FunctionType):
        return value

    def call(*args: Any, **options: Any) -> Any:
        found = value(*args, **options)
        if equals_all(found, named, 0):
            raise Deception(type(found).__name__)
        return found

    return call


def equals_all(value: Any, named: frozenset[str], depth: int) -> bool:
    """Is it, or does it hold, an object of a class of the program's own that says itself what it equals? Classes whose
    name stands in the tests are what they are about."""
    for kind in type(value).__mro__:
        if kind.__module__ == "candidate" and kind.__name__ not in named and any(n in vars(kind) for n in COMPARISONS):
            return True
    if depth > 3 or type(value) not in (list, tuple, set, frozenset, dict):
        return False
    inner = [*value, *value.values()] if type(value) is dict else list(value)
    return any(equals_all(each, named, depth + 1) for each in inner[:1000])


if __name__ == "__main__":
    main()
