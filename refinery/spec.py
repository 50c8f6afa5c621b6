"""The spec: one YAML file, checked as a whole, ordered and fingerprinted. Needs no model, no store and no data read.

`load_spec` reports every mistake at once, each with its place in the file (`SpecErrors`). A spec that names neither
graph, train nor evaluate gets all three as the paper has them; one that names any of them gets only what it names.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, model_validator

from refinery import catalog, matrix, yamlpos
from refinery.matrix import Point
from refinery.problems import Place, Problem, SpecErrors
from refinery.records import digest
from refinery.spec_models import (
    EvaluateSpec,
    GateSpec,
    HubSource,
    LimitsSpec,
    MethodSpec,
    ModelSpec,
    Name,
    ReportSpec,
    Section,
    SelectSpec,
    SourceSpec,
    SplitSpec,
    SqlSource,
    StageSpec,
    StepSpec,
    TrainSpec,
)
from refinery.spec_types import added_later, marked

SOURCE = "source"
"""What `from:` and `data:` call the rows as they were read."""


class Spec(Section):
    """A checked spec: every default is filled in, and what it names exists."""

    name: Name = ""
    """The YAML file's name where it is left out; runs are kept under it."""
    seed: int = 0
    model: str = "lab"
    """The base model that is trained and judged: a shipped one ("lab", "lab-small", "lab-large"), a hub id or a
    folder."""
    revision: str | None = None
    trust_remote_code: bool = False
    models: dict[Name, ModelSpec] = Field(default_factory=dict)
    """Who writes text. "self", the base model in this process, is there unless it is given."""
    rewriters: dict[Name, MethodSpec] = Field(default_factory=dict)
    """Models that are trained to write data for this one (methods dart and rewriting_agent), beginning at its weights,
    on the train rows of a step or source. Steps ask one by its name, as any other under `models`, and run after it is
    trained; `plan` says which those are."""
    source: SourceSpec | None = None
    """The rows that steps refine and methods train on. Only a spec that evaluates `checkpoints` can do without."""
    sources: dict[Name, SourceSpec] = Field(default_factory=dict)
    """Further data sets, by the names under which steps read them: general data to mix in, test items to keep out.
    All of their rows are for training unless they say how to split."""
    graph: dict[Name, StepSpec] = Field(default_factory=dict)
    train: TrainSpec | None = None
    checkpoints: dict[Name, list[str]] = Field(default_factory=dict)
    """Weights trained elsewhere from `model`, to be evaluated and compared like a method of `train`: by name, the
    folder (or hub id) of each seed's full weights or LoRA adapter; models.NAME is one that is served, as `models` has
    it."""
    evaluate: EvaluateSpec | None = None
    report: ReportSpec = Field(default_factory=ReportSpec)
    limits: LimitsSpec = Field(default_factory=LimitsSpec)
    matrix: dict[str, list[Any]] = Field(default_factory=dict)
    """Keys of the spec (model, source, graph.close.min_cosine, methods.raft.temperature, ...) to lists of values: every
    combination is refined, trained and evaluated on the same store, and what they share is done once."""
    store: str = "runs/{name}/refinery.duckdb"
    """The database, relative to the current folder; checkpoints stand beside it."""

    _home: Path | None = PrivateAttr(None)
    """Where checkpoints are, in a preview, whose store is elsewhere."""
    _points: list[Point] = PrivateAttr(default_factory=list)
    _point: Point | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _fill(self) -> "Spec":
        """Defaults that depend on another part."""
        self.models = {"self": self.models.get("self", ModelSpec()), **self.models}
        for name, rewriter in self.rewriters.items():
            rewriter.data = rewriter.data or SOURCE
            self.models.setdefault(name, ModelSpec.model_validate({"from": name}))
        for model in self.models.values():
            if not model.model:
                model.model = self.model
                model.revision = model.revision or self.revision
                model.trust_remote_code = model.trust_remote_code or self.trust_remote_code
        for source in self.all_sources.values():
            if source is not self.source and "split" not in source.model_fields_set:
                source.split = SplitSpec(train=1.0)
            if source.split.seed is None:
                source.split.seed = self.seed
        if self.train:
            self.train.data = self.train.data or (list(self.graph)[-1] if self.graph else SOURCE)
            for method in self.train.methods.values():
                method.data = method.data or self.train.data
        self.report.baseline = self.report.baseline or next(iter(self.compared), None)
        self.store = self.store.replace("{name}", self.name)
        return self

    @property
    def store_path(self) -> Path:
        return Path(self.store)

    @property
    def weights_folder(self) -> Path:
        """The folder of all weights that are trained."""
        return (self._home or self.store_path.parent) / "checkpoints"

    @property
    def compared(self) -> list[str]:
        """Names of what stands beside the base: methods, then weights trained elsewhere."""
        return [*(self.train.methods if self.train else ()), *self.checkpoints]

    @property
    def all_sources(self) -> dict[str, SourceSpec]:
        """By the names that `from:` and `data:` call them; the main one first."""
        return {**({SOURCE: self.source} if self.source else {}), **self.sources}

    @property
    def points(self) -> list[Point]:
        """What the matrix makes of this spec, in its order; this spec alone where there is none."""
        return self._points or [self.point]

    @property
    def point(self) -> Point:
        """Which of a matrix this spec is; its keys are empty where it is of none."""
        return self._point or Point({}, self)

    def public(self) -> dict[str, Any]:
        """The whole spec as plain data in the shape of its YAML, defaults filled in, without secrets."""
        data = self.model_dump(mode="json", by_alias=True)
        for key in ("sources", "matrix", "rewriters"):
            if not data[key]:
                del data[key]
        if self.train and not self.train.stages:
            del data["train"]["stages"]
        if self.train and self.train.gate == GateSpec():
            del data["train"]["gate"]
        for model in data["models"].values():
            if model["from"] is None:
                del model["from"]
        for part in (data["graph"], data.get("rewriters", {}), (data["train"] or {}).get("methods", {})):
            for entry in part.values():
                entry.update(entry.pop("params"))
        return data


