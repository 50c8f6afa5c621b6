"""What differs between two specs, and what that makes run again. Asks no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from types import MappingProxyType
from typing import Any, Literal

from refinery import catalog, models
from refinery.reasons import encoder_folders
from refinery.rows import Row
from refinery.spec import Spec, StepSpec, fingerprints, model_identity, order
from refinery.spec_types import marked


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs; `old` or `new` is None where it is not there."""

    key: str
    """graph.rewritten.temperature"""
    kind: Literal["added", "removed", "changed"]
    old: Any
    new: Any

    @property
    def lines(self) -> list[str]:
        """Of two texts with several lines: a unified diff without its head; else nothing."""
        if not (isinstance(self.old, str) and isinstance(self.new, str)) or "\n" not in self.old + self.new:
            return []
        found = unified_diff(self.old.splitlines(), self.new.splitlines(), lineterm="", n=1)
        return [line for line in found if not line.startswith(("---", "+++", "@@"))]


@dataclass(frozen=True, slots=True)
class Effect:
    """What becomes of a step, or of a training method, when the new spec runs on the old one's store."""

    name: str
    what: Literal["stands", "runs", "is gone"]
    how: Literal["", "directly", "indirectly"]
    """A step that runs, directly: by its own op, parameters, models, `from` or seed; indirectly: by what those are."""
    why: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    changes: list[Change]
    steps: list[Effect]
    methods: list[Effect]


def changes(old: Spec, new: Spec) -> list[Change]:
    """By the order of the new spec; a step, model or method that came or went is one change."""
    return _changes(old.public(), new.public(), "")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Change]:
    found: list[Change] = []
    for key in dict.fromkeys([*new, *old]):
        where, before, after = f"{path}{key}", old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _changes(before, after, f"{where}.")
        elif before is None or after is None:
            kind: Literal["added", "removed"] = "added" if before is None else "removed"
            found.append(Change(where, kind, before, after))
        else:
            found.append(Change(where, "changed", before, after))
    return found


def difference(
    old: Spec,
    new: Spec,
    old_prints: Mapping[str, str],
    new_sources: Mapping[str, str],
    stored: Mapping[str, Row] = MappingProxyType({}),
) -> Difference:
    """`old_prints`: fingerprint of every step and source of the old spec; `new_sources`: of the new spec's sources;
    `stored`: where the old spec is one that ran, its steps by name as the store has them."""
    sides = _Sides(old, new, old_prints, prints(new, new_sources), stored)
    steps = [*(_source(name, sides) for name in new_sources)]
    steps += [_step(name, sides) for name in order(new)]
    steps += [Effect(name, "is gone", "") for name in old.graph if name not in new.graph]
    return Difference(changes(old, new), steps, _methods(sides))


