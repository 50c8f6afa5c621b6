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
