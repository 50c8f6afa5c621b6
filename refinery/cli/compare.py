"""`refinery compare`: runs, methods or imported models, item by item; and gates for continuous integration."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from evals.comparable import grouped
from evals.comparing import MEANS, Arm, Compared, Line, Run, adjust
from evals.comparing import compare as compare_arms
from evals.gates import Gate, State, parse
from evals.stats import odds_ratio
from refinery.cli.arms import BASE, Asked, Place
from refinery.cli.printing import add, console, print_json, table
from refinery.errors import UserError, did_you_mean
from refinery.spec import Spec
from refinery.store import Store

CURE = "--accept SETTING compares all the same"


@dataclass(frozen=True)
class Judged:
    """A gate on one comparison."""

    gate: str
    comparison: str
    state: State
    failed: bool
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NotDecided:
    """A gate that names no method, on an imported model that it cannot be asked of."""

    gate: str
    comparison: str
    model: str
    why: str


def compare(wanted: Asked, accept: Sequence[str], gates: Sequence[Gate], as_json: bool) -> bool:
    """True where no gate fails. UserError where nothing at all could be compared."""
    found = compared(wanted, accept)
    judged, left_open = judge(gates, found, imported(wanted))
    if as_json:
        gated = {"gates": judged, "gates_not_decided": left_open}
        print_json({"comparisons": [_plain(each) for each in found], **gated})
    else:
        out = console()
        for each in found:
            show(out, each, explained=each is found[-1])
        show_gates(out, judged, left_open)
    return not any(each.failed for each in judged)


def compared(wanted: Asked, accept: Sequence[str] = ()) -> list[Compared]:
    """Every pair, adjusted as one family."""
    found = [compare_arms(first, second, wanted.kinds, accept=accept) for first, second in wanted.pairs]
    if not any(each.lines for each in found):
        reasons = grouped((name, why) for each in found for name, why in each.refused.items())
        cure = f"; {CURE}" if any("not comparable" in why for why in reasons) else ""
        raise UserError("nothing can be compared: " + ("; ".join(reasons) or "no benchmark is scored on both") + cure)
    return adjust(found)


# ---- gates


def gates_of(fail_if: Sequence[str], fail_unless: Sequence[str], known: Sequence[str] | None = None) -> list[Gate]:
    """UserError where one is not of the form, or names nothing in `known`."""
    found = [parse(text) for text in fail_if] + [parse(text, must=True) for text in fail_unless]
    for gate in found:
        if known is not None and gate.what not in known:
            hint = did_you_mean(gate.what, known)
            raise UserError(f'gate "{gate.text}": no {gate.what}{hint}; there are: {", ".join(known)}')
    return found


def judge(
    gates: Sequence[Gate], found: Sequence[Compared], imports: Collection[str] = ()
) -> tuple[list[Judged], list[NotDecided]]:
    """UserError where a gate asks about what was not compared: a gate never passes for want of figures. Only of models
    in `imports` a gate that names no method may leave some open, where it decides of another."""
    judged: list[Judged] = []
    left_open: list[NotDecided] = []
    for gate in gates:
        concerned = [each for each in found if gate.method in ("", each.second, each.second.rpartition(":")[2])]
        if not concerned:
            there = ", ".join(dict.fromkeys(each.second for each in found))
            raise UserError(f'gate "{gate.text}": {gate.method} is not compared here; there are: {there}')
        text = f"--fail-unless {gate.text}" if gate.must else f"--fail-if {gate.text}"
        decided = len(judged)
        refused: list[UserError] = []
        for each in concerned:
            comparison = f"{each.first} -> {each.second}"
            try:
                line = each.find(gate.what)
                state = gate.state(line.difference)
            except UserError as error:
                if gate.method or each.second not in imports:
                    raise
                refused.append(error)
                left_open.append(NotDecided(text, comparison, each.second, str(error)))
                continue
            ends = line.difference.value, line.difference.low, line.difference.high
            judged.append(Judged(text, comparison, state, gate.fails(state), *ends))
        if len(judged) == decided:
            raise refused[0]
    return judged, left_open


def imported(wanted: Asked) -> set[str]:
    """Of what is compared, the models that were evaluated elsewhere."""
    second = [arm for _, arm in wanted.pairs]
    return {arm.name for arm in second if any(_role(run) == "imported" for run in arm.runs)}


def _role(run: Run) -> str:
    row = run.store.checkpoint(run.checkpoint)
    return row["role"] if row else ""


def gate_run(spec: Spec, gates: Sequence[Gate], out: Console) -> bool:
    """After a run: every method against the base. True where no gate fails."""
    place = Place(spec.name, Store(spec.store_path, read_only=True), spec)
    wanted: list[tuple[Arm, Arm]] = [(place.arm(BASE), place.arm(name)) for name in place.methods if name != BASE]
    if not wanted:
        raise UserError("gates: no method is trained and evaluated, so there is nothing to judge")
    both = Asked(wanted, place.kinds())
    judged, left_open = judge(gates, compared(both), imported(both))
    show_gates(out, judged, left_open)
    return not any(each.failed for each in judged)


def gate_names(spec: Spec) -> list[str]:
    """What a gate on this spec's run may ask about."""
    if spec.evaluate is None:
        return []
    means = [MEANS[kind] for kind in ("domain", "general") if getattr(spec.evaluate, kind)]
    return [*means, *spec.evaluate.domain, *spec.evaluate.general]


