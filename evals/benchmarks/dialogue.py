"""General dialogue: the last turn of everyday conversations, answered and graded, or measured by its likelihood.

RAFT (arXiv:2606.00147) reports such a figure on "MS-Bench", which is ModelScope's `iic/ms_bench`: a training set of
some 380,000 dialogues, mostly Chinese, that has neither a test split nor a metric of its own. A figure on it means
nothing without the sample and the judge, so this suite freezes both: the first 500 dialogues in the order of a digest
of their turns, whatever order the file has them in, and the judge in the score's fingerprint. Call it MS-Bench-style.

`dialogue_judged`: the model answers (chat, greedy), and `evaluate.judge` grades the answer against the dialogue's own
last turn from 1 to 5 for correctness, completeness and clarity; the mean, from 0 to 1, counts. `dialogue_likelihood`:
bits per byte of the dialogue's own last turn, lower is better, no judge. Freeze the base model's answers as last turns
to measure how far a model moved from it. Local files, folder dialogue: any one file with `messages`, or
`conversations` of from and value.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmarks._files import Rows, splits
from evals.benchmarks._judged import Judge, Judged, chosen, judged
from evals.benchmarks._tasks import Task, item, needs_data, written
from refinery.errors import UserError
from refinery.judges import parse_rubric
from refinery.ops.judge import PROMPT, RUBRIC
from refinery.records import Message, digest
from refinery.spec_models import EvaluateSpec
from refinery.templates import render

DATA = "dialogue"
LOCAL_ONLY = True
SIZE = 500
SCALE = (1, 5)
SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
NEEDS_JUDGE = ("dialogue_judged",)


def names() -> Sequence[str]:
    return ("dialogue_judged", "dialogue_likelihood")


def task(name: str, *, settings: EvaluateSpec, judge: Judge | None = None, **_: Any) -> Task:
    files = splits(settings, DATA, {"test": "*"})
    if not files:
        raise needs_data(name, DATA, "a file of dialogues, JSON lines with messages")
    items = [item(chat[:-1], chat[-1]["content"]) for chat in frozen(files["test"])]
    if name == "dialogue_judged":
        rules = Judged(chosen(name, judge), _question, read)
        return judged(name, items, rules, ("grade",), settings)
    return written(name, items, _never, ("bits_per_byte",), EvaluateSpec()) | {
        "output_type": "loglikelihood",
        "generation_kwargs": None,
        "process_results": bits_per_byte,
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "mean", "higher_is_better": False}],
    }


def frozen(rows: Rows, size: int = SIZE) -> list[list[Message]]:
    """The dialogues that end with an assistant's turn after a user's; at most `size`, by their digest."""
    chats = [turns(row) for row in rows]
    ended = [chat for chat in chats if [turn["role"] for turn in chat[-2:]] == ["user", "assistant"]]
    distinct = {digest(chat): chat for chat in ended}
    return [distinct[name] for name in sorted(distinct)[:size]]


def turns(row: Mapping[str, Any]) -> list[Message]:
    try:
        if "messages" in row:
            return [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
        return [{"role": SPEAKERS[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
    except KeyError as error:
        raise UserError(
            f"dialogue: a row has no {error}; it needs messages, or conversations of from and value"
        ) from None


def _question(doc: Mapping[str, Any], text: str) -> list[Message]:
    said = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in doc["messages"])
    fields = {"question": said, "answer": doc["reference"], "candidate": text, "rubric": RUBRIC}
    return [{"role": "user", "content": render(PROMPT, fields | dict(zip(("low", "high"), SCALE, strict=True)))}]


def read(reply: str) -> dict[str, float] | None:
    given = list(parse_rubric(reply, RUBRIC, SCALE).values())
    known = [each for each in given if each is not None]
    low, high = SCALE
    return {"grade": (sum(known) / len(known) - low) / (high - low)} if len(known) == len(RUBRIC) else None


def bits_per_byte(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """lm-eval's `process_results`, of one (log-likelihood in nats, is it what greedy text would be)."""
    return {"bits_per_byte": -results[0][0] / math.log(2) / len(doc["reference"].encode())}


def _never(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    raise AssertionError("nothing is written here")
