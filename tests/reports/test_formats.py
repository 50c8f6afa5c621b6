"""Tables for papers and programs: LaTeX that nothing breaks out of, CSV that no spreadsheet runs, JSON in full."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refinery.errors import UserError
from refinery.store import Store
from reports import latex, listing, machine, report
from reports.blocks import Column, Details, Figure, Heading, Mono, Strong, Table
from reports.gather import gather

ATTACKS = [
    r"\input{/etc/passwd} \write18{ls}", "100% of {braces} & more \\\\", "$x_1^2$ ~ #1 | `a` \"b\" <c>", "[1pt] *",
    "−6.8 [−9.1, −4.5] × λ → ∞ … ’“”", "\\", "%", "^^M",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(toy: SimpleNamespace) -> Any:
    return gather(toy.store, toy.spec)


@pytest.fixture(scope="module")
def built(data: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return report.write(data, tmp_path_factory.mktemp("out"), report.FORMATS)


def test_every_format_is_written_and_made_again_it_is_the_same(
    data: Any, built: dict[str, Path], tmp_path: Path
) -> None:
    again = report.write(data, tmp_path, report.FORMATS)
    assert set(again) == set(built) == set(report.FORMATS)
    for kind, path in built.items():
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            other = again[kind] / file.name if path.is_dir() else again[kind]
            assert file.read_bytes() == other.read_bytes() and file.stat().st_size > 40


def test_tables_have_names_of_their_own() -> None:
    one = Table([Column("a")], [["1"]])
    blocks = [Heading("Part"), one, one, Table([Column("a")], []), Heading("Sub", 3), one,
              Details("More", [Figure("Seen", "", None, one)]), Table([Column("a")], [["1"]], name="own")]  # fmt: skip
    found = listing.tables(blocks)
    assert [each.name for each in found] == ["part", "part-2", "part-sub", "part-seen", "own"]
    assert [each.title for each in found] == ["Part", "Part", "Sub", "Seen", "Sub"] or found[-1].title == "More"


# ---- LaTeX


def unescaped(text: str) -> str:
    """The text without what `latex.escape` writes for special characters: what is left must mean nothing."""
    for written in sorted(latex._SPECIAL.values(), key=len, reverse=True):
        text = text.replace(written, "")
    return text


@pytest.mark.parametrize("text", ATTACKS)
def test_no_cell_is_latex(text: str) -> None:
    assert not set(unescaped(latex.escape(text))) & set("\\{}$&#%_~^")
    made = latex.render(
        text,
        [
            Heading(text),
            Table([Column(text), Column("n", "right")], [[text, Mono(text)], [Strong(text), "1"]], text, text),
        ],
    )
    body = made[made.index("\\begin{tabular}") : made.index("\\end{tabular}")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == 1
        assert not row.startswith(("[", "*"))
    assert made.count("\\begin{") == made.count("\\end{") == 2


def test_a_report_in_latex_has_every_table_once(data: Any, built: dict[str, Path]) -> None:
    text = built["latex"].read_text("utf-8")
    named = [each.name for each in listing.tables(report.render(data))]
    labels = re.findall(r"\\label\{tab:([^}]*)\}", text)
    assert labels == named and len(set(labels)) == len(labels) > 15
    assert "−" not in text and "$-$37.8" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(built: dict[str, Path], tmp_path: Path) -> None:
    main = tmp_path / "main.tex"
    main.write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\\extrafloats{200}\\begin{document}"
        f"\\input{{{built['latex']}}}\\end{{document}}"
    )
    subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", main.name], cwd=tmp_path, check=True)


def test_plain_pdflatex_knows_every_letter_of_a_formula() -> None:
    """No Greek beyond ASCII, and nothing that asks for another encoding of fonts than the first."""
    written = latex.escape('|θ − θ0| in Σω, "quoted"')
    assert written.isascii() and r"$\theta$" in written and r"$\Sigma$$\omega$" in written
    assert "quotedbl" not in written
    assert latex.escape("λβτ") == r"$\lambda$$\beta$$\tau$" and latex.escape("ςφΩ") == r"$\varsigma$$\phi$$\Omega$"


# ---- CSV and JSON


def test_a_table_under_a_sentence_is_called_by_its_section_and_a_number() -> None:
    sentence = "Divergences and likelihoods are nats a token, all words counted, along answers to 32 items (1 seed)"
    long, short = (Table([Column("a")], [["1"]], caption) for caption in (sentence, "Of the weights"))
    found = listing.tables([Heading("How far they moved"), long, short, long])
    assert [each.name for each in found] == [
        "how-far-they-moved-1", "how-far-they-moved-of-the-weights", "how-far-they-moved-2",
    ]  # fmt: skip


def test_csv_holds_what_is_shown_and_the_numbers_in_full(data: Any, built: dict[str, Path]) -> None:
    files = {path.stem: list(csv.reader(path.open(encoding="utf-8"))) for path in built["csv"].glob("*.csv")}
    assert files["summary"][1][:2] == ["base", "1.2% [0.2, 6.7]"]
    head, *rows = files["numbers"]
    assert tuple(head) == machine.NUMBERS
    numbers = {(r[1], r[2], r[3], r[4]): r for r in rows}
    general = data.comparison.methods["raft"].general_mean
    row = numbers["raft", "general", "mean", "vs_base"]
    assert [float(each) for each in row[5:9]] == [
        general.vs_base.value, general.vs_base.low, general.vs_base.high, general.vs_base.p,
    ]  # fmt: skip
    assert [float(each) for each in row[12:]] == [general.vs_base.detectable, general.vs_base.p_worse]
    assert numbers["raft", "general", "mean", "score"][12:] == ["", ""]
    own = numbers["sft_raw", "general", "mean", "damage_recovered"]
    assert own[5] == "" and own[11] == "this is the baseline"


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|x", "'+cmd|x"), ("-x", "'-x"), ("-6.8", "-6.8"),
     ("+84.6 [1, 2]", "+84.6 [1, 2]"), ("plain", "plain"), ("a\nb", "a b")],
)  # fmt: skip
def test_no_spreadsheet_runs_a_cell(cell: str, written: str) -> None:
    blocks = [Heading("x"), Table([Column("a")], [[cell]])]
    (text,) = machine.csv_files(blocks, []).values()
    assert next(csv.reader(io.StringIO(text.split("\n", 1)[1])))[0].replace("\n", " ") == written


def test_json_is_strict_and_agrees_with_the_comparison(data: Any, built: dict[str, Path]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(built["json"].read_text("utf-8"), parse_constant=refuse)
    assert found["specs"][0]["name"] == "toy" and found["specs"][0]["baseline"] == "sft_raw"
    scores = [n for n in found["numbers"] if n["quantity"] == "score" and n["benchmark"] == "toy_facts"]
    assert {n["method"]: n["value"] for n in scores} == {
        name: method.general["toy_facts"].score.value for name, method in data.comparison.methods.items()
    }
    assert all(n["value"] is None or math.isfinite(n["value"]) for n in found["numbers"])
    assert [each["name"] for each in found["tables"]] == [each.name for each in listing.tables(report.render(data))]


# ---- the verb


def call(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from refinery.cli import main; main()", "report", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_verb_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(f"name: s\nmodel: lab\nsource: {{lab: clinic}}\nstore: {tmp_path}/none.duckdb\n")
    for args, words in (
        (["--format", "htlm"], 'no format "htlm" (did you mean "html"?); there are: html, markdown, latex, csv, json'),
        ([], "there is no store here yet"),
    ):
        done = call(str(spec), *args)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr


def test_the_verb_writes_what_is_asked_for_and_where(toy: SimpleNamespace, tmp_path: Path) -> None:
    """On a copy of the toy's store with benchmarks that exist; nothing in the store changes."""
    from tests.reports.conftest import SPEC

    path = tmp_path / "toy.duckdb"
    path.write_bytes(toy.store.path.read_bytes())
    with Store(path)._transaction() as connection:
        for table in ("scores", "samples"):
            renamed = "replace(replace(benchmark, 'toy_domain', 'lab_clinic'), 'toy_', 'lab_')"
            connection.execute(f"UPDATE {table} SET benchmark = {renamed}")
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    spec = tmp_path / "toy.yaml"
    text = SPEC.replace("toy_domain", "lab_clinic").replace("toy_", "lab_")
    spec.write_text(f"{text}store: {path}\n".replace("rows.jsonl", str(tmp_path / "rows.jsonl")))
    before = path.read_bytes()
    done = call(str(spec), "--out", str(tmp_path / "out"), "--format", "html", "--format", "tex")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"html: {tmp_path}/out/report.html", f"latex: {tmp_path}/out/tables.tex"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "tables.tex"]
    done = call(str(spec), "--paper", "raft")
    assert done.returncode == 0 and "| SmolLM3-3B | RAFT | 17.2 |" in done.stdout
    assert "| ours: lab, toy | SFT (`sft_raw`) |" in done.stdout
    assert path.read_bytes() == before


def test_an_unknown_paper_is_refused(data: Any) -> None:
    from reports import papers

    with pytest.raises(UserError, match=r'no paper "raftt" \(did you mean "raft"'):
        papers.tables("raftt", [data])
