"""Gates: the grammar, and that the interval decides."""

import math
from dataclasses import dataclass

import pytest

from evals.gates import parse
from refinery.errors import UserError


@dataclass
class Ends:
    low: float
    high: float


@pytest.mark.parametrize(
    ("text", "method", "what", "sign", "threshold"),
    [
        ("general_mean < -2pp", "", "general_mean", "<", -0.02),
        ("  domain_mean>+0.5pp ", "", "domain_mean", ">", 0.005),
        ("raft:lab_facts < 0pp", "raft", "lab_facts", "<", 0.0),
        ("tasks/my-task.yaml > 1.25pp", "", "tasks/my-task.yaml", ">", 0.0125),
    ],
)
def test_what_is_understood(text: str, method: str, what: str, sign: str, threshold: float) -> None:
    gate = parse(text)
    assert (gate.method, gate.what, gate.sign) == (method, what, sign)
    assert gate.threshold == pytest.approx(threshold)


@pytest.mark.parametrize(
    "text",
    ["", "general_mean", "general_mean < -2", "general_mean < -2%", "general_mean <= -2pp", "general_mean < 2 pp",
     "a < 1pp and b < 1pp", "general mean < 1pp", "general_mean == 1pp", "< 1pp", "x < 1e-2pp", "x < .5pp"],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    with pytest.raises(UserError, match=r"write .*WHAT < NUMBERpp"):
        parse(text)


@pytest.mark.parametrize(
    ("low", "high", "below", "above"),
    [
        (-0.06, -0.03, "met", "not met"),
        (-0.06, -0.02, "undecided", "not met"),  # high is not below -2
        (-0.03, -0.01, "undecided", "undecided"),
        (-0.02, 0.01, "not met", "undecided"),
        (-0.019, 0.01, "not met", "met"),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, below: str, above: str) -> None:
    assert parse("x < -2pp").state(Ends(low, high)) == below
    assert parse("x > -2pp").state(Ends(low, high)) == above


@pytest.mark.parametrize(("state", "fail_if", "fail_unless"), [("met", 1, 0), ("not met", 0, 1), ("undecided", 0, 1)])
def test_fail_if_wants_proof_of_harm_and_fail_unless_proof_of_none(state: str, fail_if: int, fail_unless: int) -> None:
    assert parse("x < 0pp").fails(state) == bool(fail_if)  # type: ignore[arg-type]
    assert parse("x < 0pp", must=True).fails(state) == bool(fail_unless)  # type: ignore[arg-type]


def test_without_an_interval_nothing_is_decided() -> None:
    with pytest.raises(UserError, match="no interval"):
        parse("x < 0pp").state(Ends(math.nan, math.nan))
