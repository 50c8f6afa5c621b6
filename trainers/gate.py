"""Can the teacher teach? Asked of a few training rows before a method is trained whose teacher is shown something.

Along the student's rollouts such a method learns what the model would say if it knew what it is shown. Where that is
not better than what it says anyway there is nothing to learn, however long one trains (SDFT, arXiv 2601.19897, finds
the method worse than plain fine-tuning below 7B for this reason). Of the weights as they are before training:

    teacher_accuracy   share of greedy answers to the teacher's prompt that pass the check
    student_accuracy   the same for the student's prompt
    lift               their difference, with Agresti and Min's interval for paired shares (2005)
    copied             share of the teacher's answers that repeat what it was shown (ROUGE-L of COPIED or more)
    rouge_l            mean ROUGE-L of the teacher's answer and what it was shown
    kl                 KL(teacher || student) in nats a token along the student's rollouts at temperature 1

A measurement belongs to weights, rows, prompt and check, so methods with the same teacher share it. Light: torch is
imported when something is measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinery import templates
from refinery.catalog import METHODS, module
from refinery.checks import Check, compare
from refinery.diagnostics import ngram
from refinery.diagnostics._numbers import Interval, Row, mean_row, ratio_row, row, share_row
from refinery.errors import RowError
from refinery.records import Example, digest
from refinery.spec_models import GateSpec, SelectSpec
from refinery.store import Store
from trainers.job import TrainJob, rows_digest

FAMILY = "gate"
VERSION = 1
COPIED = 0.9
"""ROUGE-L from which an answer counts as a copy."""


@dataclass(frozen=True)
class Question:
    """What is to be measured for one training job."""

    job: TrainJob
    settings: GateSpec
    select: SelectSpec

    @property
    def params(self) -> Any:
        return self.job.params

    @property
    def limit(self) -> int:
        """Tokens of an answer."""
        return min(self.settings.max_tokens, getattr(self.params, "max_completion_length", self.settings.max_tokens))

    def sample(self) -> list[Example]:
        """The rows that are asked: by the digest of their ids, so that appended rows disturb few."""
        rows = sorted(self.job.examples, key=lambda example: digest(["gate", example.id]))
        return rows[: self.settings.rows]

    def fingerprint(self) -> str:
        shuffled = self.params.teacher_shuffle
        return digest(
            {
                "version": VERSION,
                "base": self.job.base_identity,
                "rows": rows_digest(self.job.examples if shuffled else self.sample()),
                "teacher_prompt": self.params.teacher_prompt,
                "shuffled": self.job.seed if shuffled else None,
                "max_length": self.params.max_length,
                "limit": self.limit,
                "select": [self.select.check, self.select.of],
            }
        )


def applies(job: TrainJob) -> bool:
    """Whether the job's teacher is shown something that is known before the rollouts are."""
    variables = getattr(module(METHODS, job.method), "VARIABLES", ())
    return getattr(job.params, "teacher_prompt", None) is not None and not variables


def known(question: Question, store: Store) -> list[Row]:
    """The rows of an earlier measurement; none where there was none."""
    return store.diagnostics(question.job.data_fingerprint, question.fingerprint())


def measured(question: Question, store: Store) -> list[Row]:
    """The measurement, taken now where it is not in the store. UserError where the rows are of no use."""
    if found := known(question, store):
        return found
    rows = measure(question)
    store.add_diagnostics(question.job.data_fingerprint, rows, question.fingerprint())
    return known(question, store)


def measure(question: Question) -> list[Row]:
    """The figures named above, each with its n and its 95% interval where it has one."""
    from refinery.models.transformers import load
    from trainers.before import sample
    from trainers.conditioned import prepare
    from trainers.teachers import check_head

    job, params = question.job, question.params
    model, tokenizer = load(job.model, "auto", revision=job.revision, trust_remote_code=job.trust_remote_code)
    prepared = prepare(job, tokenizer, question.sample())
    check_head(model, prepared.rows[0].prompt + prepared.rows[0].answer)
    end = prepared.ending.token_id
    prompts, conditioned = [r.prompt for r in prepared.rows], [r.teacher_prompt for r in prepared.rows]

    def answers(asked: list[list[int]], temperature: float) -> list[list[int]]:
        options: dict[str, Any] = {"end": end, "limit": question.limit, "name": "gate", "temperature": temperature}
        return sample(model, tokenizer, asked, **options)

    teacher, student = answers(conditioned, 0.0), answers(prompts, 0.0)
    divergences, lengths = _divergences(model, prompts, conditioned, answers(prompts, 1.0), tokenizer.pad_token_id)
    by_id = {example.id: example for example in job.examples}
    examples = [by_id[r.id] for r in prepared.rows]
    said, alone = _texts(tokenizer, teacher), _texts(tokenizer, student)
    about = {"base": job.base_identity, "teacher_prompt": params.teacher_prompt, "shuffled": params.teacher_shuffle}
    about |= {"check": question.select.check, "first_teacher": said[0], "first_student": alone[0]}
    cut = {"teacher_cut": _cut(teacher, end), "student_cut": _cut(student, end)}
    return [
        *_accuracy(question.select, examples, said, alone, about | cut),
        *([] if params.teacher_shuffle else _copies(params.teacher_prompt, examples, said)),
        ratio_row(FAMILY, "kl", divergences, lengths, tokens=int(lengths.sum())),
    ]


