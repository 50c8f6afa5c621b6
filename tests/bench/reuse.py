"""What a run asks again after a change: foretold by `refinery plan`, counted at the server, compared with a fresh run.

    python tests/bench/reuse.py [--rows 500] [--encoder]

Every change is made to a project that has run, in a copy of its store. The same spec then runs in an empty store: what
it asks there, less what the store has answers to, is what the changed project should ask, request by request, and its
rows are those that the changed project should end with.
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refinery.graph import StepPlan, plan, run_graph, step_fingerprints
from refinery.records import Outcome
from refinery.spec import Spec, load_spec
from refinery.store import Store
from tests.models.server import Running, answer, serve

HEAD = """
name: reuse
models:
  writer: {backend: openai, model: writer, base_url: "URL", concurrency: 64}
  judge: {backend: openai, model: judge, base_url: "URL", concurrency: 64}
source: {path: "FOLDER/rows.jsonl", split: {train: 1.0, validation: 0, test: 0}}
sources:
  general: {path: "FOLDER/general.jsonl", split: {train: 1.0, validation: 0, test: 0}}
graph:
"""
FUSED = """
  agrees: {op: check_answer, from: gated}
  fused:
    op: fuse
    from: agrees
    model: writer
    prompt: "fused {{ question }} {{ rewrite }} {{ answer }}"
    rounds: 2
    judges: [{model: judge, prompt: "fused {{ candidate }} {{ question }}"}]
"""
ROWS = (
    """
  rewritten: {op: rewrite, from: source, model: writer, max_tokens: 6, prompt: "rewritten {{ question }} {{ answer }}"}
  gated: {op: length_filter, from: rewritten, max: 4}
"""
    + FUSED
)
ENCODED = ROWS.replace("length_filter, from: rewritten, max: 4", "semantic_filter, from: rewritten, min_cosine: 0.55")
TABLES = (
    """
  clean: {op: deduplicate, from: source, min_cosine: null}
  rewritten: {op: rewrite, from: clean, model: writer, max_tokens: 6, prompt: "rewritten {{ question }} {{ answer }}"}
  part: {op: sample, from: rewritten, share: 0.5}
  gated: {op: length_filter, from: part, max: 4}
"""
    + FUSED
    + """
  both: {op: mix, from: [fused, general]}
  said: {op: rewrite, from: both, model: writer, prompt: "said {{ question }} {{ response }}"}
"""
)
"""The first word of a prompt is the name of the step that asks."""

BETWEEN = '  between: {op: rewrite, from: agrees, model: writer, prompt: "between {{ response }}"}\n'

Change = Callable[["Project"], "Project"]


@dataclass(frozen=True)
class Project:
    """A spec and its rows."""

    graph: str
    rows: tuple[dict[str, str], ...]
    general: tuple[dict[str, str], ...]
    head: str = HEAD

    def but(self, old: str, new: str) -> "Project":
        """With a part of the spec's text in place of another."""
        assert (self.head + self.graph).count(old) >= 1, old
        return replace(self, head=self.head.replace(old, new), graph=self.graph.replace(old, new))

    def load(self, folder: Path, url: str) -> Spec:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("rows", self.rows), ("general", self.general)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "spec.yaml").write_text((self.head + self.graph).replace("URL", url).replace("FOLDER", str(folder)))
        return load_spec(folder / "spec.yaml")


def row(n: int) -> dict[str, str]:
    return {"question": f"What is number {n}?", "answer": f"It is word{n}"}


