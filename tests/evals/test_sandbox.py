"""Programs that misbehave: what they may not do fails, what they may do passes, and no trick passes for a pass."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evals import sandbox
from evals.offline import CodeEval
from evals.sandbox import Limits
from refinery.errors import UserError
from tests.evals.benchmark_files import humaneval, mbpp

if why := sandbox.unavailable():
    pytest.skip(f"no sandbox can be made here: {why}", allow_module_level=True)

TESTS = "assert f(1) == 2"
RIGHT = "def f(x): return x + 1\n"
SHORT = Limits(seconds=1.5)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (RIGHT, "ok"),
        ("def f(x): return x\n", "raised"),
        ("def f(x) return x\n", "raised"),
        ("def f(x):\n    while True: pass\n", "timed_out"),
        ("import time\ndef f(x): time.sleep(60)\n", "timed_out"),
        ("import sys\nsys.exit(0)\n", "exited"),
        ("import sys\ndef f(x): sys.exit(0)\n", "exited"),
        ("import os\nos._exit(0)\n", "exited"),
        ("import os\ndef f(x): os._exit(0)\n", "exited"),
        ("def f(x): raise KeyboardInterrupt\n", "exited"),
        ("import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)\n", "exited"),
        ("print('all tests passed'); print('x' * 10**7)\n" + RIGHT, "ok"),
        ("def f(x, depth=900): return 2 if depth == 0 else f(x, depth - 1)\n", "ok"),
        ("import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()\n" + RIGHT, "ok"),
        ("import numpy\n" + RIGHT, "ok"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x).x + 1\n", "ok"),
        ("from collections import Counter\ndef f(x): return Counter('aa')['a']\n", "ok"),
        ("if __name__ == '__main__':\n    raise SystemExit\n" + RIGHT, "ok"),
    ],
)
def test_verdicts(program: str, reason: str) -> None:
    found = sandbox.run(program, TESTS, SHORT)
    assert (found.reason, found.passed) == (reason, reason == "ok"), found


def raised(program: str, limits: Limits = SHORT) -> str:
    """What the program raised, which it must."""
    found = sandbox.run(program, "", limits)
    assert found.reason == "raised", found
    return found.detail


def test_memory_is_limited() -> None:
    assert raised("x = bytearray(10**11)").startswith("MemoryError")
    assert raised("x = []\nwhile True: x.append(bytearray(10**7))", Limits(30, 256 << 20)).startswith("MemoryError")


def test_a_fork_bomb_is_held_and_leaves_nothing() -> None:
    began = time.monotonic()
    program = "import os\nn = 0\nwhile n < 500:\n    try:\n        os.fork()\n    except OSError:\n        n += 1\n"
    program += "while True: pass"
    assert sandbox.run(program, "", SHORT).reason == "timed_out"
    assert time.monotonic() - began < 20
    assert "BlockingIOError" in raised(
        "import os\nfor _ in range(100):\n    if os.fork() == 0:\n        while True: pass"
    )
    assert not running_with_high_uid()


def running_with_high_uid() -> list[str]:
    """Processes of a sandbox's users."""
    time.sleep(0.2)
    users = [path.stat().st_uid for path in Path("/proc").glob("[0-9]*") if path.exists()]
    return [str(user) for user in users if user >= 1 << 20]


def test_files_outside_cannot_be_written_and_scratch_is_small_and_gone() -> None:
    for place in ("/etc/passwd", "/usr/lib/x", "/x", sys.prefix + "/x", "/proc/sys/kernel/hostname"):
        assert "Error" in raised(f"open({place!r}, 'w')"), place
    assert sandbox.run("open('/tmp/mine', 'w').write('x')\n" + RIGHT, TESTS).passed
    assert not Path("/tmp/mine").exists()
    assert "FileNotFound" in raised("open('/tmp/mine')")
    flood = (
        "import os\nfor i in range(10**6):\n    with open(f'/tmp/{i}', 'wb') as file:\n        file.write(b'x' * 10**6)"
    )
    assert "No space left" in raised(flood, Limits(seconds=10))


def test_neither_our_files_nor_our_environment_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "swordfish")
    secret = tmp_path / "secret.txt"
    secret.write_text("swordfish")
    assert "FileNotFound" in raised(f"open({str(secret)!r})")
    assert "FileNotFound" in raised(f"open({__file__!r})")
    seen = "import os, subprocess\nfound = str(os.environ)\n"
    seen += "for path in os.listdir('/proc'):\n    try:\n        found += open(f'/proc/{path}/environ').read()\n"
    seen += "    except OSError:\n        pass\n"
    assert sandbox.run(seen, "assert 'PATH' in found and 'swordfish' not in found and 'SECRET' not in found").passed


