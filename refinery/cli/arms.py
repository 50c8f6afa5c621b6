"""What `refinery compare` is given, as arms: runs by path or name, methods of a run by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.comparing import Arm, Run
from refinery import catalog, yamlpos
from refinery.cli.printing import opened
from refinery.cli.run import overrides_in
from refinery.errors import UserError, did_you_mean
from refinery.runs import RUNS, only_store
from refinery.spec import Spec
from refinery.store import Row, Store

BASE = "base"
ROLES = ("base", "final", "stage", "imported")


@dataclass
class Place:
    """A store that was named, with the spec where it was named by one."""

    name: str
    store: Store
    spec: Spec | None
    rows: list[Row] = field(default_factory=list)
    """Finished checkpoints, oldest first."""

    def __post_init__(self) -> None:
        self.rows = [r for r in self.store.checkpoints() if r["status"] == "complete" and r["role"] in ROLES]
        cells = [cell for cell in self.store.cells() if cell["keys"] and cell["checkpoint"]]
        if cells:  # of a matrix: a method at each of its points, called method[key=value]
            by_print = {row["fingerprint"]: row for row in self.rows}
            there = [cell for cell in cells if cell["checkpoint"] in by_print]
            made = [{**by_print[c["checkpoint"]], "name": _called(c), "seed": c["seed"]} for c in there]
            self.rows = [row for row in self.rows if row["role"] != "final"] + made

    @property
    def names(self) -> list[str]:
        """Of what may be compared: the base first, then methods as the spec has them, then the rest."""
        there = list(dict.fromkeys(row["name"] for row in self.rows if row["role"] != "base"))
        listed = self.spec.compared if self.spec else []
        ordered = [name for name in listed if name in there] + [name for name in there if name not in listed]
        return [BASE] * any(row["role"] == "base" for row in self.rows) + ordered

    @property
    def methods(self) -> list[str]:
        """Finally trained or imported; no stages on the way."""
        last = {row["name"] for row in self.rows if row["role"] in ("final", "imported")}
        return [name for name in self.names if name in last]

    def arm(self, name: str, called: str = "") -> Arm:
        """By a method's or model's name, "base", or the beginning of a checkpoint's fingerprint. UserError."""
        rows = [row for row in self.rows if (row["role"] == "base" if name == BASE else row["name"] == name)]
        if name == BASE:
            rows = rows[-1:]
        elif not rows and len(name) >= 6:
            rows = [row for row in self.rows if row["fingerprint"].startswith(name)]
        if not rows:
            known = ", ".join(self.names) or "nothing that is finished"
            raise UserError(f"{self.name}: no {name}{did_you_mean(name, self.names)}; there are: {known}")
        by_seed: dict[int | None, Row] = {}
        for row in rows:
            seed = _seed(row)
            if seed in by_seed:
                some = ", ".join(sorted(each["fingerprint"][:12] for each in rows if _seed(each) == seed))
                raise UserError(f"{self.name}: {name} is several checkpoints ({some}): name one by its fingerprint")
            by_seed[seed] = row
        return Arm(called or name, [Run(self.store, row["fingerprint"], seed) for seed, row in by_seed.items()])

    def kinds(self) -> dict[str, str]:
        """Benchmark to domain or general: of the spec, or of the last run that the store has."""
        if self.spec is not None:
            given: Any = self.spec.evaluate.model_dump() if self.spec.evaluate else {}
        else:
            given = next((_evaluated(run["spec"]) for run in self.store.runs()[:1]), {})
        suites = catalog.suites()
        pairs = [(name, kind) for kind in ("domain", "general") for name in given.get(kind) or []]
        named = [(str(name.get("task")) if isinstance(name, dict) else str(name), kind) for name, kind in pairs]
        return {each: kind for name, kind in named for each in suites.get(name, (name,))}


def _evaluated(text: str) -> dict[str, Any]:
    """What stands under `evaluate` in the text of a run, which has its overrides as comments."""
    document = yamlpos.parse(text, "")
    yamlpos.override(document, overrides_in(text))
    found = document.data.get("evaluate") if isinstance(document.data, dict) else None
    return found if isinstance(found, dict) else {}


def _called(cell: Row) -> str:
    points = ",".join(f"{str(key).rpartition('.')[2]}={value}" for key, value in cell["keys"].items())
    return f"{cell['method']}[{points}]"


def _seed(row: Row) -> int | None:
    if row["role"] == "base":
        return None
    return None if row["role"] == "imported" and not row["params"].get("seeded") else row["seed"]


def place(word: str, overrides: Sequence[str] = ()) -> Place | None:
    """A spec, a store, a folder with one store, or the name of a run in runs/; None where it is none of these."""
    path = Path(word)
    if path.is_dir() or not path.exists():
        folder = path if path.is_dir() else RUNS / word
        found = only_store(folder, word) if folder.is_dir() else None
        if found is None:
            return None
        path = found
    store, spec = opened(path, () if path.suffix == ".duckdb" else overrides)
    return Place(word, store, spec)


@dataclass
class Asked:
    """Pairs to compare, first and second, and which benchmarks are which."""

    pairs: list[tuple[Arm, Arm]]
    kinds: dict[str, str]


FORMS = "`compare RUN`, `compare RUN METHOD ...`, `compare RUN_A RUN_B` or `compare RUN_A:METHOD RUN_B:METHOD`"


def asked(words: Sequence[str], overrides: Sequence[str] = ()) -> Asked:
    """One run: its base against every method, or against those named; two names: the first against the others. Two
    runs: each method against the other run's method of that name. UserError where nothing of the kind is there."""
    known: dict[str, Place] = {}

    def find(word: str) -> Place | None:
        if word not in known and (found := place(word, overrides)) is not None:
            known[word] = found
        return known.get(word)

    first = find(words[0])
    if first is not None and len(words) == 2 and (second := find(words[1])) is not None and words[1] not in first.names:
        return _two_runs(first, second)
    names = list(words[1:]) if first is not None else list(words)
    if first is not None and not names:
        names = [name for name in first.methods if name != BASE]
    arms = [_arm(name, first, find) for name in names]
    if first is not None and (len(words) == 1 or len(arms) == 1):
        arms = [first.arm(BASE), *arms]
    if len(arms) < 2:
        raise UserError(f"{words[0]}: nothing to compare it with: {FORMS}")
    kinds: dict[str, str] = {}
    for each in known.values():
        kinds = {**each.kinds(), **kinds}
    return Asked([(arms[0], other) for other in arms[1:]], kinds)


def _arm(word: str, within: Place | None, find: Any) -> Arm:
    outer, colon, name = word.rpartition(":")
    if colon and (other := find(outer)) is not None:
        return other.arm(name, word)
    if within is None:
        raise UserError(f"{word}: no spec, store or run of that name: {FORMS}")
    return within.arm(word)


def _two_runs(first: Place, second: Place) -> Asked:
    shared = [name for name in first.names if name in second.names]
    if not shared:
        has = [f"{each.name} has {', '.join(each.names) or 'nothing'}" for each in (first, second)]
        raise UserError(f"nothing is called the same in both ({'; '.join(has)}): compare RUN_A:METHOD RUN_B:METHOD")
    pairs = [(first.arm(n, f"{first.name}:{n}"), second.arm(n, f"{second.name}:{n}")) for n in shared]
    return Asked(pairs, {**second.kinds(), **first.kinds()})
