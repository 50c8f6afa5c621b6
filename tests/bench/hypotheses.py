"""What the lab's long tables say of ten hypotheses about the four papers, from the committed result files alone.

    python -m tests.bench.hypotheses        # writes specs/tables/HYPOTHESES.md and tests/bench/results/tables/README.md

A hypothesis is a list of tests; each is a figure with an interval and a bound that it must keep:

    supported       every test's 95% interval lies on its side of the bound
    contradicted    at least one interval lies wholly on the other side, at 95% for all of its tests together
    cannot decide   neither, or fewer than SEEDS trainings of a method on a domain
    not run         neither, and a table that a test needs is not there yet

Contrasts of methods are paired by seed and item, with an interval over both (evals.stats.crossed). Nothing that has not
run is guessed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats as distributions

from evals.panels import BASE
from evals.predicting import r2_interval
from tests.bench import lab_tables, table_figures, table_pages
from tests.bench.table_lines import RESULTS, Line, read

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "specs" / "tables" / "HYPOTHESES.md"
INDEX = RESULTS / "README.md"
TABLES = (
    "main",
    "methods",
    "reinforced",
    "raft",
    "sdft",
    "knowledge",
    "working",
    "sequence",
    "dart",
    "agent",
    "backbones",
)
SEEDS = 3
MARGIN = 0.05
"""What counts as no difference: that of `report.margin`."""
CONFIDENCE = 0.95

Rule = Literal["above", "below", "within"]
State = Literal["holds", "fails", "open", "too few seeds", "missing"]
Verdict = Literal["supported", "contradicted", "cannot decide", "not run"]
Tables = Mapping[str, Sequence[Line]]


@dataclass(frozen=True, slots=True)
class Figure:
    value: float
    low: float
    high: float
    n: str
    """What it rests on, in words."""
    seeds: int
    """The fewest trainings of a method on a domain."""


@dataclass(frozen=True, slots=True)
class Test:
    says: str
    """The figure, and where it comes from."""
    figure: Callable[[Tables, float], Figure | None]
    """With the confidence of its interval; None where a line that it needs is not there."""
    rule: Rule = "above"
    bound: float = 0.0
    points: bool = True
    """Percentage points, else the number itself."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    name: str
    says: str
    tests: tuple[Test, ...]
    note: str = ""


# ---- deciding


def state(figure: Figure | None, wide: Figure | None, rule: Rule, bound: float) -> State:
    """`wide` has the interval at the confidence that holds for all tests of the hypothesis together."""
    if figure is None or wide is None:
        return "missing"
    if figure.seeds < SEEDS:
        return "too few seeds"
    if rule == "within":
        holds = -bound < figure.low and figure.high < bound
        fails = wide.low >= bound or wide.high <= -bound
    else:
        sign = 1 if rule == "above" else -1
        holds = min(sign * figure.low, sign * figure.high) > sign * bound
        fails = max(sign * wide.low, sign * wide.high) <= sign * bound
    return "holds" if holds else "fails" if fails else "open"


def verdict(states: Sequence[State]) -> Verdict:
    if "fails" in states:
        return "contradicted"
    if "missing" in states:
        return "not run"
    return "supported" if all(each == "holds" for each in states) else "cannot decide"


def decided(hypothesis: Hypothesis, tables: Tables) -> tuple[Verdict, list[tuple[Test, Figure | None, State]]]:
    joint = 1 - (1 - CONFIDENCE) / len(hypothesis.tests)
    found: list[tuple[Test, Figure | None, State]] = []
    for test in hypothesis.tests:
        figure = test.figure(tables, CONFIDENCE)
        found.append((test, figure, state(figure, test.figure(tables, joint), test.rule, test.bound)))
    return verdict([each for _, _, each in found]), found


# ---- figures


def points(table: str, of: str, **weights: float) -> Callable[[Tables, float], Figure | None]:
    """A contrast of methods (tests/bench/table_figures.py); `base` is the model before training."""

    def figure(tables: Tables, confidence: float) -> Figure | None:
        known = tables.get(table, ())
        found = table_figures.contrast(known, weights, of, confidence)
        if found is None:
            return None
        fewest = table_figures.fewest_seeds(known, [name for name in weights if name != BASE])
        return Figure(found.value, found.low, found.high, f"{found.n_items} items, {found.n_seeds} runs", fewest)

    return figure


