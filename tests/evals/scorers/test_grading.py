"""A judge's reply is a grade or none, and its agreement with people is Cohen's kappa."""

import random

import pytest
from sklearn.metrics import cohen_kappa_score

from evals.scorers import grading


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ('{"grade": "correct"}', "correct"),
        (' {"grade": "partly_correct"}\n', "partly_correct"),
        ('```json\n{"grade": "incorrect"}\n```', "incorrect"),
        ("incorrect", "incorrect"),
        ("INCORRECT", None),
        ("The answer is correct.", None),
        ("It is incorrect", None),
        ('{"grade": "right"}', None),
        ('{"verdict": "correct"}', None),
        ('{"grade": "correct", "grade": "incorrect"}', None),
        ('["correct"]', None),
        ("{" * 100_000, None),
        ("", None),
    ],
)
def test_a_reply_is_a_grade_or_none(reply: str, grade: str | None) -> None:
    assert grading.grade(reply) == grade


def test_the_question_holds_all_three_texts_as_they_are() -> None:
    (turn,) = grading.question("Why {x}?", "Because {y}.", "No {{z}}")
    assert all(text in turn["content"] for text in ("Why {x}?", "Because {y}.", "No {{z}}", '{"grade": "..."}'))


def test_kappa_is_scikit_learns() -> None:
    rng = random.Random(0)
    people = [rng.choice(grading.GRADES) for _ in range(60)]
    judge = [mine if rng.random() < 0.6 else rng.choice(grading.GRADES) for mine in people]
    found = grading.agreement(people, judge)
    assert found.kappa == pytest.approx(cohen_kappa_score(people, judge))
    strict = [[each == "correct" for each in some] for some in (people, judge)]
    assert found.kappa_strict == pytest.approx(cohen_kappa_score(*strict))
    assert found.accuracy == sum(map(str.__eq__, people, judge)) / 60


def test_no_grade_is_neither_agreement_nor_disagreement() -> None:
    found = grading.agreement(["correct", "incorrect", "correct"], ["correct", "incorrect", None])
    assert (found.n, found.ungraded, found.accuracy, found.kappa) == (2, 1, 1.0, 1.0)
    nothing = grading.agreement(["correct"], [None])
    assert (nothing.n, nothing.accuracy, nothing.kappa) == (0, None, None)
    assert grading.agreement(["correct", "correct"], ["correct", "correct"]).kappa is None
    with pytest.raises(ValueError, match="no grade"):
        grading.agreement(["fine"], ["correct"])
