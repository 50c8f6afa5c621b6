"""`matrix:` in a spec: every combination of its values, each a spec of its own on the same store.

    matrix:
      model: [lab, ./other]
      source: [clinic, {lab: workshop}]      # a name under sources:, or what stands under source:
      methods.raft.temperature: [1, 1.5]     # any key of the spec by its path; methods. is train.methods.

gives 2 x 2 x 2 points. What points have in common is done once: refined steps and trainings go by their fingerprints.
A mistake in a value is reported at its place in the matrix.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refinery.errors import did_you_mean
from refinery.records import digest
from refinery.yamlpos import Document, KeyPath

if TYPE_CHECKING:
    from refinery.spec import Spec

KEY = "matrix"
ROOTS = ("model", "revision", "source", "seed", "models", "graph", "methods", "train")
"""What a matrix may vary; evaluation and report stay the same, so that points can be compared."""
MOST = 1000
"""Points of one matrix: more is a slip of the pen."""


@dataclass(frozen=True)
class Point:
    """One combination."""

    keys: dict[str, Any]
    """Key to value, as the matrix writes them; empty where there is no matrix."""
    spec: "Spec"

    @property
    def id(self) -> str:
        return point_id(self.keys)

    @property
    def label(self) -> str:
        """ "model=lab source=clinic"; empty where there is no matrix."""
        return " ".join(f"{key.removeprefix('methods.')}={shown(value)}" for key, value in self.keys.items())

    @property
    def folder(self) -> str:
        """A folder's name for it: the label, in letters that every file system takes."""
        return "".join(c if c.isalnum() or c in "._=-" else "_" for c in self.label)[:100] + f"_{self.id[:6]}"


def point_id(keys: dict[str, Any]) -> str:
    return digest(keys) if keys else ""


def shown(value: Any) -> str:
    """A value in a label: of a source where its rows come from, else as it is."""
    if isinstance(value, dict):
        found = next((value[kind] for kind in ("lab", "path", "hub", "id") if kind in value), None)
        return shown(found) if found is not None else digest(value)[:8]
    return Path(value).stem if isinstance(value, str) and "." in value and "/" in value else str(value)


def documents(document: Document) -> Iterator[tuple[dict[str, Any], Document]]:
    """The keys of each point and the document as if they stood in it, without the matrix. Nothing where the matrix
    itself is mistaken, which is reported."""
    matrix = document.data[KEY]
    if not _sound(document, matrix):
        return
    for places in itertools.product(*(range(len(values)) for values in matrix.values())):
        keys = {key: matrix[key][place] for key, place in zip(matrix, places, strict=True)}
        data = {key: value for key, value in copy.deepcopy(document.data).items() if key != KEY}
        one = replace(document, data=data, problems=[], unread=set(document.unread))
        one.values, one.keys, one.written = dict(document.values), dict(document.keys), dict(document.written)
        for key, place in zip(matrix, places, strict=True):
            _put(one, key, copy.deepcopy(matrix[key][place]), (KEY, key, place))
        yield keys, one


def _sound(document: Document, matrix: Any) -> bool:
    before = len(document.problems)
    if not isinstance(matrix, dict) or not matrix:
        document.add((KEY,), "a matrix is a mapping of keys to lists of values")
        return False
    points = 1
    for key, values in matrix.items():
        root = str(key).split(".")[0]
        if root not in ROOTS:
            hint = did_you_mean(root, ROOTS) or f"; it varies {', '.join(ROOTS)}"
            document.add((KEY, key), f'a matrix does not vary "{root}"{hint}', key=True)
        if not isinstance(values, list) or not values:
            document.add((KEY, key), "a list of values, and not an empty one")
            continue
        if len({digest(value) for value in values}) < len(values):
            document.add((KEY, key), "the same value is there twice")
        points *= len(values)
    if points > MOST:
        document.add((KEY,), f"{points:,} points; more than {MOST:,} are refused")
    return len(document.problems) == before


def path_of(key: str) -> KeyPath:
    """Where in the spec a key of the matrix stands."""
    parts: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    return ("train", *parts) if parts[0] == "methods" else parts


def _put(document: Document, key: str, value: Any, written: KeyPath) -> None:
    """The value at the key's path, its places those of the matrix."""
    path = path_of(key)
    if path == ("source",) and isinstance(value, str) and value in (document.data.get("sources") or {}):
        value = copy.deepcopy(document.data["sources"][value])
    target: Any = document.data
    for number, part in enumerate(path[:-1]):
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        there = not isinstance(target, list) or (isinstance(part, int) and part < len(target))
        target = target[part] if there else None
        if not isinstance(target, dict | list):
            where = ".".join(map(str, path[: number + 1]))
            return document.add(written, f'"{where}" holds no keys, so a matrix cannot set "{key}"')
    if isinstance(target, list) and not (isinstance(path[-1], int) and path[-1] < len(target)):
        return document.add(written, f'the list has no item "{path[-1]}"')
    target[path[-1]] = value
    known: tuple[dict[KeyPath, Any], ...] = (document.values, document.keys, document.written)
    for places in known:
        for stale in [p for p in places if p[: len(path)] == path]:
            del places[stale]
        places.update(
            {(*path, *p[len(written) :]): at for p, at in list(places.items()) if p[: len(written)] == written}
        )
    place = document.place(written)
    document.keys[path] = document.values[path] = place
    for depth in range(1, len(path)):
        document.keys.setdefault(path[:depth], place)
