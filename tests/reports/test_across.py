"""Several specs in one report: what is pooled is what can be compared, and the page stays one page."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evals import forgetting
from evals.panels import Panels
from refinery.store import Store
from reports import across, html, report
from reports.blocks import Heading, Table, plain
from reports.gather import gather
from tests.reports import conftest as toy_run


@pytest.fixture(scope="module")
def two(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The toy run, and one of another domain whose RAFT forgets more; toy_sums was measured there with a shot."""
    spec = toy_run.make_spec(train=True).model_copy(update={"name": "other"})
    spec.evaluate.domain = ["other_domain"]
    before = dict(toy_run.SCORES)
    scores = {("other_domain" if b == "toy_domain" else b): each for b, each in before.items()}
    scores["toy_facts"] = (0.95, {"sft_raw": 0.5, "sft_close": 0.7, "raft": 0.85})
    try:
        toy_run.SCORES.clear()
        toy_run.SCORES.update(scores)
        store = Store(tmp_path_factory.mktemp("other") / "other.duckdb")
        toy_run.fill(store, spec, train=True)
    finally:
        toy_run.SCORES.clear()
        toy_run.SCORES.update(before)
    sums = store.scores(benchmark="toy_sums")
    settings = {"shots": 1, "primary_metric": "accuracy"}
    store.replace("scores", [{**row(score), "fingerprint": "f" * 32, "settings": settings} for score in sums],
                  ["checkpoint", "benchmark", "metric"])  # fmt: skip
    store.replace("samples", [
        {**row(sample), "fingerprint": "f" * 32} for sample in store.samples(benchmark="toy_sums")
    ], ["checkpoint", "benchmark", "metric", "item"])  # fmt: skip
    return [gather(toy.store, toy.spec), gather(store, spec)]


def row(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def tables(blocks: Any) -> Iterator[Table]:
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif hasattr(block, "blocks"):
            yield from tables(block.blocks)


def test_what_was_measured_otherwise_is_not_pooled_and_named(two: list[Any]) -> None:
    panels, notes = across.comparable(two)
    assert [p.benchmark for p in panels["toy"]] == ["toy_domain", "toy_facts", "toy_sums", "toy_format"]
    assert [p.benchmark for p in panels["other"]] == ["other_domain", "toy_facts", "toy_format"]
    assert notes == ["toy_sums of other is not pooled with that of toy: shots 1 instead of 0."]


def test_means_over_specs_are_those_of_the_pooled_comparison(two: list[Any]) -> None:
    blocks = across.render(two, report.render, report.default_sections())
    found = {each.name: each for each in tables(blocks) if each.name}
    assert [plain(r[0]) for r in found["all-specs"].rows] == [
        f"{spec} {method}" for spec in ("toy", "other") for method in ("sft_raw", "sft_close", "raft")
    ]
    panels, _ = across.comparable(two)
    expected = forgetting.pool({name: Panels(own, []) for name, own in panels.items()}, baseline="sft_raw")
    rows = {plain(r[0]): r for r in found["pooled"].rows}
    for name, method in expected.methods.items():
        value = float(plain(rows[name][2]).split("%")[0])
        assert value == pytest.approx(100 * method.general_mean.score.value, abs=0.51)
    # facts and format count over both specs, sums over the one that can be compared
    by_hand = [np.mean([p.values["raft"].mean() for own in panels.values() for p in own if p.benchmark == b])
               for b in ("toy_facts", "toy_sums", "toy_format")]  # fmt: skip
    assert expected.methods["raft"].general_mean.score.value == pytest.approx(np.mean(by_hand))
    assert rows["raft"][5] == "6"  # trainings of two specs


def test_two_specs_make_one_page_without_double_ids_or_dead_links(
    two: list[Any], tmp_path: Path, read_page: Any
) -> None:
    paths = report.write_several(two, tmp_path, report.FORMATS)
    page = read_page(paths["html"].read_text("utf-8"))
    page.check_harmless()
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = {v.removeprefix("#") for _, key, v in page.attributes if key == "href" and v}
    assert links <= set(ids)
    named = {each for _, key, v in page.attributes if key == "aria-labelledby" for each in v.split()}
    assert named <= set(ids)
    text = paths["markdown"].read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[:1] == ["All specs"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[-2:] == ["toy", "other"]
    assert text.startswith("# Report of toy, other")


def test_of_many_specs_only_the_main_sections_are_shown(two: list[Any]) -> None:
    many = [replace(two[0], spec=two[0].spec.model_copy(update={"name": f"s{i}"})) for i in range(across.FEW + 1)]
    blocks = across.render(many, report.render, report.default_sections())
    shown = [block.text for block in blocks if isinstance(block, Heading) and block.level == 3]
    assert "Summary" in shown and "Provenance" in shown and "Raw against refined" not in shown
    assert len(html.render("t", [], blocks)) < 5_000_000


def test_without_a_common_method_there_is_no_mean(two: list[Any]) -> None:
    alone = replace(two[1], comparison=replace(two[1].comparison, baseline="raft"))
    blocks = across.render([two[0], alone], report.render, ["summary"])
    assert "pooled" not in {each.name for each in tables(blocks)}


def test_one_spec_alone_is_its_own_report(two: list[Any], tmp_path: Path) -> None:
    report.write_several(two[:1], tmp_path / "a")
    report.write(two[0], tmp_path / "b")
    assert (tmp_path / "a" / "report.md").read_bytes() == (tmp_path / "b" / "report.md").read_bytes()