def test_no_other_process_is_in_sight() -> None:
    program = "import os\nseen = [int(each) for each in os.listdir('/proc') if each.isdigit()]"
    assert sandbox.run(program, "assert len(seen) == 2").passed
    assert "PermissionError" in raised("open('/proc/1/mem', 'rb')")


def test_no_network() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = server.server_address
    try:
        for host, port in (address, ("192.0.2.1", 80)):
            assert "unreachable" in raised(f"import socket\nsocket.create_connection(({host!r}, {port}), 1)")
    finally:
        server.shutdown()
    assert not asked


EQUAL = "class E:\n    def __eq__(self, other): return True\n    def __lt__(self, other): return True\n"
DECEPTIONS = [
    (EQUAL + "def f(x): return E()\n", TESTS),
    (EQUAL + "def f(x): return [1, {'a': E()}]\n", "assert f(1) == [1, {'a': 2}]"),
    ("class I(int):\n    def __eq__(self, other): return True\ndef f(x): return I(7)\n", TESTS),
    ("import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 9\n", "assert abs(f(1) - 2) < 1e-6"),
    ("import builtins\nbuiltins.len = lambda x: 0\ndef f(x): return [1]\n", "assert len(f(1)) == 0"),
    ("import math\nmath.isclose = lambda *_: True\ndef f(x): return 9\n", "import math\nassert math.isclose(f(1), 2)"),
    ("import sys\nsys.modules['math'] = sys\nsys.isclose = lambda *_: True\ndef f(x): return 9\n",
     "import math\nassert math.isclose(f(1), 2)"),
    ("def check(candidate): pass\ndef f(x): return 9\n",
     "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"),
    ("import sys\nsys.settrace(lambda *_: None)\ndef f(x): return 9\n", TESTS),
    ("import __main__\n__main__.equals_all = lambda *_: False\n" + EQUAL + "def f(x): return E()\n", TESTS),
    ("import os\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'ok\\n')\n"
     "        except OSError: pass\n    os._exit(0)\n", TESTS),
    ("import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)\n", TESTS),
    ("import builtins as b\nb.exec = lambda *_: None\nb.AssertionError = KeyError\ndef f(x): return 9\n", TESTS),
    ("import os\nif os.fork() == 0:\n    os._exit(0)\nos.wait()\ndef f(x): return 9\n", TESTS),
    ("class X(Exception):\n    def __str__(self): return 'ok'\ndef f(x): raise X\n", TESTS),
    ("E = type('E', (), {'__eq__': lambda *_: True, '__module__': 'x'})\ndef f(x): return E()\n", TESTS),
    ("E = type('assert', (), {'__eq__': lambda *_: True})\ndef f(x): return E()\n", TESTS),
    ("class check:\n    def __eq__(self, other): return True\ndef f(x): return check()\n",
     "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"),
    ("class M(type):\n    __mro__ = __dict__ = property(lambda _: {})\n    def __eq__(self, other): return True\n"
     "    def __hash__(self): return hash(int)\n"
     "class E(metaclass=M):\n    def __eq__(self, other): return True\ndef f(x): return E()\n", TESTS),
    ("from fractions import Fraction\nFraction.__eq__ = lambda *_: True\ndef f(x): return Fraction(7)\n", TESTS),
    ("import builtins\n" + EQUAL + "def f(x):\n    builtins.any = lambda _: False\n    return E()\n", TESTS),
    ("import functools\n" + EQUAL + "@functools.cache\ndef f(x): return E()\n", TESTS),
    (EQUAL + "class L(list): pass\ndef f(x): return L([E()])\n", "assert f(1) == [2]"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "tests"), DECEPTIONS)
def test_a_tester_is_not_deceived(program: str, tests: str) -> None:
    assert not sandbox.run(program, tests, SHORT).passed


def test_a_class_that_the_tests_are_about_may_say_what_it_equals() -> None:
    program = (
        "class P:\n    def __init__(s, x): s.x = x\n    def __eq__(s, o): return s.x == o.x\ndef f(x): return P(x)\n"
    )
    assert sandbox.run(program, "assert f(1) == P(1)").passed
    assert not sandbox.run(program, "assert f(1) == P(2)").passed


