"""The whole report of a made-up run: equal to the committed one, and every number in it found again from the rows.

To accept a changed report: REFINERY_GOLDEN=write pytest tests/reports/test_report.py
"""

import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinery.errors import UserError
from refinery.records import Outcome, digest
from refinery.store import Store
from reports import report
from reports.blocks import Heading, Table, plain
from reports.gather import gather
from reports.sections import funnel
from reports.terminal import terminal_table
from tests.reports import conftest as toy_run

GOLDEN = Path(__file__).parent / "golden" / "report.md"
METHODS = ("sft_raw", "sft_close", "raft")


@pytest.fixture(scope="module")
def data(toy: SimpleNamespace) -> Any:
    return gather(toy.store, toy.spec)


@pytest.fixture(scope="module")
def built(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return report.build(toy.store, toy.spec, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def text(built: dict[str, Path]) -> str:
    """The Markdown report without its provenance, which holds parameters that operations may add."""
    whole = built["markdown"].read_text("utf-8")
    return whole[: whole.index("## Provenance")]


def test_the_report_is_the_committed_one(text: str) -> None:
    if os.environ.get("REFINERY_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")


def test_a_report_made_again_is_the_same_and_changes_nothing(
    toy: SimpleNamespace, built: dict[str, Path], tmp_path: Path
) -> None:
    before = toy.store.path.read_bytes()
    again = report.build(toy.store, toy.spec, tmp_path)
    for kind in ("markdown", "html"):
        assert again[kind].read_bytes() == built[kind].read_bytes()
    assert toy.store.path.read_bytes() == before


# ---- every number again, with numpy, from the rows


def values(store: Store) -> dict[tuple[str, str], np.ndarray]:
    """(method or base, benchmark) to (seeds, items)."""
    sql = """SELECT c.name, c.seed, s.benchmark, s.item, s.value FROM samples s JOIN checkpoints c
             ON s.checkpoint = c.fingerprint WHERE c.role IN ('base', 'final') ORDER BY ALL"""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in store.query(sql):
        found.setdefault((row["name"], row["benchmark"]), {}).setdefault(row["seed"], []).append(row["value"])
    return {key: np.array(list(seeds.values())) for key, seeds in found.items()}


def numbers(cell: str) -> list[float]:
    return [float(n.replace("−", "-").replace(",", "")) for n in re.findall(r"[−+]?[\d,]*\.?\d+", cell)]


def table_after(text: str, heading: str) -> dict[str, list[str]]:
    """First cell to the other cells of the first table behind `heading`."""
    first = re.search(r"^\|[^\n]*\|\n(\|[^\n]*\|\n)+", text[text.index(heading) :], re.MULTILINE)
    rows = re.findall(r"^\|(.*)\|$", first[0], re.MULTILINE)
    cells = [[cell.strip().replace("`", "").replace("**", "") for cell in row.split(" | ")] for row in rows[2:]]
    found: dict[str, list[str]] = {}
    for row in cells:
        found.setdefault(row[0].strip(), row[1:])
    return found


def close(shown: float, exact: float, cell: str) -> None:
    """Equal to the digits shown."""
    decimals = len(re.search(r"\d(?:\.(\d+))?", cell)[1] or "")
    assert abs(shown - exact) <= 0.5 * 10**-decimals + 1e-9, (shown, exact, cell)


def test_the_comparison_is_what_the_samples_say(text: str, toy: SimpleNamespace) -> None:
    rows, found = table_after(text, "## Summary"), values(toy.store)
    general = [b for b in toy.spec.evaluate.general]
    level = {
        name: (100 * found[name, "toy_domain"].mean(), 100 * np.mean([found[name, b].mean() for b in general]))
        for name in ("base", *METHODS)
    }
    assert list(rows) == ["base", *METHODS]
    for name, (domain, general_mean) in level.items():
        for cell, exact in zip(rows[name], (domain, general_mean), strict=False):
            value, low, high = numbers(cell)
            close(value, exact, cell)
            assert low <= value <= high
        assert rows[name][3] == "80 / 240"
    assert [rows[name][4] for name in rows] == ["none", "3", "3", "3"]
    for name in METHODS[1:]:
        base, baseline, own = level["base"][1], level["sft_raw"][1], level[name][1]
        value, low, high = numbers(rows[name][2])
        close(value, 100 * (own - baseline) / (base - baseline), rows[name][2])
        assert low <= value <= high
    assert rows["sft_raw"][2] == "the baseline"


def test_the_verdict_is_what_the_samples_say(text: str, toy: SimpleNamespace) -> None:
    found = values(toy.store)
    verdict = text[text.index("## Summary") : text.index("| Model")]
    for name in METHODS:
        line = re.search(rf"^- \*\*{name}\*\*: (.*)$", verdict, re.MULTILINE)[1]
        shown = re.findall(r"([−+]?[\d.]+)%? \[", line)
        exact = []
        for benchmarks in (["toy_domain"], toy.spec.evaluate.general):
            own = np.mean([found[name, b].mean() for b in benchmarks])
            exact += [100 * own, 100 * (own - np.mean([found["base", b].mean() for b in benchmarks]))]
        for cell, value in zip(shown, exact, strict=False):
            close(numbers(cell)[0], value, cell)
    assert "**raft** gains" in verdict and "forgets least" in verdict
    assert re.search(r"\*\*raft\*\*: .*General skill is kept: a loss of 5 points is ruled out", verdict)
    assert re.search(r"\*\*sft_raw\*\*: .*It forgets, provably more than the margin of 5 points", verdict)


def test_changes_and_lost_items_are_what_the_samples_say(text: str, toy: SimpleNamespace) -> None:
    rows, found = table_after(text, "**Change against the base, per benchmark**"), values(toy.store)
    for benchmark in ("toy_domain", *toy.spec.evaluate.general):
        base = found["base", benchmark]
        for name in METHODS:
            own, cells = found[name, benchmark], rows[f"{benchmark} {name}"]
            close(numbers(cells[0])[0], 100 * own.mean(), cells[0])
            close(numbers(cells[1])[0], 100 * (own.mean() - base.mean()), cells[1])
            pairs = [(int((run < base[0]).sum()), int((run > base[0]).sum())) for run in own]
            assert cells[2] == "; ".join(f"{lost} / {gained}" for lost, gained in pairs)
            assert cells[5] == "80 × 3"
        cells = rows[f"{benchmark} base"]
        close(numbers(cells[0])[0], 100 * base.mean(), cells[0])


def test_single_seeds_are_what_the_samples_say(text: str, toy: SimpleNamespace) -> None:
    rows, found = table_after(text, "**What was gained and what was lost**"), values(toy.store)
    for name in METHODS:
        shown = numbers(rows[name][3])
        domain = found[name, "toy_domain"].mean(1) - found["base", "toy_domain"].mean()
        general = np.mean([found[name, b].mean(1) - found["base", b].mean() for b in toy.spec.evaluate.general], axis=0)
        exact = 100 * np.stack([domain, general], axis=1).ravel()
        np.testing.assert_allclose(shown, exact, atol=0.0501)


def test_the_funnel_adds_up_to_the_rows(text: str, toy: SimpleNamespace) -> None:
    part = text[text.index("## Refinement funnel") : text.index("## Raw against refined")]
    steps = {s["name"]: s["fingerprint"] for s in toy.store.query("SELECT name, fingerprint FROM steps")}
    rows = [row.split(" | ") for row in re.findall(r"^\| (.*) \|$", part, re.MULTILINE)[1:]]
    seen, name = {}, ""
    for row in rows:
        name = row[0].strip("` ") or name
        if "all" in row[2]:
            assert sum(seen[name]) == int(row[4].strip("*")) == 48
        else:
            seen.setdefault(name, []).append(int(row[4].split()[0]))
    for step, counts in seen.items():
        sql = "SELECT count(*) AS n FROM outcomes WHERE step = ? GROUP BY action, reason ORDER BY n"
        assert sorted(counts) == [row["n"] for row in toy.store.query(sql, [steps[step]])]
    outcomes = toy.store.outcomes(steps["agrees"])
    refined = sum(o.example is not None and not o.example.fell_back for o in outcomes)
    assert f"Of 48 training rows, **{refined} ({refined / 0.48:.0f}%) reach the methods refined**" in part
    assert "1 row of rewritten got no answer from the server" in part


@pytest.mark.parametrize("train", [True, False])
def test_rows_of_other_sources_are_counted_apart(tmp_path: Path, train: bool) -> None:
    """As `mix` leaves them: 30 of the 48 rows, and 40 of another source, one of them drawn twice where `made`."""
    spec = toy_run.make_spec(train=train)
    store = Store(tmp_path / "toy.duckdb")
    toy_run.fill(store, spec, train=train)
    (step,) = store.query("SELECT fingerprint FROM steps WHERE name = 'agrees'")
    store.delete_outcomes(step["fingerprint"], [each.example_id for each in store.outcomes(step["fingerprint"])])
    own = [toy_run.example(number) for number in range(30)]
    other = [replace(toy_run.example(number), id=f"other{number}", split="train") for number in range(40)]
    mixed = [Outcome(e.id, "kept", "ok", e) for e in (*[e.with_response("said") for e in own], *other)]
    store.add_outcomes(step["fingerprint"], list(enumerate(mixed)))

    def sentence() -> str:
        data = gather(store, spec)
        return plain(funnel.outcome(data, data.final).text)

    text = sentence()
    arrive = "reach the methods" if train else "leave the graph"
    assert f"Of 48 training rows, 30 (62%) {arrive} refined, 0 (0%) with the reference answer put back" in text
    assert "and 18 (38%) were dropped; 40 rows of other sources came in beside them." in text
    copy = replace(other[0], id="copy", parents=(other[0].id,))
    store.add_outcomes(step["fingerprint"], [(70, Outcome("copy", "created", "repeated", copy))])
    text = sentence()
    assert f"71 rows {arrive}, 1 (1%) of them made by the graph, 40 (56%) of other sources." in text


def test_the_gate_counts_its_cosines(text: str, toy: SimpleNamespace) -> None:
    (step,) = toy.store.query("SELECT fingerprint FROM steps WHERE name = 'close'")
    cosines = [o.scores["cosine"] for o in toy.store.outcomes(step["fingerprint"]) if "cosine" in o.scores]
    passed = sum(c >= 0.8 for c in cosines)
    share = f"{passed} ({100 * passed / len(cosines):.0f}%) of {len(cosines)} rows reach the threshold of 0.8"
    assert share in text
    bins = table_after(text, "**Cosines at the gate close**")
    assert sum(int(cells[1]) for cells in bins.values()) == len(cosines)
    assert sum(int(cells[1]) for low, cells in bins.items() if float(low) >= 0.8) == passed


# ---- what else a report says and does


def test_hostile_rows_are_shown_and_do_nothing(built: dict[str, Path], read_page: Any) -> None:
    page = read_page(built["html"].read_text("utf-8"))
    page.check_harmless()
    shown = "".join(page.text)
    assert shown.count("<script>alert('x')</script>") >= 3  # a question, a response, a benchmark's answer
    assert "مرحبا بالعالم" in shown and "\u202e" not in shown
    markdown = built["markdown"].read_text("utf-8")
    outside = re.sub(r"^(`{3,})[a-z]*\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside and "](http" not in outside


def test_provenance_holds_what_repeats_the_run(toy: SimpleNamespace, data: Any) -> None:
    from reports.sections import provenance

    text = flat(provenance.render(data))
    for wanted in ("refinery run toy.yaml", "Say it in your own words: {{ answer }}", "toy-7b", "3.11.9", "w" * 8):
        assert wanted in text
    for row in toy.store.query(
        "SELECT fingerprint FROM steps UNION SELECT fingerprint FROM checkpoints WHERE role <> 'tuning'"
    ):
        assert row["fingerprint"] in text
    assert "48 train, 6 validation, 6 test, 0 refused" in text
    assert "differs from that of the last run" in text
    assert "None of these judges is a person" in text


def test_provenance_does_not_warn_where_the_spec_is_that_of_the_run(toy: SimpleNamespace, data: Any) -> None:
    from reports.sections import provenance

    run = {**data.runs[0], "spec_digest": digest(toy.spec.public())}
    assert "differs from that" not in flat(provenance.render(replace(data, runs=[run])))


def flat(blocks: Any) -> str:
    """All text of blocks, in a row."""
    if isinstance(blocks, str):
        return blocks
    if isinstance(blocks, list | tuple):
        return "\n".join(flat(each) for each in blocks)
    return flat(list(vars(blocks).values())) if hasattr(blocks, "__dict__") else ""


def test_the_lab_says_what_its_figures_are(text: str, data: Any) -> None:
    assert "never what a 7B model would score" in text
    assert not replace(data, spec=data.spec.model_copy(update={"model": "org/seven-billion"})).lab


def test_rows_shown_include_every_fate_and_the_text_that_was_refused(data: Any) -> None:
    fates = {row.what: row for row in data.rows}
    assert set(fates) == {
        "refined", "fell back at rewritten: server_error", "fell back at close: below_threshold",
        "dropped at agrees: disagrees",
    }  # fmt: skip
    gated = fates["fell back at close: below_threshold"]
    assert gated.rejected != gated.response == gated.answer
    assert fates["refined"].response != fates["refined"].answer and not fates["refined"].rejected
    dropped = fates["dropped at agrees: disagrees"]
    assert dropped.rejected and not dropped.response


def test_items_shown_were_right_before_and_wrong_after(data: Any, toy: SimpleNamespace) -> None:
    assert {item.benchmark for item in data.items} == {"toy_facts"}  # the baseline lost most on it
    assert len(data.items) == 3
    for item in data.items:
        assert list(item.answers) == ["base", "sft_raw", "raft"]
        assert item.answers["base"] == "It is dorulin" and item.answers["sft_raw"].startswith("It is wrong")


def test_tuning_shows_each_grid_point_once(data: Any) -> None:
    found = {(trial.method, trial.params["learning_rate"], trial.chosen) for trial in data.trials}
    assert found == {(name, *point) for name in METHODS for point in ((0.0003, True), (0.0001, False))}
    assert len(data.trials) == 6


def test_a_run_without_training_has_a_report(refined_only: SimpleNamespace, tmp_path: Path) -> None:
    paths = report.build(refined_only.store, refined_only.spec, tmp_path)
    text = paths["markdown"].read_text("utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Summary", "Refinement funnel", "Raw against refined", "Examples", "Cost", "Provenance"]
    assert "There is no comparison of models: nothing was trained." in text
    assert gather(refined_only.store, refined_only.spec).comparison is None


def test_a_run_without_training_needs_neither_scipy_nor_matplotlib(
    refined_only: SimpleNamespace, tmp_path: Path
) -> None:
    """Both come with extras that refining does without."""
    spec = tmp_path / "spec.pickle"
    spec.write_bytes(pickle.dumps(refined_only.spec))
    code = f"""
import pickle, sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("scipy", "matplotlib", "torch", "transformers", "pyarrow", "lm_eval")))
from refinery.store import Store
from reports import report, svg
svg.available = lambda: False
spec = pickle.loads(Path({str(spec)!r}).read_bytes())
report.build(Store({str(refined_only.store.path)!r}), spec, Path({str(tmp_path)!r}))
"""
    root = Path(report.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    assert "The chart needs matplotlib" in (tmp_path / "report.html").read_text("utf-8")


def test_a_store_without_the_spec_is_refused_in_one_line(toy: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no step of the spec toy yet: run the refine stage first"):
        gather(Store(tmp_path / "empty.duckdb"), toy.spec)


def test_steps_that_have_not_run_as_the_spec_says_are_named(toy: SimpleNamespace) -> None:
    spec = toy.spec.model_copy(deep=True)
    spec.graph["close"].params.min_cosine = 0.7
    notes = gather(toy.store, spec).notes
    assert notes[:2] == [
        "The step close has not run as the spec now describes it.",
        "The step agrees has not run as the spec now describes it.",
    ]


def test_methods_are_compared_on_the_seeds_that_all_have(toy: SimpleNamespace) -> None:
    spec = toy.spec.model_copy(deep=True)
    spec.train.seeds = [0, 1, 2, 3]
    found = gather(toy.store, spec)
    assert "There is no finished training of sft_raw, sft_close, raft with seed 3." in found.notes
    assert found.comparison.methods["raft"].n_seeds == 3


def test_sections_are_files_in_the_order_of_the_spec(toy: SimpleNamespace, data: Any) -> None:
    files = {p.stem for p in (Path(report.__file__).parent / "sections").glob("[a-z]*.py")}
    assert set(report.ORDER) <= files == set(report.default_sections())
    spec = toy.spec.model_copy(deep=True)
    spec.report.sections = ["provenance", "funnel"]
    blocks = report.render(replace(data, spec=spec))
    headings = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    assert headings == ["Provenance", "Refinement funnel"]


def test_the_terminal_table_has_base_first_and_fits(data: Any) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, force_terminal=False)
    console.print(terminal_table(data.comparison))
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert names == ["base", "sft_raw", "sft_close", "raft"]
    assert "85.8% [77." in text


def test_every_table_row_has_a_cell_for_each_column(data: Any) -> None:
    def tables(blocks: Any) -> list[Table]:
        found = []
        for block in blocks:
            found += [block] if isinstance(block, Table) else []
            found += tables([block.data]) if hasattr(block, "data") else []
            found += tables(block.blocks) if hasattr(block, "blocks") else []
        return found

    made = tables(report.render(data))
    assert len(made) > 15
    for table in made:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert not any("nan" in plain(cell).lower().split() for row in table.rows for cell in row)