def start(graph: str, rows: int) -> Project:
    general = [{"question": f"Say {n}", "answer": f"general{n}"} for n in range(rows // 4)]
    return Project(graph, tuple(row(n) for n in range(rows)), tuple(general))


def edited(project: Project) -> Project:
    place = len(project.rows) // 2
    new = {"question": project.rows[place]["question"], "answer": "It is other"}
    return replace(project, rows=(*project.rows[:place], new, *project.rows[place + 1 :]))


def appended(project: Project) -> Project:
    return replace(project, rows=(*project.rows, *(row(n) for n in range(5000, 5010))))


def but(old: str, new: str) -> Change:
    return lambda project: project.but(old, new)


COMMON: dict[str, Change] = {
    "nothing": lambda project: project,
    "one row edited": edited,
    "ten rows appended": appended,
    "ten rows taken out": lambda project: replace(project, rows=project.rows[:7] + project.rows[17:]),
    "rows in another order": lambda project: replace(project, rows=project.rows[::-1]),
    "the check: contains": but("check_answer, from", "check_answer, kind: contains, from"),
    "rewrite's prompt": but("rewritten {{ question }}", "rewritten now {{ question }}"),
    "fuse's prompt": but("fused {{ question }}", "fused now {{ question }}"),
    "fuse's system prompt": but('rounds: 2\n', 'rounds: 2\n    system: "Be short."\n'),
    "rewrite's temperature": but("max_tokens: 6,", "max_tokens: 6, temperature: 0.3,"),
    "rewrite's max_tokens, 6 to 50": but("max_tokens: 6,", "max_tokens: 50,"),
    "two samples of each rewrite": but("max_tokens: 6,", "max_tokens: 6, samples: 2,"),
    "a third round": but("rounds: 2", "rounds: 3"),
    "another judge": but("model: judge, base_url", "model: judge-2, base_url"),
    "another model": but("model: writer, base_url", "model: writer-2, base_url"),
    "another seed": but("name: reuse\n", "name: reuse\nseed: 7\n"),
    "another address": lambda project: project.but("URL", "SECOND"),
    "another concurrency and timeout": but("concurrency: 64", "concurrency: 8, timeout: 60"),
    "another spec with the same steps": but("name: reuse", "name: other"),
    "a step renamed": but("gated", "passed"),
}  # fmt: skip
ONLY: dict[str, dict[str, Change]] = {
    ROWS: {
        "the gate: max 5": but("max: 4", "max: 5"),
        "the gate: max 3": but("max: 4", "max: 3"),
        "a step added behind": lambda p: replace(
            p, graph=p.graph + '  more: {op: rewrite, from: fused, model: writer, prompt: "more {{ response }}"}\n'
        ),
        "a step added between": lambda p: p.but("from: agrees", "from: between").but("  fused:", f"{BETWEEN}  fused:"),
        "a step taken out": but("from: agrees", "from: gated"),
    },
    ENCODED: {"the gate: min_cosine 0.5": but("0.55", "0.5"), "the gate: min_cosine 0.6": but("0.55", "0.6")},
    TABLES: {
        "a duplicate appended": lambda p: replace(p, rows=(*p.rows, {**p.rows[3], "answer": "It is again"})),
        "the share: 0.6": but("share: 0.5", "share: 0.6"),
        "one row of the second source edited": lambda p: replace(
            p, general=({"question": "Say 0", "answer": "edited"}, *p.general[1:])
        ),
        "ten rows appended to the second source": lambda p: replace(
            p, general=(*p.general, *({"question": f"Say {n}", "answer": "more"} for n in range(900, 910)))
        ),
        "the sources mixed in another order": but("[fused, general]", "[general, fused]"),
    },
}  # fmt: skip


def changes(graph: str) -> dict[str, Change]:
    return {**COMMON, **ONLY[graph]}


# -- one change -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    plans: dict[str, StepPlan]
    asked: Counter[str]
    """By step, at the server."""
    needed: Counter[str]
    """By step: what a fresh run asks, less what the store had answers to."""
    unforeseen: list[str]
    """Requests that were sent and not needed."""
    fresh: int
    """Requests of the fresh run."""
    rows: dict[str, list[Outcome]]
    fresh_rows: dict[str, list[Outcome]]

    @property
    def equal(self) -> bool:
        """Whether all rows are those of the fresh run; of their scores to 1e-4, since a cosine hangs on the batch."""
        return all(
            list(map(_bare, self.rows[name])) == list(map(_bare, fresh))
            and _near([each.scores for each in self.rows[name]], [each.scores for each in fresh])
            for name, fresh in self.fresh_rows.items()
        )

    @property
    def at_least(self) -> int:
        return sum(each.at_least for each in self.plans.values())

    @property
    def at_most(self) -> int:
        return sum(each.requests for each in self.plans.values())


def _bare(outcome: Outcome) -> Outcome:
    return replace(outcome, scores={})


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) < 1e-4
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_near(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_near, a, b))
    return bool(a == b)


