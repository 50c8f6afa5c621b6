"""Evaluations made elsewhere, into the store: lm-eval result folders and inspect_ai logs.

An imported model is a checkpoint of role "imported" without weights. Its scores carry the settings that the tool wrote
down, in the words of evals/fingerprints.py where they mean the same; what it did not write down is UNKNOWN, and
evals/comparable.py says what that forbids.
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.comparable import grouped
from refinery.errors import UserError
from refinery.records import Sample, Score, digest
from refinery.store import Store

ROLE = "imported"


@dataclass(frozen=True)
class Evaluation:
    """One model on one benchmark, as one file has it. Rows stand under the checkpoint ""."""

    model: str
    about: dict[str, Any]
    """What is known of the model: arguments, revision, digest."""
    benchmark: str
    when: str
    """Sorts as time does: of two of one model and benchmark, the later counts."""
    file: str
    scores: list[Score]
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    """About this benchmark, without its name."""


@dataclass(frozen=True)
class Imported:
    """What an import wrote: one model."""

    name: str
    model: str
    checkpoint: str
    scores: list[Score]
    n_samples: int
    notes: list[str]


def read(path: Path) -> list[Evaluation]:
    """Every evaluation in a file or folder; of equal ones the latest. UserError where there is none, or one cannot be
    read."""
    from evals import logs_inspect, logs_lm_eval

    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found: list[Evaluation] = []
    for file in _files(path):
        found += logs_inspect.read(file) if logs_inspect.is_log(file) else logs_lm_eval.read(file)
    if not found:
        raise UserError(f"{path}: holds neither results_*.json of lm-eval nor .eval or .json logs of inspect_ai")
    latest: dict[tuple[str, str], Evaluation] = {}
    for each in sorted(found, key=lambda each: each.when):
        before = latest.get((each.model, each.benchmark))
        notes = [*each.notes, f"{before.file} is older and was left out"] if before else each.notes
        latest[each.model, each.benchmark] = replace(each, notes=notes)
    return list(latest.values())


def _files(path: Path) -> list[Path]:
    """In a folder, what begins as either tool's files do; other JSON, such as a checkpoint's, is passed by."""
    from evals import logs_inspect, logs_lm_eval

    if path.is_file():
        return [path]
    there = sorted([*path.rglob("*.json"), *path.rglob("*.eval")])
    return [file for file in there if logs_lm_eval.is_results(file) or logs_inspect.is_log(file)]


def write(store: Store, found: Sequence[Evaluation], name: str = "", seed: int | None = None) -> list[Imported]:
    """Store the evaluations, a model each. `name`: what to call it, where there is but one model; `seed`: several
    imports of one name with a seed each are the runs of one method. What stood under that name and seed stays, but for
    the benchmarks that are imported again."""
    models = list(dict.fromkeys(each.model for each in found))
    if name and len(models) > 1:
        raise UserError(f"--name is for one model, but there are {len(models)}: {', '.join(models)}")
    taken = {row["name"] for row in store.checkpoints() if row["role"] != ROLE}
    written = []
    for model in models:
        own = [each for each in found if each.model == model]
        called = name or short_name(model)
        if called in taken:
            raise UserError(f"{store.path.name} has a checkpoint of its own called {called}: choose another --name")
        written.append(_write_one(store, own, called, seed))
    return written


def _write_one(store: Store, own: Sequence[Evaluation], name: str, seed: int | None) -> Imported:
    model, about = own[0].model, own[0].about
    checkpoint = digest([ROLE, name, seed])
    params = {"model": model, **about, "seeded": seed is not None}
    before = store.checkpoint(checkpoint)
    if before and before["params"].get("model") != model:
        raise UserError(f"{name} is {before['params'].get('model')} in {store.path.name}, not {model}: choose a --name")
    store.start_checkpoint(checkpoint, "", name, "", params, seed or 0, "", "", own[0].file, ROLE)
    scores = [replace(score, checkpoint=checkpoint) for each in own for score in each.scores]
    samples = [replace(sample, checkpoint=checkpoint) for each in own for sample in each.samples]
    store.add_samples(samples)
    store.add_scores(scores)
    store.finish_checkpoint(checkpoint, {"files": sorted({each.file for each in own}), **params})
    notes = grouped((each.benchmark, note) for each in own for note in each.notes)
    return Imported(name, model, checkpoint, scores, len(samples), notes)


def short_name(model: str) -> str:
    """A model's path or hub id as a name that the command line takes."""
    tail = model.rstrip("/").rpartition("/")[2] or model
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", tail).strip("_.-") or "imported"


def beginning(path: Path, size: int = 400) -> str:
    """Of a text file, without white space."""
    with path.open("rb") as file:
        return "".join(file.read(size).decode("utf-8", "replace").split())


def json_of(path: Path) -> Any:
    """UserError where it is no JSON."""
    import orjson

    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        pass
    import json

    try:
        return json.loads(path.read_text("utf-8"))  # takes NaN, which other tools write
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: no JSON ({error})") from error


def members(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: no inspect_ai log ({error})") from error
