"""One answer out of two: the facts of the reference, the manner of the model's own rewrite (RAFT Eq 4).

    y^ = Fusion(x, y, y_bar)   where the earlier filters passed;   y^ = y where they did not

`rule` says how the one is made. Rows that fell back earlier keep y: the graph passes them through unasked.

    rounds       a model merges the two. Several rounds are sampled one after another and judged; the round with the
                 best mean score is kept, and a round whose mean reaches `stop_at` ends the search
    concatenate  the rewrite's reasoning, cut before its own conclusion, and the reference's final answer behind it
    pick         no new text: the best of the candidates, or of them and the reference, by similarity to a text, by
                 likelihood under a model (as GRAPE chooses among answers), or by judges
    template     a text put together from fields

concatenate and template ask no model and no encoder.
"""

import asyncio
import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from refinery.checks import Kind
from refinery.context import Context
from refinery.errors import RowError
from refinery.judges import Judge, ModelJudge, Rule, Verdict, judge_all
from refinery.ops import rewrite
from refinery.ops.semantic_filter import cosine
from refinery.records import Example, Outcome
from refinery.rowops import WriterParams, answer_key, conversation, settle, unable, write
from refinery.spec_types import EncoderName, Later, ModelName, Template
from refinery.templates import render

VERSION = 1
VARIABLES = ("rewrite", "candidate", "candidates", "reasoning", "final")
"""`rewrite` is the response that is to be fused; `candidate`, in a judge's prompt, the text to judge; `reasoning` and
`final`, in the `text` of rule concatenate, its two parts."""

PROMPT = """\
Below are a question and two answers to it. Merge them into one.

Question:
{{ question }}

First answer (its content is right):
{{ answer }}

Second answer (its style is right):
{{ rewrite }}

Take every fact, number and conclusion from the first answer; where the two disagree, the first one holds. Take \
wording, tone and layout from the second. Write only the merged answer, as a direct reply to the question that does \
not speak of these answers."""

BANNED = (*rewrite.BANNED, "first answer", "second answer", "merged answer", "both answers", "two answers")


CONCATENATE = "{{ reasoning }}\n\n{{ final }}"

_RULES: dict[str, tuple[str, ...]] = {
    "by": ("pick",),
    "among": ("pick",),
    "against": ("pick",),
    "encoder": ("pick",),
    "most": ("pick",),
    "cut": ("concatenate",),
    "text": ("concatenate", "template"),
    "rounds": ("rounds",),
    "stop_at": ("rounds",),
    "prompt": ("rounds",),
    "system": ("rounds",),
    "prefill": ("rounds",),
}
"""Parameters that mean something to some rules only; written for another rule they are a mistake."""


class Params(WriterParams):
    rule: Annotated[Literal["rounds", "concatenate", "pick", "template"], Later] = "rounds"
    """How the one is made of the two."""
    text: Annotated[Template | None, Later] = None
    """What the rules concatenate and template write; concatenate's own is the reasoning, an empty line, the final."""
    cut: Annotated[Literal["line", "sentence", "nothing"], Later] = "line"
    """What concatenate takes off the end of the rewrite, where it draws its own conclusion."""
    by: Annotated[Literal["similarity", "likelihood", "judge"], Later] = "likelihood"
    """What pick goes by: cosine to `against`, geometric mean of the token probabilities, mean score of `judges`."""
    among: Annotated[Literal["candidates", "reference_and_candidates"], Later] = "candidates"
    """What pick chooses from. Of equals the earlier wins, the reference first."""
    against: Annotated[Template, Later] = "{{ answer }}"
    """The text that pick by similarity compares with."""
    encoder: Annotated[EncoderName, Later] = "all-MiniLM-L6-v2"
    most: Annotated[int, Field(ge=1, le=64), Later] = 8
    """The first so many candidates of a row are looked at by pick."""
    prompt: Template = PROMPT
    banned: tuple[str, ...] = BANNED
    rounds: int = Field(3, ge=1, le=64)
    """Fusions sampled at most."""
    judges: tuple[Judge, ...] = Field(("answer_and_likelihood",), min_length=1)
    """Programs by name, models as {model: name, prompt: template}. The paper uses several models."""
    judge_model: ModelName | None = None
    """Whose likelihood the programs use; the fusing model's where not given."""
    stop_at: float = Field(0.8, ge=0, le=1)
    """Mean judge score at which no further round is sampled."""
    min_score: float | None = Field(None, ge=0, le=1)
    """Below it the response stays as it was, unfused, with the reason below_min_score."""
    check: Kind = "last_word"
    of: Template = "{{ answer }}"
    """With `check`: what counts as agreement for the programs. For concatenate: the final answer."""

    @model_validator(mode="after")
    def _fits_rule(self) -> "Params":
        for name, rules in _RULES.items():
            if self.rule not in rules and getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(f"{name} goes with rule: {' or '.join(rules)}, not with {self.rule}")
        if self.rule == "template" and self.text is None:
            raise ValueError('rule template needs "text", the template of what it writes')
        if self.by == "similarity" and self.among != "candidates" and self.against == "{{ answer }}":
            raise ValueError("the reference is always closest to itself: name another text under against")
        return self


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    match params.rule:
        case "rounds":
            return await _rounds(example, params, ctx)
        case "pick":
            return await _pick(example, params, ctx)
        case "concatenate":
            return _concatenate(example, params)
        case "template":
            return _written(example, render(params.text or "", _fields(example)), {})