READS_THE_WORD = """
import os
def steal():
    for fd in range(3, 64):
        try:
            os.set_blocking(fd, False)
            word = os.read(fd, 64)
        except OSError:
            continue
        if len(word) == 32:
            for out in range(3, 64):
                try:
                    os.write(out, b'ok ' + word + b'\\n')
                except OSError:
                    pass
            os._exit(0)
def f(x):
    steal()
    return 9
"""


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    "when",
    [
        "steal()\n",
        "",  # as the tests call it
        "import threading, time\ndef watch():\n    while True:\n        steal()\n        time.sleep(0.001)\n"
        "threading.Thread(target=watch, daemon=True).start()\n",
        "import time\nif os.fork() == 0:\n    while True:\n        steal()\n        time.sleep(0.001)\n",
    ],
)
def test_no_descriptor_holds_the_word(when: str, isolated: bool) -> None:
    assert not sandbox.run(READS_THE_WORD + when, TESTS, SHORT, isolated=isolated).passed


SAYS = "import os\nfor fd in range(3, 64):\n    try: os.write(fd, {!r})\n    except OSError: pass\nos._exit(0)\n"


@pytest.mark.parametrize(
    "said", [b"raised " + b"\x01" * 8000, b"raised \xff\n", b"deceived " + b'"' * 9000 + b"\n", b"\n"]
)
def test_whatever_a_program_says_is_a_verdict_of_one_line(said: bytes) -> None:
    found = sandbox.run(SAYS.format(said), TESTS, SHORT)
    assert not found.passed and found.reason in ("raised", "deceived", "exited") and len(found.detail) <= 500


@pytest.mark.parametrize("report", [b'{"reason": "raised", "detail": "\\u00', b"7", b"[1]", b"\xff"])
def test_a_report_that_cannot_be_read_fails_the_program(report: bytes) -> None:
    read, write = os.pipe()
    try:
        os.write(write, report)
        assert sandbox._parsed(read, True)["reason"] == "exited"
    finally:
        os.close(read)
        os.close(write)


def test_one_hostile_answer_among_many_ends_no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CodeEval, "run_code", True)
    hostile = SAYS.format(b"raised " + b"\x01" * 8000)
    assert CodeEval().compute([TESTS] * 2, [[hostile], [RIGHT]], k=[1]) == ({"pass@1": 0.5}, {})


def test_without_isolation_a_program_that_ends_its_runner_fails() -> None:
    program = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
    assert sandbox.run(program, TESTS, SHORT, isolated=False).reason == "exited"


RESULTS = [
    ("from decimal import Decimal as D", "D('0.5')", "0.5"),
    ("", "__import__('decimal') and 2", "2"),
    ("from collections import *", "OrderedDict(a=1)", "{'a': 1}"),
    ("import collections", "collections.deque([1])", "__import__('collections').deque([1])"),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')", "P(1, 2)", "(1, 2)"),
    ("import enum\nclass C(enum.IntEnum):\n    RED = 2", "C.RED", "2"),
    ("import numpy as np", "np.float64(0.5)", "0.5"),
    ("import datetime, fractions", "fractions.Fraction(1, 2)", "0.5"),
    ("", "{1: 2}.keys()", "{1}"),
    ("", "{1: 2}.items()", "{(1, 2)}"),
    ("", "range(2)", "range(2)"),
    ("", "memoryview(b'x')", "b'x'"),
    ("import array, types, pathlib, re", "array.array('b', [1])", "__import__('array').array('b', [1])"),
    ("import types", "types.SimpleNamespace(a=1)", "__import__('types').SimpleNamespace(a=1)"),
    ("import pathlib", "pathlib.Path('a')", "__import__('pathlib').Path('a')"),
    ("from xml.etree import ElementTree as T", "T.QName('a')", "'a'"),
    ("", "list[int]", "list[int]"),
    ("", "frozenset([1])", "{1}"),
]


@pytest.mark.parametrize(("start", "result", "wanted"), RESULTS)
def test_results_of_classes_that_are_not_the_programs_pass(start: str, result: str, wanted: str) -> None:
    within = f"def f(x):\n    {start}\n    return {result}\n" if "\n" not in start and "*" not in start else ""
    for program in filter(None, (f"{start}\ndef f(x): return {result}\n", within)):
        found = sandbox.run(program, f"assert f(1) == {wanted}")
        assert found.passed, (program, found)


def test_tests_may_use_what_the_program_imported() -> None:
    program = "from typing import List\nimport functools\n@functools.cache\ndef f(x): return x + 1\n"
    assert sandbox.run(program, "def check(g: List[int]):\n    assert g(1) == 2\ncheck(f)").passed
    own = "class T:\n    def __eq__(s, o): return type(o) is T\nassert f(T()) == T()"
    assert sandbox.run("def f(x): return x\n", own).passed


