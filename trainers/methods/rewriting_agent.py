"""A rewriter whose texts are close to what the target would say itself, and differ from one another, trained by
reinforcement behind a gate on the answer ("Patch the Distribution Mismatch", arXiv:2602.11220).

It sees the question and the expert's solution; the reward is that of the released code, of whole groups (equations, and
what was mended, in trainers/rewards/agent.py); GRPO with LoRA as released. It goes under `rewriters:`; the paper's data
are then its greedy rewrites, verified by their boxed answer, with the expert's solution where that fails: the rewrite
operation with preset agent, and check_answer with its fallback. A rewrite at temperature above 0 asks for the diversity
it was trained for, of which a greedy one shows nothing.

    paper      groups of ten, and the question in the model's own chat template
    released   the published script: groups of five, two updates on each generation, "Problem: … Answer:" as plain text

Final answers are compared as the rule says, of the last box and with its braces balanced; the released code takes the
first box up to its first closing brace, and without a box the last number. The judge sums the probabilities of all
ways to write YES and NO that are one token. It is the small model itself, and can be gamed: look at reward/answer and
reward/reason apart.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from refinery.errors import UserError
from refinery.ops import rewrite
from refinery.spec_types import EncoderName, Template
from refinery.templates import render
from trainers import rewriting
from trainers.job import Run
from trainers.params import LoraParams, or_switch
from trainers.rewriting import REWRITES, prepare
from trainers.rl_params import RewriterParams
from trainers.rl_plan import plan

__all__ = ["REWRITES", "Params", "build", "plan", "prepare"]

VERSION = 1
TEACHER = "the model before training"
VARIABLES = ("reference", "candidate")

JUDGE_PROMPT = """\
You check solutions. Below are a problem, the final answer that is known to be right, and a solution. Is the reasoning \
of the solution sound, and does it lead to that answer?

Problem:
{{ question }}

Known final answer:
{{ reference }}

Solution:
{{ candidate }}

