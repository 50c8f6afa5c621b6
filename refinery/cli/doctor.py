"""`refinery doctor`: a line for each thing that a run needs, ok, warn or fail, and what cures it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from refinery.checkup import Finding, checkup
from refinery.cli.printing import console, print_json
from refinery.problems import SpecErrors
from refinery.spec import load_spec

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show_checkup(path: Path, overrides: Sequence[str], as_json: bool) -> bool:
    """True where nothing fails."""
    findings: list[Finding] = []
    try:
        spec = load_spec(path, overrides)
    except SpecErrors as error:
        findings = [Finding("fail", "spec", f"{each.place}: {each.message}") for each in error.problems]
    else:
        findings = list(checkup(spec, path))
    counts = Counter(finding.level for finding in findings)
    if as_json:
        print_json({"ok": not counts["fail"], "findings": [asdict(finding) for finding in findings]})
        return not counts["fail"]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for each in findings:
        said = Text(each.message + (f"\ncure: {each.cure}" if each.cure else ""))
        grid.add_row(Text(each.level, style=STYLES[each.level]), Text(each.what), said)
    out = console()
    out.print(grid)
    out.print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return not counts["fail"]
