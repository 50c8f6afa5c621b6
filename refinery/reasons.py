"""Why a step of the store does not stand any more: what of it differs from the last step that had its name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from refinery import catalog
from refinery.spec import Spec
from refinery.spec_types import added_later, marked
from refinery.steps import Step, lost, recorded, tally
from refinery.store import Row, Store

SHORT = 24
"""Characters to which a changed value is cut where it is named."""


def why_source(name: str, spec: Spec, store: Store) -> list[str]:
    last = store.last_step(name)
    if last is None:
        return ["new"]
    return changed_keys(last["params"], spec.all_sources[name].model_dump(mode="json")) or ["its rows changed"]


def why_step(step: Step, store: Store, running: Sequence[str]) -> list[str]:
    """`running`: the steps it reads that will run before it. A step that was never made is "new", under whatever name
    the same rows stood before."""
    same = store.step(step.fingerprint)
    if same is not None:
        return _unfinished(step, same, store, running)
    last = store.last_step(step.name)
    return _differing(step, last, store) if last is not None else ["new"]


def _unfinished(step: Step, same: Row, store: Store, running: Sequence[str]) -> list[str]:
    """Nothing of the step changed, but not all of its rows are there."""
    known = tally(store, step.fingerprint)
    if known.transient:
        return [f"{known.transient} rows to retry"]
    if same["status"] != "complete":
        return [f"interrupted: {known.rows} rows are done" if known.rows else "interrupted"]
    if files := lost(step):
        return files
    return [f"upstream {', '.join(running)} runs"] if running else [f"other rows of {', '.join(step.upstream)}"]


def _differing(step: Step, last: Row, store: Store) -> list[str]:
    why = []
    if last["op"] != step.op:
        why.append(f"op: {last['op']} -> {step.op}")
    else:
        if last["version"] != (version := catalog.version(step.op, step.params)):
            why.append(f"{step.op} version {last['version']} -> {version}")
        unknown_then = added_later(step.params) - set(last["params"])
        new = {key: value for key, value in recorded(step).items() if key not in unknown_then}
        why += changed_keys(last["params"], new)
    why += [
        f"model {name} changed"
        for name, identity in step.models.items()
        if last["models"].get(name, identity) != identity
    ]
    why += _reads(step, last, store)
    return why or [
        " or ".join(["seed", *(f"encoder {folder}" for folder in encoder_folders(step.params))]) + " changed"
    ]


def _reads(step: Step, last: Row, store: Store) -> list[str]:
    """That `from` names other steps, and which of the steps that it still names are not what they were."""
    if list(last["upstream"]) == step.reads:
        return []
    called = [_names(store, fingerprint) for fingerprint in last["upstream"]]
    changed = dict(zip(step.upstream, step.reads, strict=True))
    still = [name for name, names in zip(step.upstream, called, strict=False) if name in names]
    if still == step.upstream and len(called) == len(still):
        gone = [name for name in still if changed[name] not in last["upstream"]]
        return [f"upstream {', '.join(gone or still)} changed"]
    before = ", ".join(next(iter(names), "a step that is gone") for names in called)
    why = [f"from: {before} -> {', '.join(step.upstream)}"]
    then = {name for names in called for name in names}
    both = [name for name, fingerprint in changed.items() if name in then and fingerprint not in last["upstream"]]
    return why + ([f"upstream {', '.join(both)} changed"] if both else [])


def _names(store: Store, fingerprint: str) -> list[str]:
    """What a stored step was ever called that the store still knows: as it was made, then as the last run had it."""
    made = store.query("SELECT name FROM steps WHERE fingerprint = ?", [fingerprint])
    later = store.query("SELECT name FROM names WHERE step = ? ORDER BY name", [fingerprint])
    return list(dict.fromkeys(row["name"] for row in [*made, *later]))


def encoder_folders(params: BaseModel) -> list[str]:
    """The encoders that a step names by folder: what is in one shapes the step, and the store knows only its name."""
    return [encoder for _, encoder in marked(params, "encoder") if Path(encoder).is_dir()]


def changed_keys(old: Row, new: Row) -> list[str]:
    """ "key: old -> new" of each that differs, and "key changed" where the two look alike at that length."""
    return [_said(*each) for each in _leaves(old, new, "")]


def _leaves(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*new, *old]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _leaves(before, after, f"{path}{key}.")
        elif before != after:
            yield f"{path}{key}", before, after


def _said(key: str, old: Any, new: Any) -> str:
    before, after = _short(old), _short(new)
    return f"{key} changed" if before == after else f"{key}: {before} -> {after}"


def _short(value: Any) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."
