"""The README keeps its word: its commands exist, its links lead somewhere, its picture is there."""

import re
import subprocess
from pathlib import Path

from refinery.checks import agrees
from refinery.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_a_recipe_stands_in_the_table_once() -> None:
    rows = re.findall(r"^\| (\[.*?) \|", TEXT.partition("**Recipes.**")[2].partition("\n## ")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\[(\w+)\]", row)]
    assert len(named) > 20 and sorted(named) == sorted(set(named))


def test_the_number_check_of_worked_solutions_does_what_is_said() -> None:
    assert "kind: number}" in TEXT
    reference = "He ate 8 of 50.\n50 - 8 = <<50-8=42>>42\n#### 42"
    for answer, right in (("50 - 8 = 42, so 42 apples in all.", True), ("#### 42", True), ("It is 41.", False)):
        assert agrees("number", answer, reference) == right


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
