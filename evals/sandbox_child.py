"""The inside of evals/sandbox.py: a script on the standard library alone, so that nothing of ours is within reach.

Three processes. The first makes the namespaces, the second builds the file system and watches the clock, the third
gives up all rights and runs the program. The third can tell the second only that the tests are over, with the word that
proves it, or what went wrong; the second alone reports to the caller.

The word is taken from its pipe before the program is loaded, and the pipe is closed: while code of the program can run
no descriptor holds the word or brings it. To hand it over when the tests are done would be weaker, for whoever can
write to a descriptor can say that they are done.
"""

import ast
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
DETAIL = 500  # characters; written as JSON they are at most 6,000 bytes, which a pipe takes at once
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
    os.write(report, json.dumps({"reason": reason, **{key: text[:DETAIL] for key, text in more.items()}}).encode())


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
    write, word = os.write, os.read(ask, 64)
    os.close(ask)
    try:
        load(job["program"], job["tests"])()
    except Deception as error:
        write(say, f"deceived {error}\n".encode())
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:DETAIL]
        write(say, f"raised {line}\n".encode("utf-8", "replace"))
    else:
        write(say, b"ok " + word + b"\n")


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


Known = dict[int, tuple[type, list[Any]]]
"""id of a class to itself and its own comparisons: a class of the program's may say that it is equal to any other."""

mro, own, subclasses = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__, type.__subclasses__
"""As type has them, whatever a metaclass says."""


class Deception(BaseException):
    """A result that compares as it likes."""


def load(program: str, tests: str) -> Callable[[], None]:
    """The program has run when this returns; what is returned runs the tests, on builtins and modules as they were."""
    settrace, setprofile, place = sys.settrace, sys.setprofile, vars(builtins)
    kept, code, names = dict(place), compile(tests, "<tests>", "exec"), wanted(tests)
    modules = {}
    for name in re.findall(r"^\s*(?:import|from)\s+([A-Za-z_][\w.]*)", tests, re.MULTILINE):
        try:
            modules[name] = importlib.import_module(name)
        except ImportError:  # the tests will say so themselves
            continue
    bring(program)
    known = comparisons()
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

    space: dict[str, Any] = {}

    def look(found: Any) -> None:
        place.update(kept)  # a function of the program's has just run
        if equals_all(found, known, [space[name] for name in names if name in space], 0):
            raise Deception(type(found).__name__)

    space.update({name: watched(value, known, look) for name, value in vars(candidate).items()})
    space["__builtins__"] = kept
    return lambda: exec(code, space)


def wanted(tests: str) -> frozenset[str]:
    """The names that tests take from the program, and those of their own classes."""
    nodes = list(ast.walk(ast.parse(tests)))
    taken = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return frozenset(taken - made | {node.name for node in nodes if isinstance(node, ast.ClassDef)})


def bring(program: str) -> None:
    """Import what the program will import, so that the classes there are known before it runs."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            with contextlib.suppress(Exception):  # the program will say so itself, if it ever comes there
                exec(compile(ast.Module([node], []), "<imports>", "exec"), {})


def watched(value: Any, known: Known, look: Callable[[Any], None]) -> Any:
    """A callable whose results are looked at; its own calls to itself are not, so that they cost nothing. Classes stay
    as they are, and List[int] and its like."""
    kind = type(value)
    alias = id(kind) in known and hasattr(kind, "__getitem__")
    if inherits(kind, type) or alias or not callable(value):
        return value

    def call(*args: Any, **options: Any) -> Any:
        found = value(*args, **options)
        look(found)
        return found

    return call


def comparisons() -> Known:
    """Of all classes that there are."""
    known: Known = {}
    left: list[type] = [object]
    while left:
        kind = left.pop()
        if id(kind) not in known:
            known[id(kind)] = (kind, compared(kind))
            left += subclasses(kind)
    return known


def compared(kind: type) -> list[Any]:
    return [own(kind).get(name) for name in COMPARISONS]


def inherits(kind: type, base: type) -> bool:
    return any(each is base for each in mro(kind))


def equals_all(value: Any, known: Known, about: list[Any], depth: int) -> bool:
    """Is it, or does it hold, an object that may say what it equals as it likes: of a class that was not there before
    the program, or that has other comparisons since? The new classes that the tests are `about` may."""
    kind = type(value)
    for each in mro(kind):
        before = known.get(id(each), (each, [None] * len(COMPARISONS)))[1]
        changed = any(now is not then for now, then in zip(compared(each), before, strict=True))
        if changed and (id(each) in known or not any(each is one for one in about)):
            return True
    base = next((each for each in (list, tuple, set, frozenset, dict) if inherits(kind, each)), None)
    if depth > 3 or base is None:
        return False
    inner = [*base.__iter__(value), *(dict.values(value) if base is dict else ())]
    return any(equals_all(each, known, about, depth + 1) for each in inner[:1000])


if __name__ == "__main__":
    main()
