"""`refinery diagnose`: what refining did, as measures of any two steps, and what lies around a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refinery.cli.reading import Json, Overrides
from refinery.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from refinery.diagnostics._gates import Gate, Reference
    from refinery.diagnostics._pairs import Pairs
    from refinery.rows import Row
    from refinery.spec import Spec
    from refinery.store import Store

RAW_NAME = "raw"
"""What the reference answers are called, beside the names of sources."""


def diagnose(
    spec: Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.", show_default=False)],
    steps: Annotated[
        tuple[str, str] | None,
        typer.Option("--steps", help="Compare these two: step names, or raw for the reference answers.", metavar="A B"),
    ] = None,
    sweep: Annotated[
        str, typer.Option("--sweep", help="Rows that pass as this threshold moves, such as min_cosine.")
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="Ask this model of the spec for its own answers and for likelihoods.")
    ] = "",
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows that model is asked about.")] = 200,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of its own answers.")] = 512,
    full: Annotated[bool, typer.Option("--full", help="Show every measure, of every pair of steps.")] = False,
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Measure how two steps' answers differ: meaning, wording, style, naturalness, truth. Kept for the report."""
    from refinery.cli.diagnose_headline import headline_pair, show_headline
    from refinery.cli.diagnose_show import show, show_sweep
    from refinery.cli.printing import print_json

    work = opened(spec, set_)
    if sweep:
        swept = work.sweep(sweep, steps)
        return print_json([each.plain() for each in swept]) if json else show_sweep(swept)
    pairs = work.pairs(steps)
    if not (full or json):
        first = headline_pair(pairs)
        others = [pair for pair in pairs if pair != first]
        return show_headline(work.compare(*first, model, rows, max_tokens), others)
    found = [work.compare(raw, refined, model, rows, max_tokens) for raw, refined in pairs]
    return print_json([each.plain() for each in found]) if json else show(found)


@dataclass(frozen=True)
class Compared:
    """Two steps, measured."""

    raw: str
    refined: str
    pairs: int
    fell_back: int
    left_out: int
    """Rows of the refined step that the raw one does not have."""
    mixed_in: int
    """Rows of other sources, as they were read: no pairs, as nobody refined them."""
    rows: list[Row]
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        from refinery.diagnostics import meaning

        measures = []
        for row in self.rows:
            known = meaning(row["family"], row["name"])
            detail = {key: value for key, value in row["detail"].items() if key != "by"}
            measures.append({**row, "detail": detail, "meaning": known and known[0], "how_to_read": known and known[1]})
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return {**own, "measures": measures}


@dataclass(frozen=True)
class Swept:
    """A threshold, moved."""

    gate: Gate
    below: list[dict[str, Any]]
    above: list[dict[str, Any]]
    """Rows nearest to the threshold on each side: id, score, question, reference, candidate, agrees."""

    def plain(self) -> dict[str, Any]:
        gate = self.gate
        own = {"step": gate.step, "parameter": gate.param, "threshold": gate.threshold, "rows": len(gate.values)}
        points = [{"threshold": at, "passed": passed} for at, passed in gate.sweep()]
        return {**own, "points": points, "below": self.below, "above": self.above}