def _fields(example: Example) -> dict[str, Any]:
    return {**example.fields(), "rewrite": example.response}


# --- rounds


async def _rounds(example: Example, params: Params, ctx: Context) -> Outcome:
    """The best-judged fusion becomes the response.

    scores: `rounds` (for each: its failure's reason, or every judge's score, the unknown ones' reasons and the mean),
    `chosen` (the round), `mean` (its score), `stop_at`, `min_score`. Reasons: below_min_score (kept as it was),
    no_judge_score where no judge could tell on any round, and the first round's failure where no round gave a text.
    """
    fields = _fields(example)
    messages = conversation(example, params.prompt, params.system, fields)
    rule = await _rule(params, params.judges, fields)
    log: list[dict[str, Any]] = []
    texts: list[str] = []
    errors: list[RowError] = []
    for number in range(params.rounds):
        try:
            text = await write(example, params, ctx, messages, number)
        except RowError as error:
            if error.transient:
                raise
            errors.append(error)
            texts.append("")
            log.append({"failed": error.reason, "mean": None})
            continue
        verdict = await judge_all(params.judges, example, text, rule, ctx)
        texts.append(text)
        log.append(_entry(verdict))
        if verdict.mean is not None and verdict.mean >= params.stop_at:
            break
    return _choose(example, params, texts, log, errors)


async def _rule(params: Params, judges: tuple[Judge, ...], fields: dict[str, Any]) -> Rule:
    """RowError unreadable_reference where a program is to look for agreement with a reference that holds nothing to
    agree with: it would call every text wrong."""
    agreement = any(judge in ("answer_agreement", "answer_and_likelihood") for judge in judges)
    key = await answer_key(params.check, params.of, fields) if agreement else render(params.of, fields)
    return Rule(params.check, key, params.judge_model or params.model)


def _entry(verdict: Verdict) -> dict[str, Any]:
    entry: dict[str, Any] = {"judges": verdict.scores, "mean": verdict.mean}
    return {**entry, "unknown": verdict.unknown} if verdict.unknown else entry


def _choose(
    example: Example, params: Params, texts: list[str], log: list[dict[str, Any]], errors: list[RowError]
) -> Outcome:
    """The earliest of the rounds with the best mean."""
    if len(errors) == len(texts):
        raise errors[0]
    judged = [number for number, entry in enumerate(log) if entry["mean"] is not None]
    scores: dict[str, Any] = {"rounds": log, "chosen": None, "mean": None, "stop_at": params.stop_at}
    if not judged:
        return unable(example, params.on_error, "no_judge_score", scores)
    best = max(judged, key=lambda number: log[number]["mean"])
    scores |= {"chosen": best, "mean": log[best]["mean"], "min_score": params.min_score}
    if params.min_score is not None and scores["mean"] < params.min_score:
        return settle(example, example.response, example.candidates, {**scores, "chosen": None}, "below_min_score")
    return settle(example, texts[best], (), scores)


# --- pick


async def _pick(example: Example, params: Params, ctx: Context) -> Outcome:
    """The best of the texts that exist becomes the response.

    scores: `by`, `picks` (every text's score in order, None where a judge could not tell), `chosen` (index; where the
    reference is among them it is 0), `mean` (its score), `min_score`; `unknown` for judges that gave nothing. Reasons:
    no_judge_score where none is known, below_min_score (kept as it was), and picked_reference.
    """
    texts = list((example.candidates or (example.response,))[: params.most])
    with_reference = params.among == "reference_and_candidates"
    texts = [example.answer, *texts] if with_reference else texts
    values, unknown = await _values(example, params, ctx, texts)
    known = [number for number, value in enumerate(values) if value is not None]
    scores: dict[str, Any] = {"by": params.by, "picks": values, "chosen": None, "mean": None}
    scores |= {"unknown": unknown} if unknown else {}
    if not known:
        return unable(example, params.on_error, "no_judge_score", scores)
    best = max(known, key=lambda number: values[number] or 0.0)
    scores |= {"chosen": best, "mean": values[best], "min_score": params.min_score}
    if params.min_score is not None and (values[best] or 0.0) < params.min_score:
        return settle(example, example.response, example.candidates, {**scores, "chosen": None}, "below_min_score")
    return settle(example, texts[best], (), scores, "picked_reference" if with_reference and best == 0 else "ok")


