"""Knowledge that the model was taught: questions on its articles, answered from memory, graded by a model.

`knowledge_direct` asks for what an article says, `knowledge_indirect` for what follows from it (SDFT's out-of-domain
questions), `knowledge_oracle` asks all of them with the article in the prompt, which is as far as a perfect retriever
would take the base model. No shots, chat, greedy. `strict` counts (wholly right); `lenient` takes partly right too.
The judge is `evaluate.judge`; where the folder holds *judge_gold* (question, reference, answer, grade by a person), its
agreement with them stands with every score. SDFT's own questions are not public: the op `questions` makes such pairs of
your articles. Local files, folder knowledge: *test* with the columns question, answer, kind (direct or indirect), and
article for the oracle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._judged import Judge, Judged, chosen, judged
from evals.benchmarks._tasks import Task, item, needs_data
from evals.scorers import grading
from refinery.records import Message, digest
from refinery.spec_models import EvaluateSpec

DATA = "knowledge"
LOCAL_ONLY = True
NEEDS_JUDGE = ("knowledge_direct", "knowledge_indirect", "knowledge_oracle")
ORACLE = "{article}\n\nAnswer by what this article says:\n{question}"


def names() -> Sequence[str]:
    return NEEDS_JUDGE


def task(name: str, *, settings: EvaluateSpec, judge: Judge | None = None, **_: Any) -> Task:
    files = splits(settings, DATA, {"test": "*test*", "gold": "*judge_gold*"}, optional=("gold",))
    if not files:
        raise needs_data(name, DATA, "your questions, *test*.jsonl with question, answer, kind, article")
    kind = name.removeprefix("knowledge_")
    rows = [row for row in files["test"] if kind in ("oracle", row["kind"])]
    asked = ORACLE if kind == "oracle" else "{question}"
    items = [
        item(
            [{"role": "user", "content": asked.format_map(row)}], row["answer"], asked=row["question"], cluster=_of(row)
        )
        for row in rows
    ]
    judge = chosen(name, judge)
    told = {"told": {"judge_agreement": agreement(judge, files["gold"])}} if "gold" in files else {}
    return judged(name, items, Judged(judge, _question, read), ("strict", "lenient"), settings, **told)


def _of(row: Mapping[str, Any]) -> str:
    """Questions on one article are a cluster."""
    return digest(row["article"], 8) if row.get("article") else "no article"


def _question(doc: Mapping[str, Any], text: str) -> list[Message]:
    return grading.question(doc["asked"], doc["reference"], text)


def read(reply: str) -> dict[str, float] | None:
    grade = grading.grade(reply)
    if grade is None:
        return None
    return {"strict": float(grade in grading.STRICT), "lenient": float(grade in grading.LENIENT)}


def agreement(judge: Judge, gold: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the judge's grades compare with people's on the same answers."""
    replies = judge([grading.question(row["question"], row["reference"], row["answer"]) for row in gold])
    grades = [None if reply is None else grading.grade(reply) for reply in replies]
    return asdict(grading.agreement([row["grade"] for row in gold], grades))
