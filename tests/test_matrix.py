"""`matrix:` in a spec: what it expands to, and mistakes at their places."""

from pathlib import Path
from typing import Any

import pytest

from refinery.errors import UserError
from refinery.spec import load_spec

SPEC = """\
source: {lab: clinic}
sources:
  second: {lab: workshop}
graph:
  drafts: {op: generate, from: source, max_tokens: 8}
train:
  seeds: [0, 1]
  methods:
    sft: {method: sft}
    raft: {method: raft, temperature: 1.5}
"""


def loaded(tmp_path: Path, more: str, *overrides: str) -> Any:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC + more)
    return load_spec(path, list(overrides))


def test_every_combination_is_a_spec(tmp_path: Path) -> None:
    more = "matrix:\n  source: [{lab: clinic}, second]\n  methods.raft.temperature: [1, 2]\n"
    more += "  graph.drafts.max_tokens: [4]\n"
    spec = loaded(tmp_path, more)
    points = [(p.spec.source.lab, p.spec.train.methods["raft"].params.temperature) for p in spec.points]
    assert points == [("clinic", 1.0), ("clinic", 2.0), ("workshop", 1.0), ("workshop", 2.0)]
    assert {p.spec.graph["drafts"].params.max_tokens for p in spec.points} == {4}
    assert len({p.id for p in spec.points}) == 4 and {p.spec.store for p in spec.points} == {spec.store}
    assert spec.points[3].label == "source=second raft.temperature=2 graph.drafts.max_tokens=4"
    assert spec.points[0].label.startswith("source=clinic")
    assert all(point.spec.point is point for point in spec.points)
    assert spec.source.lab == "clinic" and spec.train.methods["raft"].params.temperature == 1.0
    assert spec.public()["matrix"]["methods.raft.temperature"] == [1, 2]
    assert spec.points[0].spec.train.methods["sft"].params == spec.points[3].spec.train.methods["sft"].params


def test_without_a_matrix_there_is_one_point(tmp_path: Path) -> None:
    spec = loaded(tmp_path, "")
    (point,) = spec.points
    assert point.spec is spec and point.keys == {} and point.id == "" and point.label == ""
    assert "matrix" not in spec.public()


def test_a_source_may_come_from_the_matrix_alone(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("matrix: {source: [{lab: clinic}, {lab: workshop}]}\n")
    spec = load_spec(path)
    assert [p.spec.source.lab for p in spec.points] == ["clinic", "workshop"]
    assert "raft" in spec.points[1].spec.train.methods  # the paper's defaults


def test_overrides_reach_the_matrix(tmp_path: Path) -> None:
    spec = loaded(tmp_path, "matrix: {model: [lab]}\n", 'matrix={"methods.raft.top_k": [8, 16, 32]}')
    assert [p.spec.train.methods["raft"].params.top_k for p in spec.points] == [8, 16, 32]


@pytest.mark.parametrize(
    ("more", "place", "said"),
    [
        ("matrix: {methods.raft.temperature: [1, warm]}", "11:40", "number"),
        ("matrix: {methods.raft.temprature: [1]}", "11:36", 'has no "temprature" (did you mean "temperature"?)'),
        ("matrix: {sauce: [1]}", "11:10", 'a matrix does not vary "sauce" (did you mean "source"?)'),
        ("matrix: {evaluate.limit: [1]}", "11:10", 'a matrix does not vary "evaluate"'),
        ("matrix: {model: lab}", "11:17", "a list of values"),
        ("matrix: {model: [lab, lab]}", "11:17", "the same value is there twice"),
        ("matrix: [model]", "11:9", "a mapping of keys to lists"),
        ("matrix: {graph.drafts.from: [drafts]}", "11:30", "cycle"),
        ("matrix: {train.seeds.0.x: [1]}", "11:", "holds no keys"),
        ("matrix: {source: [{lab: clinik}]}", "11:", "clinic"),
    ],
)
def test_mistakes_are_said_at_their_places(tmp_path: Path, more: str, place: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, more + "\n")
    text = str(caught.value)
    assert f"spec.yaml:{place}" in text and said in text


def test_a_mistake_outside_the_matrix_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, "matrix: {methods.raft.top_k: [1, 2, 3]}\nevaluate: {domain: [lab_klinic]}\n")
    assert str(caught.value).count("lab_klinic") == 2  # the message and the line itself


def test_too_many_points_are_refused(tmp_path: Path) -> None:
    many = f"matrix: {{seed: {list(range(40))}, methods.raft.top_k: {list(range(1, 40))}}}\n"
    with pytest.raises(UserError, match="1,560 points"):
        loaded(tmp_path, many)
