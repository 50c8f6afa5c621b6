"""The README keeps its word: its commands exist, its links lead somewhere, its picture is there."""

import re
import subprocess
from pathlib import Path

from refinery.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    for target in re.findall(r"^    make (\w+)", TEXT, re.MULTILINE):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_verbs_exist() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(
        re.findall(r"refinery (init|validate|plan|run|show|schema|\w+) ", "\n".join(re.findall(r"^    .*", TEXT, re.M)))
    )
    assert {"init", "validate", "plan", "run", "show"} <= named
    assert named <= known


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b[A-Z]+_(?:MINUTES|TABLE|WORDS)\b", TEXT)


def test_ci_calls_the_test_command() -> None:
    assert "make test\n" in (ROOT / ".ci" / "run").read_text("utf-8")
