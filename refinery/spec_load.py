"""From a YAML document to a Spec: the paper's defaults, the parameters of each step, and errors in plain words.

A mistake does not hide the others: the value it stands on is taken out and the rest is checked as if it were not there.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from refinery import catalog
from refinery.errors import did_you_mean
from refinery.problems import SpecErrors
from refinery.spec import SOURCE, Spec
from refinery.spec_messages import EMPTY, choice, explain, has
from refinery.spec_types import OpParams
from refinery.yamlpos import Document, KeyPath

PAPER_GRAPH: dict[str, dict[str, Any]] = {
    "rewritten": {"op": "rewrite", "from": SOURCE},
    "close": {"op": "semantic_filter", "from": "rewritten"},
    "fused": {"op": "fuse", "from": "close"},
}
PAPER_METHODS: dict[str, dict[str, Any]] = {
    "sft_raw": {"method": "sft", "data": SOURCE},
    "sft_refined": {"method": "sft"},
    "raft": {"method": "raft"},
}


@dataclass
class Draft:
    """A spec under construction: what was written, and a Spec in which every mistake found so far is repaired."""

    document: Document
    data: dict[str, Any]
    """What was written, with the defaults for whole sections that were left out."""
    spec: Spec = field(init=False)
    files: bool = True
    """Whether the files of rows that it names must be there."""
    broken: set[KeyPath] = field(default_factory=set)
    """Where a mistake has been reported already, so that nothing more is said of what follows from it."""

    def add(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        """Report a mistake, unless its value could not even be read as YAML, which has been said."""
        if not any(path[: len(unread)] == unread for unread in self.document.unread):
            self.document.add(path, message, key=key)
        self.broken.add(path)

    def follows(self, path: KeyPath, message: str, earlier: set[KeyPath]) -> bool:
        """Was something inside `path` taken out earlier? What is said of the whole then follows from that; so it does
        where the whole is called empty because what it holds is mistaken."""
        inside = self.broken if message == EMPTY else earlier
        return any(len(broken) > len(path) and broken[: len(path)] == path for broken in inside)

    def names(self, *path: str) -> list[str]:
        """The keys that were written under `path`, mistaken ones too."""
        found: Any = self.data
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return list(found) if isinstance(found, dict) else []

    def is_broken(self, *path: str | int) -> bool:
        return any(path[:depth] in self.broken for depth in range(1, len(path) + 1))


def build(document: Document, stem: str) -> Draft:
    """Validate everything that one part of the spec can be judged on alone; problems go to `document`."""
    draft = Draft(document, _with_defaults(document.data, stem))
    data = copy.deepcopy(draft.data)
    steps = _mapping(data, "graph")
    for name, step in steps.items():
        if isinstance(step, dict):
            steps[name] = _split(draft, step, ("graph", name), "op", "from", catalog.OPS, {})
    rewriters = _mapping(data, "rewriters")
    for name, method in rewriters.items():
        if isinstance(method, dict):
            rewriters[name] = _split(draft, method, ("rewriters", name), "method", "data", catalog.METHODS, {})
    train = _mapping(data, "train")
    defaults, methods = _mapping(train, "defaults"), _mapping(train, "methods")
    for name, method in methods.items():
        if isinstance(method, dict):
            place = ("train", "methods", name)
            methods[name] = _split(draft, method, place, "method", "data", catalog.METHODS, defaults)
    _task_files(data.get("evaluate"))
    draft.spec = _validated(draft, data)
    return draft


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _with_defaults(written: dict[str, Any], stem: str) -> dict[str, Any]:
    data = {key: value for key, value in written.items() if value is not None}
    data.setdefault("name", "".join(c if c.isalnum() or c in "_.-" else "_" for c in stem))
    source = data.get("source")
    if isinstance(source, str):
        data["source"] = {"path": source}
    if isinstance(data.get("sources"), dict):
        data["sources"] = {k: {"path": v} if isinstance(v, str) else v for k, v in data["sources"].items()}
    if "source" in data and not {"graph", "train", "evaluate"} & set(written):
        data["graph"] = copy.deepcopy(PAPER_GRAPH)
        data["train"] = {"methods": copy.deepcopy(PAPER_METHODS)}
        data["evaluate"] = {"domain": ["heldout"], "general": _paper_general(data.get("model", "lab"))}
    elif isinstance(data.get("train"), dict) and "methods" not in data["train"]:
        data["train"] = {**data["train"], "methods": copy.deepcopy(PAPER_METHODS)}
    return data


def _paper_general(model: Any) -> list[str]:
    """IFEval, as in the paper; the lab's own skills for the lab's models, which can follow no such instruction."""
    from refinery.lab import MODELS, SKILLS

    return [f"lab_{skill}" for skill in SKILLS] if model in list(MODELS) else ["ifeval"]


def _task_files(evaluate: Any) -> None:
    """{task: file.yaml} among the benchmarks becomes the file's path."""
    for key in ("domain", "general"):
        entries = evaluate.get(key) if isinstance(evaluate, dict) else None
        if isinstance(entries, list):
            evaluate[key] = [e["task"] if isinstance(e, dict) and set(e) == {"task"} else e for e in entries]