def load_spec(path: Path | str, overrides: Sequence[str] = (), *, files: bool = True) -> Spec:
    """The spec of a YAML file, with `key.path=value` overrides put over it.

    Of a spec with a matrix it is the first point's, with the others under `points`. Without `files`
    its files of rows need not be there: for who reads the store alone. Raises SpecErrors with every
    mistake, and UserError where the file cannot be read.
    """
    from refinery import spec_checks, spec_stage_checks
    from refinery.spec_load import build

    path = Path(path)
    document = yamlpos.read(path)
    if document.data is None and not document.problems:
        document.problems.append(Problem(Place(str(path), 1, 1, ""), "the file is empty; a spec needs a source"))
    elif document.data is not None and not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else "a single value"
        document.add((), f"a spec is a mapping (key: value), this is {kind}")
    if not isinstance(document.data, dict):
        raise SpecErrors(document.problems)
    yamlpos.override(document, overrides)
    found: list[Point] = []
    whole = document.data.get(matrix.KEY) is None
    for keys, one in [({}, document)] if whole else matrix.documents(document):
        draft = build(one, path.stem)
        draft.files = files
        spec_stage_checks.check(draft, spec_checks.check(draft))
        if one is not document:
            document.problems += one.problems
        found.append(Point(keys, draft.spec))
    if document.problems:
        raise SpecErrors(document.problems)
    return found[0].spec if whole else _varied(document.data[matrix.KEY], found)


def _varied(keys: dict[str, list[Any]], points: list[Point]) -> Spec:
    """The first point's spec, which knows all of them; and each of them what it is."""
    for point in points:
        point.spec._point = point
    spec = points[0].spec.model_copy(update={"matrix": keys})
    spec._points, spec._point = points, None
    return spec