def prints(spec: Spec, sources: Mapping[str, str]) -> dict[str, str]:
    return {**sources, **fingerprints(spec, models.identity, dict(sources))}


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both specs, and the fingerprints of their steps and sources."""

    old: Spec
    new: Spec
    old_prints: Mapping[str, str]
    new_prints: Mapping[str, str]
    stored: Mapping[str, Row]

    def same(self, before: str, after: str) -> bool:
        """Whether the old spec's step or source of one name is the new one's of the other."""
        return self.old_prints.get(before) == self.new_prints[after]


def _source(name: str, sides: _Sides) -> Effect:
    if found := _standing(name, sides):
        return found
    return Effect(name, "runs", "directly", ["its rows changed" if name in sides.old_prints else "new"])


def _standing(name: str, sides: _Sides) -> Effect | None:
    """Where the old spec has the same step or source, under this name or another."""
    former = [each for each, found in sides.old_prints.items() if found == sides.new_prints[name]]
    if not former:
        return None
    return Effect(name, "stands", "", [] if name in former else [f"as {former[0]}, under another name"])


def _step(name: str, sides: _Sides) -> Effect:
    old, new = sides.old, sides.new
    if found := _standing(name, sides):
        return found
    if name not in old.graph:
        return Effect(name, "runs", "directly", ["new"])
    before, after = old.graph[name], new.graph[name]
    why = [] if before.op == after.op else [f"op {before.op} -> {after.op}"]
    if before.op == after.op:
        differing = _changes(before.params.model_dump(mode="json"), after.params.model_dump(mode="json"), "")
        why += [change.key for change in differing]
    for _, model in marked(after.params, "model"):
        if model in old.models and _asked(old, model) != _asked(new, model):
            why.append(f"model {model}")
    why += ["seed"] if old.seed != new.seed else []
    if not _same_reads(before.upstream, after.upstream, sides):
        why.append(f"from: {', '.join(before.upstream)} -> {', '.join(after.upstream)}")
    if why:
        return Effect(name, "runs", "directly", list(dict.fromkeys(why)))
    if reads := [up for up in after.upstream if not sides.same(up, up)]:
        return Effect(name, "runs", "indirectly", [f"reads {', '.join(reads)}"])
    if trained := list(_trained_on_others(after, sides)):
        return Effect(name, "runs", "indirectly", trained)
    return Effect(name, "runs", "directly", _unwritten(name, sides))


def _same_reads(before: Sequence[str], after: Sequence[str], sides: _Sides) -> bool:
    """Whether `from` names the same steps in the same order, renamed ones taken for what they were."""
    pairs = list(zip(before, after, strict=False))
    return len(before) == len(after) and all(then == now or sides.same(then, now) for then, now in pairs)


def _trained_on_others(step: StepSpec, sides: _Sides) -> Iterator[str]:
    """The rewriters that it asks, of which the rows they learn from changed."""
    for _, model in marked(step.params, "model"):
        rewriter = sides.new.rewriters.get(sides.new.models[model].from_ or "")
        if rewriter is not None and not sides.same(rewriter.data, rewriter.data):
            yield f"model {model} learns from {rewriter.data}"


def _unwritten(name: str, sides: _Sides) -> list[str]:
    """What a step is made of besides what specs say, against the step that the store has."""
    step, row = sides.new.graph[name], sides.stored.get(name)
    found = []
    if row is not None:
        version = catalog.version(step.op, step.params)
        found += [f"{step.op} version {row['version']} -> {version}"] if row["version"] != version else []
        for _, model in marked(step.params, "model"):
            identity = model_identity(sides.new, model, models.identity, sides.new_prints)
            found += [f"weights of model {model}"] if row["models"].get(model, identity) != identity else []
    return found or [f"encoder {each}" for each in encoder_folders(step.params)] or [f"a new version of {step.op}"]


def _asked(spec: Spec, name: str) -> list[Any]:
    """What a model is, and where a rewriter trains it how and from which weights."""
    model = spec.models[name]
    rewriter = spec.rewriters.get(model.from_ or "")
    trained = rewriter and [rewriter.model_dump(mode="json"), spec.model, spec.revision]
    return [models.identity(model), trained]


def _methods(sides: _Sides) -> list[Effect]:
    """Which methods train again: their rows or settings differ. Rows may turn out equal when they are made anew; then
    the training stands all the same."""
    old, new = sides.old.train, sides.new.train
    before = old.methods if old else {}
    found = []
    for name, method in (new.methods if new else {}).items():
        if name not in before or old is None or new is None:
            found.append(Effect(name, "runs", "directly", ["new"]))
            continue
        settings = _changes(before[name].model_dump(mode="json"), method.model_dump(mode="json"), "")
        renamed = sides.same(before[name].data, method.data)
        why = [each.key.removeprefix("params.") for each in settings if each.key != "data"]
        if before[name].data != method.data and not renamed:
            why.append(f"data: {before[name].data} -> {method.data}")
        why += [key for key in ("model", "revision") if getattr(sides.old, key) != getattr(sides.new, key)]
        why += ["tune"] if (old.tune, old.select) != (new.tune, new.select) else []
        why += ["stages"] if old.stages != new.stages else []
        if more := [seed for seed in new.seeds if seed not in old.seeds]:
            why.append(f"seeds {', '.join(map(str, more))}")
        reads = [stage.data for stage in new.stages] or [method.data]
        reads = [each for each in reads if sides.new_prints[each] not in sides.old_prints.values()]
        if why:
            found.append(Effect(name, "runs", "directly", why))
        elif reads:
            found.append(Effect(name, "runs", "indirectly", [f"reads {', '.join(dict.fromkeys(reads))}"]))
        else:
            found.append(Effect(name, "stands", ""))
    return found + [Effect(name, "is gone", "") for name in before if not new or name not in new.methods]