def _split(
    draft: Draft,
    written: dict[str, Any],
    path: KeyPath,
    kind: str,
    other: str,
    package: str,
    defaults: dict[str, Any],
) -> dict[str, Any]:
    """A step or method as written, with its own parameters validated and moved under `params`."""
    written = _put_right(draft, written, path, kind, other, package)
    own = {key: value for key, value in written.items() if key not in (kind, other)}
    kept = {key: written[key] for key in (kind, other) if key in written}
    name = written.get(kind)
    if not isinstance(name, str):
        return kept  # the outer model says what is wrong with it
    if name not in catalog.names(package):
        known = catalog.names(package)
        draft.add((*path, kind), f'there is no {kind} "{name}"{did_you_mean(name, known) or choice(known)}')
        return kept
    params = catalog.module(package, name).Params
    shared = {k: v for k, v in defaults.items() if k in params.model_fields and k not in own}
    for key in [k for k in own if k not in params.model_fields]:
        known = [kind, other, *params.model_fields]
        draft.add((*path, key), f'{kind} {name} has no "{key}"{did_you_mean(key, known) or choice(known)}', key=True)
        del own[key]
    places = {key: ("train", "defaults") for key in shared}
    return {**kept, "params": validated_params(draft, params, {**own, **shared}, path, places)}


def _put_right(
    draft: Draft, written: dict[str, Any], path: KeyPath, kind: str, other: str, package: str
) -> dict[str, Any]:
    """Where `kind` (or a step's `from`) is missing and another key stands for it, that key is reported and taken for
    it: its word is close, or its value is what belongs there."""
    known = catalog.names(package)
    if kind not in written:
        own = {other, *(field for name in known for field in catalog.module(package, name).Params.model_fields)}
        for key, value in written.items():
            if key not in own and isinstance(value, str) and (value in known or _close(key, kind)):
                return _put_right(draft, _renamed(draft, written, path, key, kind), path, kind, other, package)
    elif other == "from" and other not in written and written[kind] in known:
        own = {kind, *catalog.module(package, written[kind]).Params.model_fields}
        steps = {SOURCE, *draft.names("sources"), *draft.names("graph")}
        for key, value in written.items():
            values = value if isinstance(value, list) else [value]
            named = bool(values) and all(isinstance(each, str) and each in steps for each in values)
            if key not in own and (named or _close(key, other)):
                return _renamed(draft, written, path, key, other)
    return written


def _close(key: Any, word: str) -> bool:
    return str(key).lower().startswith(word) or bool(did_you_mean(str(key).lower(), [word]))


def _renamed(draft: Draft, written: dict[str, Any], path: KeyPath, key: str, word: str) -> dict[str, Any]:
    draft.add((*path, key), f'unknown key "{key}" (did you mean "{word}"?)', key=True)
    return {word if each == key else each: value for each, value in written.items()}


def validated_params(
    draft: Draft, model: type[BaseModel], values: dict[str, Any], path: KeyPath, places: Mapping[str, KeyPath]
) -> BaseModel:
    """`values` as the op's Params. Each mistake is reported and its value left out; at worst empty OpParams."""
    values = copy.deepcopy(values)
    for _ in range(8):
        earlier = set(draft.broken)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            written = {**values}
            for parts, message, at_key in explain(error.errors(), written, model):
                where = (*places.get(str(parts[0]) if parts else "", path), *parts)
                if not draft.follows(where, message, earlier):
                    draft.add(where, message, key=at_key)
                _remove(values, parts)
            if any(e["type"] == "missing" and len(e["loc"]) == 1 for e in error.errors()):
                return OpParams()
    return OpParams()


def _validated(draft: Draft, data: dict[str, Any]) -> Spec:
    if "source" not in data and (not data.get("checkpoints") or data.get("graph") or data.get("train")):
        draft.add((), '"source" is missing', key=True)
        _repair(data, ("source",))
    for _ in range(8):
        earlier = set(draft.broken)
        try:
            return Spec.model_validate(data)
        except ValidationError as error:
            for path, message, at_key in explain(error.errors(), data, Spec):
                if not draft.follows(path, message, earlier):
                    draft.add(path, message, key=at_key)
                _repair(data, path)
    raise SpecErrors(draft.document.problems)


def _repair(data: dict[str, Any], path: KeyPath) -> None:
    """Take a mistaken value out; where the rest cannot do without it, put something harmless in its place."""
    match path:
        case ("name",):
            data["name"] = "spec"
        case ("source",) | ("source", "lab" | "path" | "hub" | "sql", *_):
            data["source"] = {"lab": "clinic"}
        case ("sources", name) | ("sources", name, "lab" | "path" | "hub" | "sql", *_) if has(
            data.get("sources"), name
        ):
            data["sources"][name] = {"lab": "clinic"}
        case ("graph", step, "from", *_) if has(data.get("graph"), step):
            data["graph"][step]["from"] = SOURCE
        case ("graph", step, "op"):
            _remove(data, ("graph", step))
        case ("rewriters", rewriter, *_) if has(data.get("rewriters"), rewriter):
            _remove(data, ("rewriters", rewriter))
        case ("train", "methods", method, *_):
            _remove(data, ("train", "methods", method))
            if has(data, "train") and not data["train"].get("methods"):
                del data["train"]
        case ("train", "methods"):
            _remove(data, ("train",))
        case _:
            _remove(data, path)


def _remove(data: Any, path: KeyPath) -> None:
    for part in path[:-1]:
        data = data[part] if has(data, part) else None
    if path and has(data, path[-1]):
        del data[path[-1]]