Reply with one word, YES or NO."""

PLAIN = "Problem:\n{{ question }}\n\nAnswer:\n"


class Params(RewriterParams):
    preset: Literal["paper", "released"] = "paper"
    """What is written beside it wins."""
    prompt: Template = rewrite.AGENT
    learning_rate: float = Field(3e-6, gt=0)
    epochs: float = Field(2, gt=0)
    batch_size: int = Field(512, ge=1)
    num_generations: int = Field(10, ge=2)
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"] = "grpo"
    beta: float = Field(0.001, ge=0)
    max_length: int = Field(6144, ge=8)
    max_completion_length: int = Field(4096, ge=1)
    lora: LoraParams | None = Field(LoraParams(rank=64, alpha=32, dropout=0.0), json_schema_extra=or_switch)
    """As released; false trains every weight."""
    alignment_weight: float = Field(0.35, ge=0)
    """λ_dist."""
    diversity_weight: float = Field(0.5, ge=0)
    """λ_div."""
    gate: Literal["hard", "soft", "none"] = "hard"
    """hard: only rewrites that keep the answer are worth anything."""
    answer_share: float = Field(0.5, ge=0)
    """Of the soft gate: what the right answer is worth."""
    reason_share: float = Field(0.5, ge=0)
    """Of the soft gate: what sound reasoning is worth."""
    alignment: Literal["sigmoid", "rank", "raw"] = "sigmoid"
    """Of the likelihood within the group (sigmoid is the paper's), or the mean log-likelihood itself."""
    spread: Literal["none", "rank", "minmax", "zscore"] = "none"
    """How diversity is scaled within the group. As it is (none, the paper's) it is almost inert: of ten members the
    most different one gains some hundredths."""
    qa_style: Literal["chat", "plain"] = "chat"
    """What comes before the rewrite when its likelihood is taken: the question in the model's chat template, or as
    plain text."""
    encoder: EncoderName | None = None
    """Whose vectors measure diversity; None is the mean of the target's last hidden states, as released. The paper
    names an embedding model."""
    judge: bool = True
    """Let the target itself judge the reasoning of rewrites whose answer is right."""
    judge_prompt: Template = JUDGE_PROMPT
    """Over an example's fields, `reference` and `candidate`; must lead to YES or NO."""
    judge_unknown: Literal["strict", "lenient"] = "strict"
    """Where the vocabulary writes YES or NO never as one token: refuse to train, or take every reasoning for sound."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "released": {"num_generations": 5, "batch_size": 252, "steps_per_generation": 2, "qa_style": "plain"},
    }


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    return rewriting.build(run, _Judge)


def yes_and_no(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of all ways to write YES and NO that are a single token."""
    found: list[list[int]] = []
    for word in ("yes", "no"):
        forms = [space + form for space in ("", " ") for form in (word.upper(), word.capitalize(), word)]
        ids = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        found.append(sorted({one[0] for one in ids if len(one) == 1}))
    return found[0], found[1]


class _Judge:
    """The reward of trainers/rewards/agent.py for groups of rollouts."""

    def __init__(self, run: Run, target: Any):
        from trainers.rewards.agent import How
        from trainers.rewriting import subjects

        p: Any = run.job.params
        self.params, self.target, self.subjects = p, target, subjects(run, target)
        names = ("alignment_weight", "diversity_weight", "gate", "answer_share", "reason_share", "alignment", "spread")
        self.how = How(**{name: getattr(p, name) for name in names})
        self.yes, self.no = yes_and_no(run.tokenizer)
        self.judging = p.judge and bool(self.yes and self.no)
        if p.judge and not self.judging and p.judge_unknown == "strict":
            raise UserError(
                f"{run.job.name}: the vocabulary has no single token for YES or NO, so the target cannot judge; set "
                "judge: false, or judge_unknown: lenient"
            )
        self.encoder: Any = None
        if p.encoder is not None:
            from refinery.encoder import Encoder

            self.encoder = Encoder(p.encoder)

    def __call__(self, groups: Sequence[Any]) -> Any:
        from trainers.rewards.agent import Member, feasible, group_rewards
        from trainers.rl import Judgement

        answers = [self._answers(group) for group in groups]
        reasons = self._reasons(groups, answers)
        nlls = self._nlls(groups, answers, reasons)
        made = Judgement([], {name: [] for name in ("answer", "reason", "feasible", "nll", "dist", "div")})
        for number, group in enumerate(groups):
            each = zip(answers[number], reasons[number], nlls[number], strict=True)
            members = [Member(answer, reason, nll) for answer, reason, nll in each]
            chosen = feasible(members, self.how)
            parts = group_rewards(members, self._distances([group.texts[i] for i in chosen]), self.how)
            made.rewards.append([part.reward for part in parts])
            made.told["answer"] += [float(m.answer) for m in members if m.answer is not None]
            made.told["reason"] += [float(m.reason) for m in members if m.answer and m.reason is not None]
            made.told["feasible"] += [float(i in chosen) for i in range(len(members))]
            made.told["nll"] += [nll for i in chosen if (nll := members[i].nll) is not None]
            made.told["dist"] += [part.dist for part in parts if part.dist is not None]
            made.told["div"] += [part.div for part in parts if part.div is not None]
        return made

    def _answers(self, group: Any) -> list[bool | None]:
        from trainers.rewriting import right

        reference = self.subjects[group.place].reference
        pairs = zip(group.texts, group.whole, strict=True)
        return [right(self.params.check, text, whole, reference) for text, whole in pairs]

    def _reasons(self, groups: Sequence[Any], answers: Sequence[Sequence[bool | None]]) -> list[list[bool | None]]:
        """v_rea of the rewrites whose answer is right, under the soft gate of all; True of all without a judge."""
        found: list[list[bool | None]] = [[True] * len(group.texts) for group in groups]
        if not self.judging:
            return found
        wanted = [
            (g, i)
            for g, group in enumerate(groups)
            for i in range(len(group.texts))
            if self.how.gate == "soft" or answers[g][i]
        ]
        prompts = [self._asked(groups[g].place, groups[g].texts[i]) for g, i in wanted]
        probs = self.target.next_probs(prompts, [*self.yes, *self.no])
        for (g, i), row in zip(wanted, probs, strict=True):
            found[g][i] = sum(row[: len(self.yes)]) >= sum(row[len(self.yes) :])
        return found

    def _asked(self, place: int, text: str) -> list[int]:
        """The judge's prompt, as the likelihoods' own in a chat or as plain text."""
        subject = self.subjects[place]
        fields = {**subject.example.fields(), "reference": subject.reference, "candidate": text}
        words = render(self.params.judge_prompt, fields)
        return self._prefix([{"role": "user", "content": words}], words)

    def _prefix(self, messages: list[dict[str, str]], words: str) -> list[int]:
        from refinery.models import tokens

        if self.params.qa_style == "chat":
            return list(self.target.chat(messages))
        return tokens.prompt_ids(self.target.tokenizer, words, {})

    def _nlls(
        self, groups: Sequence[Any], answers: Sequence[Sequence[Any]], reasons: Sequence[Sequence[Any]]
    ) -> list[list[float | None]]:
        """ℓ of the rewrites that are compared: those that pass the hard gate, else all that say anything."""
        found: list[list[float | None]] = [[None] * len(group.texts) for group in groups]
        hard = self.how.gate == "hard"
        wanted = [
            (g, i)
            for g, group in enumerate(groups)
            for i in range(len(group.texts))
            if not hard or (answers[g][i] and reasons[g][i])
        ]
        pairs = []
        for g, i in wanted:
            example = self.subjects[groups[g].place].example
            prefix = self._prefix(example.prompt, render(PLAIN, example.fields()))
            pairs.append((prefix, self.target.words(groups[g].texts[i])))
        for (g, i), value in zip(wanted, self.target.mean_log_probs(pairs), strict=True):
            found[g][i] = None if value is None else -value
        return found

    def _distances(self, texts: Sequence[str]) -> list[list[float]]:
        """(1 - cos)/2 of each pair."""
        if len(texts) < 2:
            return [[0.0] * len(texts) for _ in texts]
        if self.encoder is not None:
            vectors = self.encoder.encode(texts).astype("float64")
        else:
            vectors = self.target.vectors([self.target.words(text) for text in texts]).numpy()
        distances = (1 - vectors @ vectors.T) / 2
        return [[0.0 if i == j else float(value) for j, value in enumerate(row)] for i, row in enumerate(distances)]