@dataclass
class Work:
    """One store, and the spec where there is one."""

    store: Store
    spec: Spec | None
    steps: dict[str, Row]
    """Newest of each name, each after what it reads."""
    tools: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pairs(self, asked: Sequence[str] | None) -> list[tuple[str, str]]:
        """(raw, refined) names: those asked for; else raw, the first step that changed answers and the last step,
        each against the ones before it."""
        if asked:
            for name in asked:
                self.fingerprint(name)
            if self.fingerprint(asked[1]) == "":
                raise UserError(f"--steps {asked[0]} {asked[1]}: the raw answers come first: --steps raw {asked[0]}")
            return [(asked[0], asked[1])]
        graph = [name for name, step in self.steps.items() if step["op"] != "source"]
        if not graph:
            raise UserError(f"{self.store.path} holds no refined step yet: run the refine stage first")
        last = self.spec.train.data if self.spec and self.spec.train and self.spec.train.data in graph else graph[-1]
        changed = [name for name in graph if self._changed(self.steps[name])]
        first = changed[0] if changed else last
        return list(dict.fromkeys(((RAW_NAME, first), (RAW_NAME, last), *([(first, last)] if first != last else []))))

    def fingerprint(self, name: str) -> str:
        """Of a step; empty for the raw answers, which is what the source hands on."""
        if name in (RAW_NAME, "source") and (name == "source" or name not in self.steps):
            return ""
        if name not in self.steps:
            known = [RAW_NAME, *self.steps]
            raise UserError(f'no step "{name}" in {self.store.path.name}{did_you_mean(name, known)}; '
                            f"there are: {', '.join(known)}")  # fmt: skip
        return self.steps[name]["fingerprint"]

    def _changed(self, step: Row) -> bool:
        return any(part["action"] == "changed" for part in self.store.funnel(step["fingerprint"]))

    def compare(self, raw: str, refined: str, model: str, rows: int, max_tokens: int) -> Compared:
        from refinery import diagnostics
        from refinery.diagnostics._gates import find_gates, judge_gates
        from refinery.diagnostics._pairs import read_pairs
        from refinery.diagnostics.preference import Labels

        step, against = self.fingerprint(refined), self.fingerprint(raw)
        self.notes.clear()
        reference = self.reference()
        pairs = read_pairs(self.store, step, against, reference.target if reference else None)
        tools = {**self.texts_tools(), "reference": reference}
        if reference and not against:
            tools["gates"] = judge_gates(self.store, find_gates(self.store, self.behind(step)), reference)
        if labels := self.store.preferences(step, against):
            tools["labels"] = Labels(labels)
        if model:
            tools |= self.asked(pairs, step, model, rows, max_tokens)
        found = diagnostics.run(
            self.store, step, against=against, families=diagnostics.all_families(), pairs=pairs, **tools
        )
        self.notes += sorted({r["detail"]["note"] for r in found if "refinery[" in str(r["detail"].get("note"))})
        if not model and not any(row["family"] == "likelihood" for row in found):
            self.notes.append("no model was asked: --model self adds distances to its own answers, and likelihoods")
        apart = pairs.fell_back, pairs.left_out, pairs.mixed_in
        return Compared(raw, refined, len(pairs), *apart, found, list(self.notes))

    def reference(self) -> Reference | None:
        from refinery.diagnostics._gates import reference_of

        return reference_of(list(self.steps.values()), self.spec)

    def texts_tools(self) -> dict[str, Any]:
        """The sentence encoder and the base model's tokenizer, where they are at hand; opened once."""
        if not self.tools:
            self.tools = {"encoder": self._encoder(), "tokenizer": self._tokenizer()}
        for note in ("encoder", "tokenizer"):
            if self.tools[note] is None:
                self.notes.append(self.tools.get(f"no {note}", ""))
        return {key: self.tools[key] for key in ("encoder", "tokenizer")}

    def _encoder(self) -> Any:
        from refinery.encoder import DEFAULT, Encoder
        from refinery.vectors import StoredEncoder

        named = (step["params"]["encoder"] for step in self.steps.values() if "encoder" in step["params"])
        try:
            return StoredEncoder(Encoder(next(named, DEFAULT)), self.store)
        except UserError as error:
            self.tools["no encoder"] = f"without embeddings: {error}"
            return None

    def _tokenizer(self) -> Any:
        from refinery.models import folder

        try:
            path = folder(self.spec.model, self.spec.revision) if self.spec else None
            if path is None:
                raise UserError(
                    "the base model is not on this machine" if self.spec else "a store alone names no model"
                )
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(path)
        except (UserError, ImportError, OSError, ValueError) as error:
            self.tools["no tokenizer"] = f"without lengths in tokens: {error}"
            return None

    def behind(self, step: str) -> list[Row]:
        """The step of that fingerprint and all that it reads, directly or not."""
        wanted, rows = {step}, list(self.steps.values())
        for row in reversed(rows):
            if row["fingerprint"] in wanted:
                wanted |= set(row["upstream"])
        return [row for row in rows if row["fingerprint"] in wanted]

    def asked(self, pairs: Pairs, step: str, model: str, rows: int, max_tokens: int) -> dict[str, Any]:
        from refinery.diagnostics._asked import ask_model, prompts_of

        if self.spec is None:
            raise UserError("--model needs the spec, which names the models; this is a store")
        if model not in self.spec.models:
            known = self.spec.models
            raise UserError(
                f'no model "{model}" in the spec{did_you_mean(model, known)}; there are: {", ".join(known)}'
            )
        prompts = prompts_of(self.store, step, [pair.id for pair in pairs.sample(rows)])
        with self.store.run_lock():
            own, likelihoods, failures = ask_model(self.spec, self.store, pairs, prompts, model, rows, max_tokens)
        self.notes += [f"{n} requests to {model} failed: {reason}" for reason, n in failures.items()]
        if likelihoods is None:
            self.notes.append(f"{model} is a server, which gives no likelihoods")
        return {"own": own, "likelihoods": likelihoods}

    def sweep(self, param: str, asked: Sequence[str] | None) -> list[Swept]:
        """Every gate with that threshold, or those of the steps named."""
        from refinery.diagnostics._gates import find_gates

        names = [name for name in self.steps if not asked or name in asked]
        gates = find_gates(self.store, [self.steps[name] for name in names])
        found = [gate for gate in gates if gate.param == param]
        if not found:
            known = sorted({gate.param for gate in gates})
            there = f"; there are: {', '.join(known)}" if known else "; no step of it decided by a threshold"
            raise UserError(f'no threshold "{param}" in {self.store.path.name}{did_you_mean(param, known)}{there}')
        return [self._swept(gate) for gate in found]

    def _swept(self, gate: Gate) -> Swept:
        from refinery.diagnostics._gates import examples_near

        return Swept(gate, *examples_near(self.store, gate, self.reference()))


def opened(path: Path, overrides: Sequence[str] = ()) -> Work:
    """To write: what is measured is kept. A store that is not there yet is an error."""
    from refinery import looking
    from refinery.cli import printing
    from refinery.store import Store

    reader, spec = printing.opened(path, overrides)
    store = Store(reader.path)
    return Work(store, spec, {row["name"]: row for row in looking.latest(store, printing.step_names(spec))})