class Bench:
    """A project that has run, and what becomes of it after a change."""

    def __init__(self, folder: Path, graph: str, rows: int, server: Running, second: Running):
        self.folder, self.servers = folder, (server, second)
        self.project = start(graph, rows)
        self.number = 0
        self.run(self.project, folder / "base", folder / "base.duckdb")
        self.base = self.taken()

    def taken(self) -> list[dict[str, Any]]:
        """The bodies that came to the servers since the last call."""
        return [body for server in self.servers for body in server.take()]

    def load(self, project: Project, folder: Path) -> Spec:
        first, second = (server.url for server in self.servers)
        return replace(project, head=project.head.replace("SECOND", second)).load(folder, first)

    def run(self, project: Project, folder: Path, store: Path) -> dict[str, list[Outcome]]:
        spec, opened = self.load(project, folder), Store(store)
        run_graph(spec, opened)
        return {name: opened.outcomes(found) for name, found in step_fingerprints(spec, opened).items()}

    def after(self, change: Change) -> Result:
        self.number += 1
        folder = self.folder / str(self.number)
        project = change(self.project)
        spec = self.load(project, folder)
        store = folder / "store.duckdb"
        shutil.copy(self.folder / "base.duckdb", store)
        plans = {each.name: each for each in plan(spec, Store(store))}
        assert not self.taken(), "a plan asks nothing"
        rows = self.run(project, folder, store)
        asked = self.taken()
        fresh_rows = self.run(project, folder, folder / "fresh.duckdb")
        fresh = self.taken()
        known = set(map(name_of, self.base))
        needed = [body for body in fresh if name_of(body) not in known]
        wanted = set(map(name_of, needed))
        unforeseen = [name_of(body) for body in asked if name_of(body) not in wanted]
        return Result(plans, by_step(asked), by_step(needed), unforeseen, len(fresh), rows, fresh_rows)


def name_of(body: dict[str, Any]) -> str:
    """Equal for requests of which one's answer serves the other: max_tokens tells apart those that it cut."""
    shape = dict(body)
    if len(answer(body, "wordy").split(" ")) <= body["max_tokens"]:
        del shape["max_tokens"]
    return json.dumps(shape, sort_keys=True)


def by_step(bodies: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(body["messages"][-1]["content"].split(" ", 1)[0] for body in bodies)


@contextmanager
def bench(folder: Path, graph: str, rows: int) -> Iterator[Bench]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(answer="wordy", keep_bodies=1)) for _ in range(2)]
        yield Bench(folder, graph, rows, *servers)


def table(graph: str, rows: int) -> Iterator[str]:
    yield "| changed | plan: requests | asked at the server | a fresh run asks | as foretold | rows equal |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder), graph, rows) as found:
        for name, change in changes(graph).items():
            result = found.after(change)
            low, high, asked = result.at_least, result.at_most, result.asked.total()
            span = f"{low}" if low == high else f"{low} to {high}"
            exact = result.asked == result.needed and not result.unforeseen and low <= asked <= high
            marks = ["yes" if good else "NO" for good in (exact, result.equal)]
            yield f"| {name} | {span} | {asked} | {result.fresh} | {' | '.join(marks)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run asks again after a change.")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--encoder", action="store_true", help="also with semantic_filter as the gate")
    given = parser.parse_args()
    named = {"row steps": ROWS, **({"row steps with the encoder": ENCODED} if given.encoder else {})}
    for title, graph in {**named, "with table steps and a second source": TABLES}.items():
        print(f"\n{given.rows} rows, {title}\n", flush=True)
        for line in table(graph, given.rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()