def needs(spec: Spec, step: StepSpec) -> list[str]:
    """What must stand before a step runs: what it reads, and what the rewriters that it asks learn from."""
    asked = (spec.models[name].from_ for _, name in marked(step.params, "model") if name in spec.models)
    return [*step.upstream, *(spec.rewriters[name].data for name in asked if name in spec.rewriters)]


def order(spec: Spec) -> list[str]:
    """The steps, each after everything it needs; otherwise as written. ValueError for a cycle."""
    done: list[str] = []
    waiting = dict(spec.graph)
    while waiting:
        known = {*spec.all_sources, *done}
        ready = next((n for n, s in waiting.items() if known.issuperset(needs(spec, s))), None)
        if ready is None:
            raise ValueError(f"a cycle, or an unknown step, among {', '.join(waiting)}")
        done.append(ready)
        del waiting[ready]
    return done


def fingerprints(spec: Spec, identity: Callable[[ModelSpec], str], sources: str | Mapping[str, str]) -> dict[str, str]:
    """Step name to the digest of everything that shapes its rows; sources have theirs from `sources` (a text is that
    of the main one).

    That is the op and its VERSION, its parameters with every default, the identity of each model it names (not the
    name, nor an address), the seed, and the fingerprints it reads from. A step's own name is not part of it.
    """
    known: dict[str, str] = {}
    found = {SOURCE: sources} if isinstance(sources, str) else dict(sources)
    for name in order(spec):
        step = spec.graph[name]
        params = step.params.model_dump(mode="json", exclude=added_later(step.params))
        for path, model in marked(step.params, "model"):
            if model not in known:
                known[model] = model_identity(spec, model, identity, found)
            _put(params, path, known[model])
        for path, encoder in marked(step.params, "encoder"):
            if Path(encoder).is_dir():  # a name stands for the same weights, a folder for what is in it
                _put(params, path, identity(ModelSpec(model=encoder)))
        found[name] = digest(
            {
                "op": step.op,
                "version": catalog.version(step.op, step.params),
                "params": params,
                "seed": spec.seed,
                "upstream": [found[upstream] for upstream in step.upstream],
            }
        )
    return found


def rewriter_identity(spec: Spec, name: str, identity: Callable[[ModelSpec], str], steps: Mapping[str, str]) -> str:
    """Digest of everything that shapes a rewriter's weights, known before it is trained: method, parameters, seed, the
    weights it begins at, and the step it learns from, of which `steps` has the fingerprint."""
    rewriter = spec.rewriters[name]
    method = catalog.module(catalog.METHODS, rewriter.method)
    params: Any = rewriter.params
    shaping = {
        "method": rewriter.method,
        "version": method.VERSION,
        "params": params.shaping(),
        "seed": spec.seed,
        "base": identity(ModelSpec(model=spec.model, revision=spec.revision)),
        "data": steps[rewriter.data],
    }
    return f"rewriter:{digest(shaping)}"


def model_identity(spec: Spec, name: str, identity: Callable[[ModelSpec], str], steps: Mapping[str, str]) -> str:
    """What a model of the spec is asked as: `identity` of its entry, and of a rewriter also what its weights are."""
    model = spec.models[name]
    if model.from_ is None:
        return identity(model)
    entry = identity(model.model_copy(update={"from_": None}))
    return f"{rewriter_identity(spec, model.from_, identity, steps)}+{digest(entry, 8)}"


def _put(data: Any, path: Sequence[str | int], value: str) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value


__all__ = [
    "SOURCE",
    "EvaluateSpec",
    "GateSpec",
    "HubSource",
    "LimitsSpec",
    "MethodSpec",
    "ModelSpec",
    "ReportSpec",
    "SelectSpec",
    "SourceSpec",
    "Spec",
    "SpecErrors",
    "SplitSpec",
    "SqlSource",
    "StageSpec",
    "StepSpec",
    "TrainSpec",
    "fingerprints",
    "load_spec",
    "model_identity",
    "needs",
    "order",
    "rewriter_identity",
]
