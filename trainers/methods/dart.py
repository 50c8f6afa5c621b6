"""A mapper that adapts demonstrations to the model that will learn from them, trained by reinforcement (DART,
arXiv:2605.26924): it sees the question and a demonstration and writes one that the target itself would rather say.

The paper's reward, prompts and settings are not public to us. The reward is a formulation of ours along the lines of
its abstract (equations in trainers/rewards/dart.py), and so is the prompt; GRPO is as in trainers/rl.py.

    dart_public    what the abstract names: alignment with the target, and penalties for cheating
    dart_robust    half of it learnability (RLT, arXiv:2506.08388), and every penalty there is

It goes under `rewriters:`. Steps that name its model come after it is trained; a rewrite with samples, check_answer
with a fallback and select by likelihood make the data, sft learns them. Watch reward/gate at the first steps: where the
untrained mapper seldom keeps the answer there is little to learn from. After training on the target's own words the
likelihood of a text is no measure of its quality: audit what it writes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from refinery.errors import UserError
from refinery.ops import rewrite
from refinery.spec_types import Template
from trainers import rewriting
from trainers.job import Run
from trainers.rewriting import REWRITES, prepare
from trainers.rl_params import RewriterParams
from trainers.rl_plan import plan

__all__ = ["REWRITES", "Params", "build", "plan", "prepare"]

VERSION = 1
TEACHER = "the model before training"

SCALED = 512
"""Rows whose original demonstrations give the scale of the alignment, at most."""
OWN, ENOUGH = 256, 20
"""Rows for which the target is asked for an answer of its own, at most, and right ones that it takes for a bound."""


class Params(RewriterParams):
    preset: Literal["dart_public", "dart_robust"] = "dart_public"
    """Weights of the reward; what is written beside it wins."""
    prompt: Template = rewrite.DART
    batch_size: int = Field(64, ge=1)
    max_steps: int | None = Field(200, ge=1)
    max_length: int = Field(4096, ge=8)
    max_completion_length: int = Field(2048, ge=1)
    epsilon_high: float | None = Field(0.28, gt=0)
    beta: float = Field(0.001, ge=0)
    alignment_weight: float = Field(1.0, ge=0)
    """w_A."""
    learnability_weight: float = Field(0.0, ge=0)
    """w_L. Only of rewrites and references in which `check` finds a short answer, as leak_cost."""
    leak_cost: float = Field(1.0, ge=0)
    """The final answer stands in the first `leak_share` of the text, or after fewer than `min_reasoning` tokens. It is
    what `check` reads in the reference (its last number, last word, letter or box). Rows without so short an answer
    have no such penalty, and the manifest counts them (rows_without_short_answer); where no row has one this is
    refused, unless it and learnability_weight are 0."""
    leak_share: float = Field(0.2, ge=0, lt=1)
    min_reasoning: int = Field(16, ge=0)
    """Tokens."""
    length_cost: float = Field(0.5, ge=0)
    """Its length is outside 0.4 to 1.6 times the original's; all of the cost at 0.2 and 2.5 times."""
    repetition_cost: float = Field(0.5, ge=0)
    """More than a tenth of its 4-grams are repeated; all of the cost at four tenths."""
    copy_cost: float = Field(0.0, ge=0)
    """ROUGE-L with the original above 0.9. To copy is harmless: its alignment is 0."""
    meta_cost: float = Field(0.5, ge=0)
    """One of the phrases in `banned` occurs that neither the question nor the reference holds."""
    skip_cost: float = Field(0.0, ge=0)
    """Fewer than half of the original's numbers are still there."""
    easy_cost: float = Field(0.0, ge=0)
    """It is likelier than 95% of the target's own right answers. Needs 20 of those among 256 rows; without them there
    is no such penalty, which the manifest says (easy_bound)."""
    banned: tuple[str, ...] = rewrite.DART_BANNED

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "dart_public": {},
        "dart_robust": {
            "alignment_weight": 0.5,
            "learnability_weight": 0.5,
            **{f"{name}_cost": 0.5 for name in ("leak", "length", "repetition", "copy", "meta", "skip", "easy")},
        },
    }


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    return rewriting.build(run, _Judge)