def balance(method: str) -> Callable[[Tables, float], Figure | None]:
    """log2 of cross-entropy over weighted divergence, means of the last ten steps; t interval over runs."""

    def ratio(line: Line) -> float | None:
        found = line["logged"]
        parts = [found.get(name) for name in ("sft_loss", "kl_loss", "lambda")]
        return math.log2(parts[0] / (parts[1] * parts[2])) if all(parts) else None

    def figure(tables: Tables, confidence: float) -> Figure | None:
        values = table_figures.measured(tables.get("raft", ()), method, ratio)
        return _t(values, confidence, "runs") if values else None

    return figure


def apart(table: str, first: str, second: str, part: str, name: str) -> Callable[[Tables, float], Figure | None]:
    """Difference of a figure of the lines, paired by seed; t interval."""

    def figure(tables: Tables, confidence: float) -> Figure | None:
        known = [line for line in tables.get(table, ()) if name in line.get(part, {})]
        sides = [{(x["domain"], x["seed"]): x[part][name] for x in known if x["method"] == m} for m in (first, second)]
        values = [sides[0][key] - sides[1][key] for key in sides[0] if key in sides[1]]
        return _t(values, confidence, "pairs of runs") if values else None

    return figure


def _t(values: Sequence[float], confidence: float, what: str) -> Figure:
    mean, n = float(np.mean(values)), len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    half = float(distributions.t.ppf((1 + confidence) / 2, n - 1)) * error if n > 1 else math.nan
    return Figure(mean, mean - half, mean + half, f"{n} {what}", n)


def naturalness(tables: Tables, confidence: float) -> Figure | None:
    """Points of general mean for a nat more in the data, at equal domain accuracy: the slope of a least-squares plane
    through the means of all methods of `agent` and `dart`, which are fine-tuning on different rows. t interval; raw
    rows, which stand in both tables, count once."""
    rows, seeds = [], []
    for table in ("agent", "dart"):
        known = [line for line in tables.get(table, ()) if "nll" in line.get("data", {})]
        for method in dict.fromkeys(line["method"] for line in known):
            if table == "dart" and method in ("sft_raw", "self_sft"):
                continue
            own = [line for line in known if line["method"] == method]
            scores = [mean_of(line) for line in own]
            domain, general = np.mean([s[0] for s in scores]), np.mean([s[1] for s in scores])
            rows.append((float(np.mean([line["data"]["nll"] for line in own])), float(domain), float(general)))
            seeds.append(len(own))
    if len(rows) < 8 or not {"agent", "dart"} <= {t for t in tables if tables[t]}:
        return None
    x = np.array([(1.0, nll, domain) for nll, domain, _ in rows])
    y = np.array([general for _, _, general in rows])
    weights, *_ = np.linalg.lstsq(x, y, rcond=None)
    left = y - x @ weights
    df = len(rows) - x.shape[1]
    error = math.sqrt(float(left @ left) / df * float(np.linalg.inv(x.T @ x)[1, 1]))
    half = float(distributions.t.ppf((1 + confidence) / 2, df)) * error
    return Figure(weights[1], weights[1] - half, weights[1] + half, f"{len(rows)} data sets", min(seeds))


def explained(tables: Tables, confidence: float) -> Figure | None:
    """R² of what was forgotten on forward KL on the new task's prompts, over methods' means (runs of one method are not
    independent), interval by the noncentral F. The three tables that cross methods must be there."""
    needed = ("main", "methods", "sdft")
    if not all(any(line["seed"] is not None for line in tables.get(table, ())) for table in needed):
        return None
    by_method: dict[tuple[str, str], list[tuple[float, float]]] = {}
    seen: set[str] = set()
    for table in (*needed, "raft"):
        base = {line["domain"]: mean_of(line)[1] for line in tables.get(table, ()) if line["method"] == BASE}
        for line in tables.get(table, ()):
            if line["checkpoint"] not in seen and "forward_kl" in line["logged"]:
                seen.add(line["checkpoint"])
                lost = base[line["domain"]] - mean_of(line)[1]
                by_method.setdefault((table, line["method"]), []).append((line["logged"]["forward_kl"], lost))
    x, y = np.array([np.mean(each, axis=0) for each in by_method.values()]).T
    r2 = float(np.corrcoef(x, y)[0, 1] ** 2)
    low, high = r2_interval(r2, len(x), 1, confidence)
    return Figure(r2, low, high, f"{len(x)} methods", min(map(len, by_method.values())))


def mean_of(line: Line) -> tuple[float, float]:
    """Of one run: domain (cells that training covered) and general mean."""
    found: dict[str, list[float]] = {"domain": [], "general": []}
    for name, packed in line["right"].items():
        if packed["kind"] in found and not name.endswith("_unseen"):
            found[packed["kind"]].append(float(table_figures.unpacked(packed).mean()))
    return float(np.mean(found["domain"])), float(np.mean(found["general"]))


