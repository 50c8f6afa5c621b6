"""What differs between two specs, and what that makes run again. Asks no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any, Literal

from refinery import models
from refinery.spec import Spec, fingerprints, order
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
    """A step that runs, directly: by its own op, parameters, models or the seed; indirectly: by what it reads alone."""
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


def difference(old: Spec, new: Spec, old_prints: Mapping[str, str], new_sources: Mapping[str, str]) -> Difference:
    """`old_prints`: fingerprint of every step and source of the old spec; `new_sources`: of the new spec's sources."""
    new_prints = {**new_sources, **fingerprints(new, models.identity, dict(new_sources))}
    steps = [*(_source(name, old_prints, new_prints) for name in new_sources)]
    steps += [_step(name, old, new, old_prints, new_prints) for name in order(new)]
    steps += [Effect(name, "is gone", "") for name in old.graph if name not in new.graph]
    return Difference(changes(old, new), steps, _methods(old, new, old_prints, new_prints))


def prints(spec: Spec, sources: Mapping[str, str]) -> dict[str, str]:
    return {**sources, **fingerprints(spec, models.identity, dict(sources))}


def _source(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> Effect:
    if new[name] in old.values():
        return Effect(name, "stands", "")
    return Effect(name, "runs", "directly", ["its rows changed" if name in old else "new"])


def _step(name: str, old: Spec, new: Spec, old_prints: Mapping[str, str], new_prints: Mapping[str, str]) -> Effect:
    if new_prints[name] in old_prints.values():
        former = next(each for each, found in old_prints.items() if found == new_prints[name])
        same = old_prints.get(name) == new_prints[name]
        return Effect(name, "stands", "", [] if same else [f"as {former}, under another name"])
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
    if why:
        return Effect(name, "runs", "directly", list(dict.fromkeys(why)))
    reads = [up for up in after.upstream if new_prints[up] not in old_prints.values()]
    reads = reads or [up for up in after.upstream if up not in before.upstream]
    if not reads:
        return Effect(name, "runs", "directly", [f"a new version of {after.op}"])
    return Effect(name, "runs", "indirectly", [f"reads {', '.join(reads)}"])


def _asked(spec: Spec, name: str) -> list[Any]:
    """What a model is, and where a rewriter trains it how."""
    model = spec.models[name]
    rewriter = spec.rewriters.get(model.from_ or "")
    return [models.identity(model), rewriter and rewriter.model_dump(mode="json")]


def _methods(old: Spec, new: Spec, old_prints: Mapping[str, str], new_prints: Mapping[str, str]) -> list[Effect]:
    """Which methods train again: their rows or settings differ. Rows may turn out equal when they are made anew; then
    the training stands all the same."""
    before = old.train.methods if old.train else {}
    found = []
    for name, method in (new.train.methods if new.train else {}).items():
        if name not in before:
            found.append(Effect(name, "runs", "directly", ["new"]))
            continue
        settings = _changes(before[name].model_dump(mode="json"), method.model_dump(mode="json"), "")
        why = [change.key.removeprefix("params.") for change in settings]
        why += [key for key in ("model", "revision") if getattr(old, key) != getattr(new, key)]
        if old.train and new.train and (old.train.tune, old.train.select) != (new.train.tune, new.train.select):
            why.append("tune")
        if old.train and new.train and (more := [s for s in new.train.seeds if s not in old.train.seeds]):
            why.append(f"seeds {', '.join(map(str, more))}")
        if why:
            found.append(Effect(name, "runs", "directly", why))
        elif new_prints[method.data] != old_prints.get(method.data):
            found.append(Effect(name, "runs", "indirectly", [f"reads {method.data}"]))
        else:
            found.append(Effect(name, "stands", ""))
    return found + [Effect(name, "is gone", "") for name in before if not new.train or name not in new.train.methods]
