"""The command line as a person meets it: a process, its output and its exit code."""

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def refinery(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from refinery.cli import main; main()", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_help_answers_at_once(tmp_path: Path) -> None:
    """Seconds of processor, which other work on the machine does not lengthen."""
    refinery("--help", cwd=tmp_path)
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = refinery("--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
    verbs = (
        "init",
        "validate",
        "plan",
        "preview",
        "diff",
        "doctor",
        "run",
        "retry",
        "status",
        "runs",
        "show",
        "schema",
    )
    assert all(f"\n  {verb} " in done.stdout for verb in verbs)
    assert min(times) < 0.3
    heavy = "{'torch', 'duckdb', 'numpy', 'pydantic', 'pyreqwest', 'jinja2', 'refinery.spec'}"
    code = f"import sys, refinery.cli; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_init_writes_a_spec_that_validates_and_refuses_to_overwrite(tmp_path: Path) -> None:
    assert refinery("init", "lab", cwd=tmp_path).returncode == 0
    done = refinery("validate", "lab.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "lab.yaml").write_text("name: mine\n")
    again = refinery("init", "lab", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.strip() == "error: lab.yaml exists and differs (use --force to overwrite it)"
    assert (tmp_path / "lab.yaml").read_text() == "name: mine\n"


def test_init_into_another_folder_says_where_to_run(tmp_path: Path) -> None:
    done = refinery("init", "quickstart", "--to", "a look", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "next: cd 'a look' && refinery run quickstart.yaml"
    done = refinery("validate", "a look/quickstart.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is one beside the spec: a look/quickstart.jsonl; run from there" in done.stderr
    assert refinery("validate", "quickstart.yaml", cwd=tmp_path / "a look").returncode == 0
    assert refinery("init", "quickstart", cwd=tmp_path).stdout.endswith("next: refinery run quickstart.yaml\n")


def test_every_starter_validates_where_it_was_written(tmp_path: Path) -> None:
    for starter in (ROOT / "refinery" / "starters").glob("*.yaml"):
        assert refinery("init", starter.stem, cwd=tmp_path).returncode == 0
        done = refinery("validate", starter.name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_unknown_starter_and_stage_are_one_line(tmp_path: Path) -> None:
    done = refinery("init", "labb", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert 'did you mean "lab"?' in done.stderr
    assert 'did you mean "raft_qwen"?' in refinery("init", "rfat", cwd=tmp_path).stderr
    refinery("init", "lab", cwd=tmp_path)
    done = refinery("run", "lab.yaml", "--stage", "trian", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert 'did you mean "train"?' in done.stderr


def test_init_lists_the_ready_specs_and_their_first_sentence(tmp_path: Path) -> None:
    done = refinery("init", "--list", cwd=tmp_path)
    lines = done.stdout.splitlines()
    names = {line.split()[0] for line in lines if line[:1].strip()}
    assert names == {path.stem for path in (ROOT / "refinery" / "starters").glob("*.yaml")}
    assert not list(tmp_path.iterdir())
    (first,) = [line for line in lines if line.startswith("magpie ")]
    assert "Magpie (arXiv:2406.08464)" in first


def test_starters_are_the_ready_specs() -> None:
    """All but the one whose data are not shipped and the long comparison."""
    ready = {path.name for path in (ROOT / "specs").glob("*.yaml")} - {"alpaca.yaml", "lab_tuned.yaml"}
    assert {path.name for path in (ROOT / "refinery" / "starters").glob("*.yaml")} == ready
    for starter in (ROOT / "refinery" / "starters").glob("*"):
        assert starter.read_bytes() == (ROOT / "specs" / starter.name).read_bytes(), starter.name