# ---- the hypotheses


def _pair(table: str, first: str, second: str, *, rule: Rule = "above", bound: float = 0.0) -> tuple[Test, Test]:
    return tuple(  # type: ignore[return-value]
        Test(f"{first} less {second}, {of} ({table})", points(table, of, **{first: 1, second: -1}), rule, bound)
        for of in ("domain", "general")
    )


def _sdft(preset: str, *more: Test) -> tuple[Test, ...]:
    arm = f"sdft_{preset}"
    kept = points("main", "general", **{arm: 1, "sft_raw": -1})
    learnt = points("main", "domain", **{arm: 1, BASE: -1})
    return (
        Test(f"{arm} less sft_raw, general (main)", kept, bound=MARGIN),
        Test(f"{arm} less base, domain (main), where the answer lifts the teacher", learnt, bound=MARGIN),
        *more,
    )


FIXED = ("fixed_0.1", "fixed_1", "fixed_10")
HYPOTHESES = (
    Hypothesis(
        "H1",
        "RAFT is better than plain fine-tuning on the raw rows, on the domain and on general skill.",
        _pair("main", "raft", "sft_raw"),
    ),
    Hypothesis(
        "H2",
        "Fused rows alone help a little; the answer-conditioned distillation along rollouts adds more than they do.",
        (
            *_pair("raft", "sft_fused", "sft_raw"),
            *(
                Test(
                    f"(raft less sft_fused) less (sft_fused less sft_raw), {of} (raft)",
                    points("raft", of, raft=1, sft_fused=-2, sft_raw=1),
                )
                for of in ("domain", "general")
            ),
        ),
    ),
    Hypothesis(
        "H3",
        "The more the teacher is shown, the better the domain and the more is kept: nothing, the raw answer, the fused "
        "one. Another row's answer is worse for the domain than none.",
        (
            *_pair("raft", "shown_raw", "kl_fused"),
            *_pair("raft", "raft", "shown_raw"),
            Test(
                "shown_shuffled less kl_fused, domain (raft)",
                points("raft", "domain", shown_shuffled=1, kl_fused=-1),
                "below",
            ),
        ),
    ),
    Hypothesis(
        "H4",
        "The averaged weight keeps cross-entropy and weighted divergence about equal, and is not worse than the best "
        "fixed weight.",
        (
            Test(
                "log2 of cross-entropy over weighted divergence at the end of raft (raft)",
                balance("raft"),
                "within",
                1.0,
                False,
            ),
            *(
                Test(
                    f"raft less {fixed}, mean of domain and general (raft)",
                    points("raft", "both", **{"raft": 1, fixed: -1}),
                    bound=-MARGIN,
                )
                for fixed in FIXED
            ),
        ),
        "Not worse than each of the fixed weights is not worse than the best. The mean of domain and general stands "
        "for the front of the two.",
    ),
    Hypothesis(
        "H5",
        "With the rest in one bucket, more than the 64 likeliest words make no difference.",
        _pair("raft", "k512_bucket", "k64_bucket", rule="within", bound=MARGIN),
        "The lab's vocabulary has 1,024 words: 512 are half of them.",
    ),
    Hypothesis(
        "H6 (paper)",
        "On-policy self-distillation as printed (reverse divergence) keeps far more general skill than plain "
        "fine-tuning, and gains on the domain where what the teacher is shown lifts it.",
        _sdft("paper"),
    ),
    Hypothesis(
        "H6 (released)",
        "The same as released (forward divergence); without a lift it gains nothing, and with a larger one more.",
        _sdft(
            "released",
            Test(
                "sdft_blind less base, domain (sdft): no lift",
                points("sdft", "domain", sdft_blind=1, base=-1),
                "below",
                MARGIN,
            ),
            Test(
                "sdft_answer less sdft_text, domain (knowledge)",
                points("knowledge", "domain", sdft_answer=1, sdft_text=-1),
            ),
        ),
        "The gate's lifts on the articles stand in the table of `knowledge`.",
    ),
    Hypothesis(
        "H7",
        "Rows that the base finds likelier make it forget less at equal domain accuracy.",
        (Test("points of general mean for a nat more in the data (agent, dart)", naturalness, "below"),),
        "The lab's base never answers a domain by itself, so S3FT's own-answer leg has no rows here, and the 2024 "
        "rewriting is `prompted`.",
    ),
    Hypothesis(
        "H8",
        "What a training forgets is explained by forward divergence on the new task's prompts, whatever the method.",
        (Test("R² over methods (main, methods, sdft, raft)", explained, "above", 0.6, False),),
        "At the end of training, along the base's answers to training prompts. Methods that change finished weights "
        "log none.",
    ),
    Hypothesis(
        "H9",
        "At its published weight the diversity reward does nothing.",
        (
            *_pair("agent", "agent", "no_diversity", rule="within", bound=MARGIN),
            Test(
                "self-BLEU of the rewrites, agent less no_diversity (agent)",
                apart("agent", "agent", "no_diversity", "data", "self_bleu"),
                "within",
                5.0,
                False,
            ),
        ),
    ),
    *(
        Hypothesis(
            f"H10 ({preset})",
            "A mapper trained by reinforcement writes better rows, at equal volume, than the same mapper untrained and "
            "than the likeliest of as many samples.",
            tuple(
                Test(
                    f"dart_{preset} less {other}, mean of domain and general (dart)",
                    points("dart", "both", **{f"dart_{preset}": 1, other: -1}),
                )
                for other in ("prompted", "best_of_n")
            ),
        )
        for preset in ("public", "robust")
    ),
)