class _Judge:
    """The reward of trainers/rewards/dart.py for groups of rollouts."""

    def __init__(self, run: Run, target: Any):
        from trainers.rewards.dart import PENALTIES, Weights
        from trainers.rewriting import subjects

        self.run, self.target, self.params = run, target, run.job.params
        self.subjects = subjects(run, target)
        p: Any = self.params
        costs = {name: getattr(p, f"{name}_cost") for name in PENALTIES if getattr(p, f"{name}_cost")}
        self.weights = Weights(p.alignment_weight, p.learnability_weight, costs)
        self._count_answers()
        self.originals: dict[int, float | None] = {}
        self.scale: float | None = None
        self.bound: float | None = None

    def _count_answers(self) -> None:
        """UserError where terms that look for the final answer would be off in every row."""
        from trainers.rewards.texts import final_places

        p: Any = self.params
        blind = sum(final_places(p.check, subject.reference, "") is None for subject in self.subjects)
        if blind == len(self.subjects) and (p.leak_cost or p.learnability_weight):
            raise UserError(
                f"{self.run.job.name}: check {p.check} reads no short answer in any reference, so that no leak can be "
                "seen; let `of` be a column with the bare answer, or set leak_cost: 0 and learnability_weight: 0"
            )
        if blind:
            self.run.notes["rows_without_short_answer"] = blind

    def __call__(self, groups: Sequence[Any]) -> Any:
        from trainers.rewards import dart
        from trainers.rewriting import right
        from trainers.rl import Judgement

        self._look_around()
        p: Any = self.params
        flat = [(g.place, text, whole) for g in groups for text, whole in zip(g.texts, g.whole, strict=True)]
        of = [self.subjects[place] for place, _, _ in flat]
        gates = [right(p.check, text, whole, s.reference) for (_, text, whole), s in zip(flat, of, strict=True)]
        words = [self.target.words(text) for _, text, _ in flat]
        likely = self.target.mean_log_probs([(s.question, ids) for s, ids in zip(of, words, strict=True)])
        originals = self._originals([group.place for group in groups])
        learnt = self._learnabilities([text for _, text, _ in flat], of, gates)
        made = Judgement([], {name: [] for name in ("gate", "alignment", "learnability", *self.weights.costs)})
        rewards: list[float | None] = []
        assert self.scale is not None
        for i, (place, text, _) in enumerate(flat):
            penalties = self._penalties(text, words[i], likely[i], of[i])
            for name, value in penalties.items():
                made.told[name].append(value)
            gate, own, original = gates[i], likely[i], originals[place]
            if gate is None or (gate and (own is None or original is None)):
                rewards.append(None)
                continue
            made.told["gate"].append(float(gate))
            gain = 0.0
            if gate:
                gain = dart.alignment(own, original, self.scale)  # type: ignore[arg-type]
                made.told["alignment"].append(gain)
                made.told["learnability"] += [learnt[i]] if i in learnt else []
            rewards.append(dart.reward(gate, gain, learnt.get(i, 0.0), penalties, self.weights))
        size = p.num_generations
        made.rewards = [rewards[start : start + size] for start in range(0, len(rewards), size)]
        return made

    def _originals(self, places: Sequence[int]) -> dict[int, float | None]:
        """ℓ(y|x) of rows, each asked once."""
        new = [place for place in dict.fromkeys(places) if place not in self.originals]
        pairs = [(self.subjects[place].question, self.subjects[place].original) for place in new]
        self.originals |= dict(zip(new, self.target.mean_log_probs(pairs), strict=True))
        return self.originals

    def _look_around(self) -> None:
        """Once: the scale of ℓ over the training rows, and how likely the target's own right answers are."""
        from trainers.rewards.dart import percentile, robust_scale
        from trainers.rewriting import right

        if self.scale is not None:
            return
        p: Any = self.params
        rows = list(dict.fromkeys(self.run.places))
        known = self._originals(rows[:SCALED])
        self.scale = robust_scale([value for place in rows[:SCALED] if (value := known[place]) is not None])
        if p.easy_cost:
            some = [self.subjects[place] for place in rows[:OWN]]
            limit = self.run.notes["rollout_limit"]
            said = self.target.says([s.question for s in some], limit, self.run.job.seed)
            good = [
                (s.question, self.target.words(text))
                for s, text in zip(some, said, strict=True)
                if right(p.check, text, True, s.reference)
            ]
            values = [value for value in self.target.mean_log_probs(good) if value is not None]
            self.bound = percentile(values, 0.95) if len(values) >= ENOUGH else None
            self.run.notes["easy_bound"] = self.bound
        self.run.notes["alignment_scale"] = self.scale

    def _learnabilities(
        self, texts: Sequence[str], of: Sequence[Any], gates: Sequence[bool | None]
    ) -> dict[int, float]:
        """L of the rewrites that pass the gate and hold the answer as it is written, by their place in `texts`."""
        from trainers.rewards.dart import learnability
        from trainers.rewards.texts import final_places

        if not self.weights.learnability:
            return {}
        check: str = self.params.check  # type: ignore[attr-defined]
        asked, pairs = [], []
        for i, (text, subject, gate) in enumerate(zip(texts, of, gates, strict=True)):
            spans = final_places(check, subject.reference, text) if gate else None
            if not spans:
                continue
            start, end = spans[-1]
            reasoning = text[:start].rstrip()
            told, bare = text[len(reasoning) : end], text[start:end]
            after = (subject.question + self.target.words(reasoning), self.target.words(told))
            asked.append(i)
            pairs += [after, (subject.question, self.target.words(bare))]
        values = self.target.mean_log_probs(pairs)
        found = {}
        for number, i in enumerate(asked):
            after, before = values[2 * number], values[2 * number + 1]
            if after is not None and before is not None:
                found[i] = learnability(after, before)
        return found

    def _penalties(self, text: str, words: list[int], likely: float | None, subject: Any) -> dict[str, float]:
        """Those that cost anything and can be told of the row, by name."""
        from trainers.rewards import dart, texts

        p: Any = self.params
        given = f"{subject.example.question}\n{subject.example.answer}"
        found: dict[str, float] = {}
        for name in self.weights.costs:
            match name:
                case "leak":
                    spans = texts.final_places(p.check, subject.reference, text)
                    if spans is not None:
                        before = len(self.target.words(text[: spans[0][0]])) if spans else len(words)
                        found[name] = texts.leak(before, len(words), p.leak_share, p.min_reasoning) if spans else 0.0
                case "length":
                    found[name] = texts.length_ratio(len(words), len(subject.original), (0.4, 1.6), (0.2, 2.5))
                case "repetition":
                    found[name] = texts.repetition(words)
                case "copy":
                    found[name] = texts.copied(text, subject.example.response)
                case "meta":
                    found[name] = texts.mentions(text, p.banned, given)
                case "skip":
                    found[name] = texts.skipped(text, subject.example.response)
                case "easy":
                    found[name] = 0.0 if likely is None else dart.easy(likely, self.bound)
        return found