def _texts(tokenizer: Any, answers: Sequence[list[int]]) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]


def _cut(answers: Sequence[list[int]], end: int) -> float:
    """Share of answers that did not come to their end."""
    return sum(ids[-1:] != [end] for ids in answers) / len(answers)


def _divergences(
    model: Any, prompts: list[list[int]], conditioned: list[list[int]], rollouts: list[list[int]], pad: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each rollout, Σ_t KL(with context || without) and its tokens."""
    import torch

    from trainers.before import BATCH, both_kl, evaluating, states
    from trainers.teachers import head_of

    sums, lengths = [], []
    rows = [row for row in zip(prompts, conditioned, rollouts, strict=True) if row[2]]
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            without, _ = states(model, [(prompt, z) for prompt, _, z in some], pad)
            shown, _ = states(model, [(prompt, z) for _, prompt, z in some], pad)
            forward, _ = both_kl(without, head_of(model), shown, head_of(model))
            sizes = [len(z) for _, _, z in some]
            sums += [float(part.sum()) for part in forward.split(sizes)]
            lengths += sizes
    return np.array(sums), np.array(lengths, dtype=np.float64)


def _accuracy(
    select: SelectSpec, examples: Sequence[Example], teacher: list[str], student: list[str], about: dict[str, Any]
) -> list[Row]:
    """Of the rows with a reference on which the check could tell."""
    from trainers.reprompt import THOUGHT

    check, pairs = Check(select.check), []
    for example, *answers in zip(examples, teacher, student, strict=True):
        try:
            reference = templates.render(select.of, example.fields()) if select.of else example.answer
        except RowError:
            continue
        found = [compare(check, THOUGHT.sub("", answer), reference).agrees for answer in answers] if reference else []
        if found and None not in found:
            pairs.append(found)
    flags = np.array(pairs, dtype=bool).reshape(-1, 2)
    value, interval = paired_difference(flags[:, 0], flags[:, 1])
    return [
        share_row(FAMILY, "teacher_accuracy", flags[:, 0]),
        share_row(FAMILY, "student_accuracy", flags[:, 1]),
        row(FAMILY, "lift", value, len(flags), interval, **about),
    ]


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float | None, Interval]:
    """Difference of two shares of the same rows, and Agresti and Min's 95% interval: Wald's with half a row added to
    each of the four cells, so that it has a width even where all rows agree."""
    n = len(first)
    if not n:
        return None, (None, None)
    up, down = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    b, c, total = up + 0.5, down + 0.5, n + 2
    middle = (b - c) / total
    half = 1.959963985 * math.sqrt(b + c - (b - c) ** 2 / total) / total
    return (up - down) / n, (max(-1.0, middle - half), min(1.0, middle + half))


def _copies(template: str, examples: Sequence[Example], said: Sequence[str]) -> list[Row]:
    """Against the response, or the answer, whichever the template shows; none where it shows neither."""
    named = templates.variables(template)
    shown = "response" if "response" in named else "answer" if "answer" in named else None
    if shown is None:
        return []
    texts = [getattr(example, shown) for example in examples]
    likeness = np.array([ngram.rouge_l(ngram.words(a), ngram.words(b)) for a, b in zip(texts, said, strict=True)])
    told = likeness[~np.isnan(likeness)]
    return [share_row(FAMILY, "copied", told >= COPIED, shown=shown), mean_row(FAMILY, "rouge_l", told, shown=shown)]


def sentence(rows: Sequence[Row]) -> str:
    """ "92% [83, 97] right with context, 12% [6, 22] without: +80 points [69, 88], 64 rows; copies 3%; ..."."""
    by_name = {each["name"]: each for each in rows}
    if by_name["lift"]["value"] is None:
        words = "no row has a reference that the check can read, so the lift is unknown"
    else:
        with_, without, lift = (by_name[name] for name in ("teacher_accuracy", "student_accuracy", "lift"))
        words = f"{_share(with_)} right with context, {_share(without)} without: "
        words += f"{_signed(lift['value'])} points [{_signed(lift['low'])}, {_signed(lift['high'])}], {lift['n']} rows"
    if "copied" in by_name and by_name["copied"]["value"] is not None:
        words += f"; copies {by_name['copied']['value']:.0%}"
    return words + (f"; KL {by_name['kl']['value']:.3g} nats a token" if by_name["kl"]["value"] is not None else "")


def warning(rows: Sequence[Row], settings: GateSpec) -> str:
    """What to say where the lift is too small to teach; else nothing."""
    lift = next(each for each in rows if each["name"] == "lift")
    if lift["value"] is None or lift["value"] >= settings.min_lift:
        return ""
    found, least = _signed(lift["value"]), 100 * settings.min_lift
    return f"context lifts the teacher by {found} points, less than {least:g}: too little to teach; expect no gain"


def _share(found: Row) -> str:
    return f"{found['value']:.0%} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.0f}"
