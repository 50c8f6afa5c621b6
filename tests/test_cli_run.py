"""`refinery run` as a person meets it: what it says in a log, how it stops, and what it leaves behind."""

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from refinery.cli.progress import Progress, describe
from refinery.cli.run import losses, spec_text
from refinery.graph import StepProgress, StepResult
from refinery.models.cache import Counts
from refinery.store import Store
from tests.cli_tools import call, project
from tests.models.server import serve

ROOT = Path(__file__).parent.parent


def start(folder, *args):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from refinery.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *args], cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(server, requests):
    give_up = time.monotonic() + 60
    while server.stats("/counts")["requests"] < requests:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_ctrl_c_stops_within_two_seconds_says_how_to_go_on_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(answer="play", hang_every=10, keep_bodies=1) as server:
        project(tmp_path, server.url)
        process = start(tmp_path, "run", "spec.yaml", "--stage", "refine")
        wait_for(server, 40)
        answered = server.stats("/counts")["answered"]
        stopped = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - stopped < 2.5  # 2 s, and a machine that is busy
        assert process.returncode == 130
        assert "interrupted: what was finished is stored; `refinery run spec.yaml` goes on from there" in said
        assert "Traceback" not in said
    assert call("status", "spec.yaml", "--json").json["run"]["status"] == "interrupted"
    with serve(answer="play") as server:
        project(tmp_path, server.url)
        assert call("run", "spec.yaml", "--stage", "refine", "--set", "graph.fused.rounds=1").code == 0
        kept = Store(tmp_path / "runs/small/refinery.duckdb").query("SELECT count(*) AS n FROM generations")[0]["n"]
        assert kept == answered + server.stats("/counts")["requests"]


def test_ctrl_c_ends_what_would_not_stop_by_itself(tmp_path):
    code = """
import asyncio, time
from refinery.cli.interrupt import prompt_exit
with prompt_exit("goes on from there", lambda: open("last", "w").write("words")):
    print("ready", flush=True)
    asyncio.run(asyncio.to_thread(time.sleep, 60))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    stopped = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert 1.0 < time.monotonic() - stopped < 2.5
    assert process.returncode == 130 and said.strip() == "goes on from there"
    assert (tmp_path / "last").read_text() == "words"


def test_a_log_gets_a_line_a_step_and_not_one_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        project(tmp_path, server.url, rows=60)
        done = call("run", "spec.yaml", "--stage", "refine")
        assert done.code == 0
        lines = [line for line in done.err.splitlines() if line.startswith("refine: ")]
        assert [line.split()[1] for line in lines] == ["rewritten", "agrees", "fused"]
        assert re.fullmatch(
            r"refine: rewritten 60/60, [\d.,]+ rows/s, took .*, 60 changed, 120 asked, .*tokens/s", lines[0]
        )
        assert "source: 60 rows: 60 kept; read" in done.err
        assert re.search(r"not refined at agrees: \d+\.\d% of 60 rows \(disagrees \d+\)", done.err)
        again = call("run", "spec.yaml", "--stage", "refine")
        assert again.err.count("; stands") == 4


def test_the_share_that_was_lost_is_told_by_reason():
    counts = {("changed", "ok"): 90, ("fell_back", "cut_off"): 6, ("dropped", "server_error"): 4}
    results = [
        StepResult("source", "source", "", 110, {("kept", "ok"): 100, ("dropped", "no_answer"): 10}, 0, 110, Counts()),
        StepResult("rewritten", "rewrite", "", 100, counts, 4, 100, Counts()),
    ]
    assert losses(results) == [
        "not refined at rewritten: 10.0% of 100 rows (cut_off 6, server_error 4)",
        "4 rows failed for a reason that may pass: `refinery retry` asks them again",
    ]
    assert describe(results[1]).endswith("100 of 100 rows run")


def test_rates_are_of_the_last_seconds_and_what_is_left_follows(monkeypatch):
    from rich.console import Console

    now = [100.0]
    monkeypatch.setattr("refinery.cli.progress.time.monotonic", lambda: now[0])
    console = Console(record=True, width=200, force_terminal=False)
    progress = Progress(console, "refine")
    state = StepProgress("rewritten", "rewrite", 1000)
    for second in range(61):  # 5 rows a second for 20 s, then 10
        now[0] = 100.0 + second
        state.done = 5 * second if second <= 20 else 100 + 10 * (second - 20)
        state.counts = Counter({("changed", "ok"): state.done})
        state.usage = Counts(sent=state.done, prompt_tokens=30 * state.done, completion_tokens=20 * state.done)
        progress.step(state)
    lines = console.export_text().splitlines()
    assert len(lines) == 10
    said = "refine: rewritten 500/1,000, 10 rows/s, 50 s left, 500 changed, 500 asked, 500 tokens/s"
    assert lines[-1] == said


def test_overrides_are_kept_with_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        path = project(tmp_path, server.url, rows=3)
        call("run", "spec.yaml", "--stage", "refine", "--set", "graph.fused.rounds=1")
        (run,) = Store(tmp_path / "runs/small/refinery.duckdb").runs()
        assert run["spec"] == path.read_text().rstrip("\n") + "\n# --set graph.fused.rounds=1\n"
    assert "secret" not in spec_text(path, ["models.self.api_key=secret"])


def test_a_report_made_by_a_run_tells_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        project(tmp_path, server.url, rows=5)
        assert call("run", "spec.yaml", "--stage", "refine", "--stage", "report").code == 0
    text = (tmp_path / "runs/small/report.md").read_text()
    assert ", complete" in text and "running" not in text.split("##")[0]


@pytest.mark.parametrize("verb", ["run", "plan", "preview", "status", "doctor", "retry", "show", "diff"])
def test_a_spec_that_is_not_there_is_one_line(tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    done = call(verb, "nothing.yaml")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert done.err.startswith("error: nothing.yaml")