async def _values(
    example: Example, params: Params, ctx: Context, texts: list[str]
) -> tuple[list[float | None], dict[str, str]]:
    """A score of every text, None where it is unknown, and the reasons of unknown ones by judge."""
    fields = _fields(example)
    if params.by == "similarity":
        against = render(params.against, fields)
        if not against.strip():
            raise RowError("empty_reference")
        vectors = np.asarray(await ctx.embed(params.encoder, [against, *texts]), dtype=np.float64)
        return [cosine(vectors[0], vector) for vector in vectors[1:]], {}
    judges: tuple[Judge, ...] = params.judges if params.by == "judge" else ("likelihood",)
    rule = await _rule(params, judges, fields)
    verdicts = await asyncio.gather(*(judge_all(judges, example, text, rule, ctx) for text in texts))
    unknown = {f"{label} on {n}": reason for n, v in enumerate(verdicts) for label, reason in v.unknown.items()}
    return [verdict.mean for verdict in verdicts], unknown


# --- rules without a model


def _concatenate(example: Example, params: Params) -> Outcome:
    """The rewrite less its conclusion, and the reference's final answer. Reason no_reasoning where nothing is left."""
    reasoning = _cut(example.response, params.cut)
    if not reasoning:
        return unable(example, params.on_error, "no_reasoning", {"cut": params.cut})
    fields = _fields(example)
    final = render(params.of, fields).strip()
    if not final:
        raise RowError("empty_reference")
    text = render(params.text or CONCATENATE, {**fields, "reasoning": reasoning, "final": final})
    taken = len(example.response.strip()) - len(reasoning)
    return _written(example, text, {"cut": params.cut, "cut_characters": taken})


def _cut(text: str, what: str) -> str:
    """`text` without its last line that is not empty, or its last sentence. A sentence ends at ". ", "! ", "? " or a
    line's end, so that a decimal point is none; an abbreviation is taken for an end."""
    text = text.strip()
    if what == "nothing":
        return text
    ends = [m.start() for m in re.finditer(r"\n" if what == "line" else r"(?<=[.!?])\s|\n", text)]
    return text[: ends[-1]].strip() if ends else ""


def _written(example: Example, text: str, scores: dict[str, Any]) -> Outcome:
    if not text.strip():
        raise RowError("empty_response")
    return settle(example, text.strip(), (), scores)


# --- what is asked


def requests(params: Params) -> int:
    """Requests for each row, at most: a round asks for one text, each model judge for one grade, and programs with
    likelihood for one score; pick asks for each text that it looks at."""
    asking = sum(isinstance(judge, ModelJudge) or judge != "answer_agreement" for judge in params.judges)
    if params.rule == "pick":
        texts = params.most + (params.among == "reference_and_candidates")
        return texts * {"similarity": 0, "likelihood": 1, "judge": asking}[params.by]
    return params.rounds * (1 + asking) if params.rule == "rounds" else 0


def scored_by(params: Params) -> list[str]:
    """Models that must be able to score text: checked before anything runs."""
    likely = any(judge in ("likelihood", "answer_and_likelihood") for judge in params.judges)
    scoring = {"rounds": likely, "pick": params.by == "likelihood" or (params.by == "judge" and likely)}
    return [params.judge_model or params.model] if scoring.get(params.rule) else []


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    if params.rule in ("concatenate", "template"):
        return ["asks no model"]
    if params.rule == "pick":
        among = "candidates" if params.among == "candidates" else "candidates and the reference"
        return [f"picks by {params.by} among the first {params.most} {among}; writes no text"]
    models = {judge.model for judge in params.judges if isinstance(judge, ModelJudge)}
    if not models:
        return ["judged by programs alone; the paper's fusion has several model judges"]
    if len(models) == 1:
        return [f"one model judge ({models.pop()}); the paper's fusion has several"]
    return []


def unchecked(params: Params) -> list[str]:
    """What to say where no later step checks the answers."""
    judged = params.rule == "rounds" or (params.rule == "pick" and params.by == "judge")
    if not judged or params.min_score is not None:
        return []
    return ["a text that its judges give 0 may be taken: set min_score, or put a check_answer behind it"]