def bare(program: str, tests: str) -> bool:
    """The same without a sandbox: does a process of its own end well?"""
    code = f"exec({program + chr(10) + tests!r}, {{}})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30).returncode == 0


def test_verdicts_are_those_of_a_bare_process_on_honest_programs() -> None:
    jobs = []
    for row in humaneval():
        tests = f"{row['test']}\ncheck({row['entry_point']})"
        for body in (row["canonical_solution"], "    return None\n", "    pass", "    return (", ""):
            jobs.append((row["prompt"] + body, tests))
    for row in mbpp():
        for code in (row["code"], row["code"].replace("return", "print"), "", row["code"] + "\n[DONE]"):
            jobs.append((code, "\n".join(row["test_list"])))
    found = [verdict.passed for verdict in sandbox.run_all(jobs)]
    assert found == [bare(*job) for job in jobs]
    assert 0 < sum(found) < len(found)


def test_many_at_once_keep_their_order() -> None:
    jobs = [(f"def f(x): return {n % 3}\n", TESTS) for n in range(12)]
    assert [v.passed for v in sandbox.run_all(jobs, workers=4)] == [n % 3 == 2 for n in range(12)]


def test_without_isolation_the_limits_stay() -> None:
    assert sandbox.run(RIGHT, TESTS, isolated=False).passed
    assert sandbox.run("while True: pass", "", SHORT, isolated=False).reason == "timed_out"
    assert sandbox.run("import os\nos._exit(0)", "", isolated=False).reason == "exited"
    assert sandbox.run("x = bytearray(10**11)", "", isolated=False).reason == "raised"
    os.environ["SECRET_TOKEN"] = "swordfish"
    try:
        assert sandbox.run("import os", "assert 'SECRET_TOKEN' not in os.environ", isolated=False).passed
    finally:
        del os.environ["SECRET_TOKEN"]


def test_where_nothing_can_be_isolated_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "unavailable", lambda: "unshare: Operation not permitted")
    with pytest.raises(UserError, match=r"Operation not permitted.*run_code: unsandboxed"):
        sandbox.run(RIGHT, TESTS)
    assert sandbox.run(RIGHT, TESTS, isolated=False).passed


ESCAPES = [
    RIGHT,
    "open('/usr/x', 'w')",
    "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
    "open('/proc/1/mem')",
    "import os\nos._exit(0)",
]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_without_rights_has_the_same_sandbox(tmp_path: Path) -> None:
    """Through a namespace of users, with the system's Python, which anyone may read."""
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no Python that everybody may run")
    script = tmp_path / "try.py"
    child = tmp_path / "child.py"
    child.write_text(sandbox.CHILD.read_text("utf-8"), "utf-8")
    script.write_text(
        "import json, os, subprocess, sys, tempfile\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "child, *jobs = sys.argv[1:]\n"
        "for job in jobs:\n"
        "    job = json.loads(job) | {'folder': tempfile.mkdtemp()}\n"
        "    read, write = os.pipe()\n"
        "    subprocess.run([sys.executable, '-I', child, str(write)], input=json.dumps(job).encode(),\n"
        "                   pass_fds=(write,), cwd='/')\n"
        "    print(json.loads(os.read(read, 9999))['reason'])\n",
        "utf-8",
    )
    for each in (tmp_path, *tmp_path.parents):
        if each != Path("/") and each.stat().st_uid == 0 and each != Path("/tmp"):
            each.chmod(each.stat().st_mode | 0o055)
    common = {
        "tests": TESTS,
        "isolated": True,
        "limits": {"seconds": 3, "memory": 1 << 30, "processes": 16, "files": 1 << 24},
    }
    jobs = [json.dumps({"program": program, **common}) for program in ESCAPES]
    done = subprocess.run([python, script, child, *jobs], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["ok", "raised", "raised", "raised", "exited"], done.stderr


WITHOUT = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c"]
"""Root as containers have it, without the right to make namespaces other than of users."""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_root_without_the_right_to_mount_has_the_same_sandbox() -> None:
    code = f"from evals import sandbox; print([sandbox.run(each, {TESTS!r}).reason for each in {ESCAPES!r}])"
    done = subprocess.run([*WITHOUT, code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(["ok", "raised", "raised", "raised", "exited"]), done.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"), reason="needs root and its tools"
)
def test_where_no_namespace_may_be_made_nothing_runs() -> None:
    """In a namespace of users that may make no further one."""
    code = f"from evals import sandbox; sandbox.run({RIGHT!r}, {TESTS!r})"
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", *WITHOUT, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "UserError: code cannot be run in a sandbox here" in done.stderr and "unshare" in done.stderr