# ---- the pages

HEAD = """\
# What the lab says of ten hypotheses

Made by `python -m tests.bench.hypotheses` from the files in
[tests/bench/results/tables](../../tests/bench/results/tables): change nothing here by hand. The lab is a made-up world
with a model of 1.2 million weights: what stands here says how effects order themselves there, not what a large model
would score.

A test is a figure that must keep a bound. **supported**: the 95% interval of every test lies on its side.
**contradicted**: one lies wholly on the other side, at a confidence that is 95% for all tests of the hypothesis
together. **cannot decide**: neither, or fewer than three trainings of a method on a domain. **not run**: neither, and
lines are missing. Differences are in percentage points, paired by seed and item, with intervals over seeds and items;
domain is the cells that training covered, general the mean of the skills.
"""


def show(test: Test, figure: Figure | None) -> str:
    if figure is None:
        return ""
    scale, form = (100, "+.1f") if test.points else (1, ".2f")
    ends = "" if math.isnan(figure.low) else f" [{scale * figure.low:{form}}, {scale * figure.high:{form}}]"
    return f"{scale * figure.value:{form}}{ends}"


def wanted(test: Test) -> str:
    bound = f"{100 * test.bound:g} points" if test.points else f"{test.bound:g}"
    return {"above": f"> {bound}", "below": f"< {bound}", "within": f"within ±{bound}"}[test.rule]


def page(tables: Tables) -> str:
    results = [(each, *decided(each, tables)) for each in HYPOTHESES]
    rows = [HEAD, "| | hypothesis | verdict |", "|---|---|---|"]
    rows += [f"| {each.name} | {each.says} | **{found}** |" for each, found, _ in results]
    for each, found, tests in results:
        rows += ["", f"## {each.name}: {found}", "", each.says, ""]
        rows += ["| test | must be | figure | rests on | seeds | |", "|---|---|---:|---|---:|---|"]
        for test, figure, one in tests:
            rests, seeds = (figure.n, str(figure.seeds)) if figure else ("", "")
            rows.append(f"| {test.says} | {wanted(test)} | {show(test, figure)} | {rests} | {seeds} | {one} |")
        rows += ["", each.note] if each.note else []
    return "\n".join(rows) + "\n"


INDEX_HEAD = """\
# The long tables, as far as they have run

Made by `python -m tests.bench.hypotheses` from the files beside this one: change nothing here by hand. Each table is
the spec of its name in [specs/tables](../../../../specs/tables); `python -m tests.bench.lab_tables NAME` runs what is
missing, a method and a seed at a time. What they say of ten hypotheses is in
[HYPOTHESES.md](../../../../specs/tables/HYPOTHESES.md).

domain: cells that training covered; unseen: cells that follow from the rule. less baseline: paired difference in
points. forward KL: to the base, nats a token on training prompts. words: length of answers to domain questions.
seconds: of one training. tokens: generated for one training (data, rewriter and rollouts, where they are counted).
chosen: by validation. not run: nothing is there, and nothing is guessed.
"""


def index(tables: Tables) -> str:
    parts = [INDEX_HEAD]
    for name in TABLES:
        parts.append(f"## {name}\n\n{table_pages.page(name, lab_tables.spec_of(name), tables[name])}\n")
    return "\n".join(parts)


def main() -> None:
    tables = {name: read(name) for name in TABLES}
    PAGE.write_text(page(tables), "utf-8")
    INDEX.write_text(index(tables), "utf-8")


if __name__ == "__main__":
    main()
