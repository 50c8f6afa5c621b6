"""Where a step is left with nothing: "no rows" is said, never "0 of 0"."""

import re

import pytest

from tests.cli_tools import call, project

SPEC = """
name: small
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  none: {{op: length_filter, from: source, max: 1, on_error: drop, fallback: drop}}
  after: {{op: check_answer, from: none}}
  again: {{op: length_filter, from: after, max: 500}}
"""


@pytest.fixture
def ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "", rows=4, spec=SPEC)
    return call("run", "spec.yaml", "--stage", "refine")


def test_a_run_that_is_left_without_rows(ran):
    assert ran.code == 0, ran.err
    assert "after: no rows" in ran.err and "again: 0 of 4 rows refined (4 dropped)" in ran.err
    for done in (
        ran,
        call("run", "spec.yaml", "--stage", "refine"),
        call("status", "spec.yaml"),
        call("show", "spec.yaml", "after"),
        call("plan", "spec.yaml"),
        call("doctor", "spec.yaml"),
        call("diagnose", "spec.yaml", "--steps", "source", "again"),
        call("diagnose", "spec.yaml", "--steps", "source", "again", "--full"),
    ):
        assert done.code == 0, done.err
        assert not re.search(r"\b0(?: of |/)0\b|\b0 rows?: |; stands$.*no rows", done.out + done.err), (
            done.out + done.err
        )
    assert call("show", "spec.yaml", "after").out.strip() == "no rows"
    assert "no rows to measure" in call("diagnose", "spec.yaml", "--steps", "source", "again").out