def show_gates(out: Console, judged: Sequence[Judged], left_open: Sequence[NotDecided]) -> None:
    for each in judged:
        verdict = "FAILED" if each.failed else "passed"
        ends = interval(each.low, each.high, abs(each.value) <= 1)
        said = f"{verdict}: {each.gate} ({each.comparison}): {each.state}, {points(each.value)} {ends}"
        out.print(said, style="bold red" if each.failed else "", soft_wrap=True)
    for one in left_open:
        out.print(f"not decided for {one.model}: {one.gate}: {one.why}", style="yellow", soft_wrap=True)


# ---- the tables


EXPLAINED = """p: adjusted (Holm) over all benchmarks shown; of means as it is. finds: where no
difference was found, the smallest true one that would be, in 4 cases of 5; of
benchmarks at 5% over their number, so that it is rather too large.
lost, gained: items on which A, B did better, a run. odds: gained for a lost.
McNemar p: the largest of all pairs of runs. flips p: sign flips of items.
h: Cohen's; 0.2 is small."""


def show(out: Console, found: Compared, explained: bool = True) -> None:
    out.print(f"A {found.first}\nB {found.second}", style="bold", soft_wrap=True)
    moved = [line for line in found.lines if line.kind == "movement"]
    asked = [line for line in found.lines if line.kind != "movement"]
    lines = [*asked, *found.means.values()]
    if lines or moved:
        runs = (lines or moved)[0].runs
        paired = f"{runs} pairs of runs" if runs > 1 else "one pair of runs: intervals speak of items alone"
        out.print(f"B - A in points, 95% intervals; {paired}\n")
    if lines:
        out.print(_differences(lines))
    if asked:
        out.print()
        out.print(_changes(asked))
    if moved:
        out.print("\nmoved from the base, forward KL in nats a token: lower is nearer to the base\n")
        out.print(_movement(moved))
    if found.lines and explained:
        out.print(f"\n{EXPLAINED}", style="dim")
    refused = grouped(found.refused.items())
    for words in refused:
        out.print(words, style="yellow", soft_wrap=True)
    if found.lines and any("not comparable" in words for words in refused):
        out.print(CURE, style="yellow")
    warned = [f"{line.name}: {words}" for line in found.lines for words in line.warnings]
    for words in [*dict.fromkeys(warned), *found.notes]:
        out.print(words, style="dim")
    out.print()


def _differences(lines: Sequence[Line]) -> Any:
    columns = ("A", "B", "B - A", "interval", "p", "finds")
    made = table("benchmark", *columns, right=columns)
    for line in lines:
        d = line.difference
        finds = f"{100 * line.detectable:.1f}" if line.null else ""
        shares = all(0 <= value <= 1 for value in (line.first, line.second))
        values = f"{100 * line.first:.1f}", f"{100 * line.second:.1f}", points(d.value), interval(d.low, d.high, shares)
        add(made, line.name, *values, p_value(_adjusted(line)), finds)
    return made


def _movement(lines: Sequence[Line]) -> Any:
    columns = ("A", "B", "B - A", "interval", "p", "finds")
    made = table("prompts", *columns, right=columns)
    for line in lines:
        d = line.difference
        ends = "unknown" if math.isnan(d.low) or math.isnan(d.high) else f"[{d.low:+.3f}, {d.high:+.3f}]"
        finds = f"{line.detectable:.3f}" if line.null else ""
        values = f"{line.first:.3f}", f"{line.second:.3f}", f"{d.value:+.3f}", ends
        add(made, line.name, *values, p_value(_adjusted(line)), finds)
    return made


def _adjusted(line: Line) -> float:
    return line.difference.p if math.isnan(line.p_holm) else line.p_holm


def _changes(lines: Sequence[Line]) -> Any:
    columns = ("items", "lost", "gained", "odds", "McNemar p", "flips p", "h")
    made = table("benchmark", *columns, right=columns)
    for line in lines:
        lost, gained = (sum(getattr(c, side) for c in line.changes) for side in ("lost", "gained"))
        n = len(line.changes)
        odds = odds_ratio(lost, gained)[0]
        h = "" if math.isnan(line.cohens_h) else f"{line.cohens_h:+.2f}"
        ratio = "" if math.isnan(odds) else "inf" if math.isinf(odds) else f"{odds:.2f}"
        largest = max(c.mcnemar for c in line.changes)
        counts = _per_run(lost, n), _per_run(gained, n)
        add(made, line.name, line.n, *counts, ratio, p_value(largest), p_value(line.sign_flip), h)
    return made


def _per_run(count: int, runs: int) -> str:
    return str(count) if runs == 1 else f"{count / runs:.1f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def interval(low: float, high: float, shares: bool) -> str:
    """Of a difference, as the report shows it: that of two `shares` reaches no further than 100 points."""
    if math.isnan(low) or math.isnan(high):
        return "unknown"
    return f"[{points(max(low, -1.0))}, {points(min(high, 1.0))}]" if shares else f"[{points(low)}, {points(high)}]"


def p_value(p: float) -> str:
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _plain(found: Compared) -> dict[str, Any]:
    """As JSON: fractions; what is unknown is null."""

    def line(each: Line) -> dict[str, Any]:
        own = asdict(each)
        spread = own["difference"].pop("spread")
        own["difference"]["variance_of_seeds"] = spread and spread["seeds"]
        own["changes"] = [{**asdict(c), "mcnemar": c.mcnemar} for c in each.changes]
        lost, gained = (sum(getattr(c, side) for c in each.changes) for side in ("lost", "gained"))
        value, low, high = odds_ratio(lost, gained)
        own["odds_ratio"] = {"value": value, "low": low, "high": high} if each.changes and each.runs == 1 else None
        return own | {"null": each.null}

    about = {"first": found.first, "second": found.second, "refused": found.refused, "notes": found.notes}
    return about | {
        "benchmarks": [line(each) for each in found.lines],
        "means": [line(m) for m in found.means.values()],
    }
