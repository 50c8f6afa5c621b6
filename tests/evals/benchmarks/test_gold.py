"""Every benchmark accepts its own reference answers and none that is mangled: on made-up files always, on the real ones
where REFINERY_TEST_DATA names a folder that has them."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evals import sandbox
from evals.benchmarks import _files, math500, mbpp, openfunctions, sciknoweval, toolalpaca
from evals.scorers.choices import tagged
from refinery.checks import agrees
from refinery.spec_models import EvaluateSpec, SelectSpec
from tests.evals.benchmark_files import make

pytest.importorskip("datasets")
REAL = os.environ.get("REFINERY_TEST_DATA")


@pytest.fixture(
    scope="module",
    params=[
        "made up",
        pytest.param(
            "real", marks=[pytest.mark.slow, pytest.mark.skipif(not REAL, reason="REFINERY_TEST_DATA is not set")]
        ),
    ],
)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(REAL)) if request.param == "real" else make(tmp_path_factory.mktemp("data"))


def items(module: Any, name: str, data: Path) -> list[dict[str, Any]]:
    task = module.task(name, settings=EvaluateSpec(data=str(data)), select=SelectSpec(), judge=None)
    return list(task["custom_dataset"]()["test"])


def check(
    rows: list[Any], score: Callable[[Mapping[str, Any], str], dict[str, float]], gold: Callable[[Any], str],
    mangled: Callable[[Any], str], record: Callable[[str, object], None],
) -> None:  # fmt: skip
    wrong = [row for row in rows if next(iter(score(row, gold(row)).values())) != 1]
    let_through = [row for row in rows if next(iter(score(row, mangled(row)).values())) != 0]
    record("n", len(rows))
    assert rows and not wrong and not let_through, (len(rows), wrong[:2], let_through[:2])


@pytest.mark.parametrize("name", ["toolalpaca_simulated", "toolalpaca_real"])
def test_toolalpaca(name: str, data: Path, record_property: Any) -> None:
    rows = items(toolalpaca, name, data)
    broken = lambda row: re.sub(r"Action: (\w+)", r"Action: \1_x", row["reference"], count=1)  # noqa: E731
    check(rows, toolalpaca.score, lambda row: row["reference"], broken, record_property)
    for row in rows:
        thought = f"Thought: I should do this.\n{row['reference']}\n"
        assert toolalpaca.score(row, thought)["acc"] == 1, row
        assert toolalpaca.score(row, row["reference"].rpartition("Action:")[0])["acc"] == 0, row


def test_openfunctions(data: Path, record_property: Any) -> None:
    rows = items(openfunctions, "openfunctions", data)
    broken = lambda row: re.sub(r"\(", "_x(", row["reference"], count=1)  # noqa: E731
    check(rows, toolalpaca.score, lambda row: row["reference"], broken, record_property)


def test_sciknoweval(data: Path, record_property: Any) -> None:
    rows = items(sciknoweval, "sciknoweval_chemistry", data)
    other = {"A": "B", "B": "C", "C": "D", "D": "A"}
    form = "<reasoning>\nIt is so.\n</reasoning>\n<answer>\n{}\n</answer>"
    check(
        rows, sciknoweval.score, lambda row: form.format(row["reference"]),
        lambda row: form.format(other[row["reference"]]), record_property,
    )  # fmt: skip
    assert all(tagged(form.format(f"{row['reference']}: it")) is None for row in rows)


def test_math(data: Path, record_property: Any) -> None:
    if not (data / "math").is_dir():
        pytest.skip("no MATH among the files")
    rows = [
        row | {"answer": row["solution"].split("\\boxed{")[1].split("}$")[0]} for row in items(math500, "math500", data)
    ]
    check(rows, math500.same, lambda row: row["solution"], lambda row: "It is $\\boxed{17.25}$.", record_property)


def test_gsm8k(data: Path, record_property: Any) -> None:
    """lm-eval's rules decide the benchmark's score; these are the ones that gates and validation use."""
    rows = _files.splits(EvaluateSpec(data=str(data)), "gsm8k", {"test": "*test*"})["test"]
    key = lambda row: row["answer"].rpartition("#### ")[2]  # noqa: E731
    check(
        rows, lambda row, text: {"acc": float(agrees("number", text, key(row)))}, lambda row: row["answer"],
        lambda row: row["answer"] + "1", record_property,
    )  # fmt: skip


def verdicts(jobs: list[tuple[str, str]]) -> list[bool]:
    return [verdict.passed for verdict in sandbox.run_all(jobs, sandbox.Limits(seconds=20))]


@pytest.mark.skipif(bool(sandbox.unavailable()), reason="no sandbox can be made here")
def test_humaneval(data: Path, record_property: Any) -> None:
    rows = _files.splits(EvaluateSpec(data=str(data)), "humaneval", {"test": "*[Hh]uman*[Ee]val*"})["test"]
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    record_property("n", len(rows))
    right = verdicts([(row["prompt"] + row["canonical_solution"], test) for row, test in zip(rows, tests, strict=True)])
    assert [row["task_id"] for row, passed in zip(rows, right, strict=True) if not passed] == []
    empty = verdicts([(row["prompt"] + "    return None\n", test) for row, test in zip(rows, tests, strict=True)])
    assert [row["task_id"] for row, passed in zip(rows, empty, strict=True) if passed] == []


@pytest.mark.skipif(bool(sandbox.unavailable()), reason="no sandbox can be made here")
def test_mbpp(data: Path, record_property: Any) -> None:
    task = mbpp.task("mbpp", settings=EvaluateSpec(data=str(data)))
    rows = list(task["custom_dataset"]()["test"])
    record_property("n", len(rows))
    right = verdicts([(row["code"], "\n".join(row["test_list"])) for row in rows])
    left = [row for row, passed in zip(rows, right, strict=True) if not passed]
    assert [row["task_id"] for row in left if not row["test_setup_code"]] == []  # the others' names lm-eval leaves out
    again = verdicts([(row["code"], "\n".join([row["test_setup_code"], *row["test_list"]])) for row in left])
    assert all(again)
    record_property("out of reach", [row["task_id"] for row in left])
    empty = verdicts([("", "\n".join(row["test_list"])) for row in rows])
    assert not any(empty)
