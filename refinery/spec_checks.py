"""What one part of a spec asks of another: names that exist, no cycles, templates over columns that are there."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from refinery import catalog, readers, sources, taskfiles, templates
from refinery.errors import UserError, did_you_mean
from refinery.spec import SOURCE, needs
from refinery.spec_load import Draft
from refinery.spec_messages import choice, explain
from refinery.spec_models import EvaluateSpec, ModelSpec, SourceSpec
from refinery.spec_types import marked
from refinery.yamlpos import KeyPath

EXAMPLE_FIELDS = ("question", "answer", "response", "id")
"""What a step's template may name besides the source's columns (records.Example.fields) and the op's VARIABLES."""
ENCODERS = ("all-MiniLM-L6-v2",)


def check(draft: Draft) -> None:
    """Add a problem to the draft's document for everything that is wrong between its parts."""
    _names(draft)
    _models(draft)
    columns = {SOURCE: _source(draft, ("source",), draft.spec.source) if draft.spec.source else None}
    _checkpoints(draft)
    for name, source in draft.spec.sources.items():
        columns[name] = _source(draft, ("sources", name), source)
    _graph(draft)
    for name, step in draft.spec.graph.items():
        if not draft.is_broken("graph", name, "op"):
            variables = getattr(catalog.module(catalog.OPS, step.op), "VARIABLES", ())
            known = _columns(draft, step.upstream, columns)
            _params(draft, ("graph", name), f"op {step.op}", step.params, known, variables)
    _rewriters(draft, columns)
    if draft.spec.train:
        _train(draft, columns)
    if draft.spec.evaluate:
        _evaluate(draft)
    _report(draft)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f'there is no {what} "{name}"{did_you_mean(name, known) or choice(known)}'


def _names(draft: Draft) -> None:
    if SOURCE in draft.names("graph"):
        draft.add(
            ("graph", SOURCE), f'a step cannot be called "{SOURCE}": that is the rows as they were read', key=True
        )
    for name in draft.names("sources"):
        if name in (SOURCE, *draft.names("graph")):
            draft.add(("sources", name), f'"{name}" is the name of a step or of the main source already', key=True)
    if left := re.search(r"\{[^}]*\}?", draft.spec.store):
        draft.add(("store",), f"only {{name}} is filled in here, not {left.group()}")


# -- models -----------------------------------------------------------------------------------------------------------


def _models(draft: Draft) -> None:
    _base_model(draft, ("model",), draft.spec.model)
    for name, model in draft.spec.models.items():
        path: KeyPath = ("models", name)
        if not draft.is_broken(*path):
            _model(draft, path, model)


def _base_model(draft: Draft, path: KeyPath, model: str) -> None:
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        draft.add(path, f"there is no folder {model}")
    elif "/" not in model and model != "lab" and not Path(model).exists() and (hint := did_you_mean(model, ["lab"])):
        draft.add(path, f'there is no model "{model}"{hint}')


def _model(draft: Draft, path: KeyPath, model: ModelSpec) -> None:
    if model.from_ is not None:
        _trained(draft, path, model)
    if model.backend != "openai":
        for key in ("base_url", "base_urls"):
            if getattr(model, key):
                draft.add((*path, key), "an address goes with backend: openai", key=True)
        if model.model != draft.spec.model:
            _base_model(draft, (*path, "model"), model.model)
    elif not model.urls and not draft.is_broken(*path, "base_url") and not draft.is_broken(*path, "base_urls"):
        draft.add(path, 'backend openai needs "base_url", for example http://localhost:8000/v1', key=True)
    addresses: list[tuple[KeyPath, str | None]] = [((*path, "base_url"), model.base_url)]
    addresses += [((*path, "base_urls", number), url) for number, url in enumerate(model.base_urls)]
    for where, address in addresses if model.backend == "openai" else ():
        if address is not None and not address.startswith(("http://", "https://")):
            draft.add(where, "an address begins with http:// or https://")
    for key, message in _misplaced(model):
        if getattr(model, key) != type(model).model_fields[key].get_default(call_default_factory=True):
            draft.add((*path, key), message, key=True)
    place = draft.document.place((*path, "api_key"))
    written = place.text[place.column - 1 :].lstrip("\"'")
    if model.api_key and model.api_key.get_secret_value() not in ("", "EMPTY") and not written.startswith("${"):
        draft.add((*path, "api_key"), 'a key is not written into a spec: put it in the environment and write "${NAME}"')


def _trained(draft: Draft, path: KeyPath, model: ModelSpec) -> None:
    """An entry whose weights a rewriter trains."""
    if model.from_ not in draft.names("rewriters"):
        draft.add((*path, "from"), _unknown("rewriter", model.from_ or "", draft.names("rewriters")))
    if model.backend == "openai":
        draft.add((*path, "backend"), "what is trained here runs here: backend transformers or vllm")
    for key, own in {"model": draft.spec.model, "revision": draft.spec.revision, "adapter": None}.items():
        if getattr(model, key) != own:
            draft.add((*path, key), f"{key} does not go with from: the weights are the rewriter's", key=True)


def _misplaced(model: ModelSpec) -> Iterator[tuple[str, str]]:
    """(key, message) for keys of an entry that its other keys leave without a meaning."""
    if model.backend == "openai" and model.adapter:
        yield "adapter", "an adapter goes with backend: transformers or vllm; a server knows it by a model name"
    elif model.adapter and not (Path(model.adapter).expanduser() / "adapter_config.json").is_file():
        yield "adapter", f"there is no adapter_config.json in {model.adapter}"
    if model.backend != "vllm":
        for key in ("args", "command"):
            yield key, f"{key} goes with backend: vllm"
    if model.backend != "openai" and model.likelihood:
        yield "likelihood", f"backend {model.backend} scores text by itself; likelihood is for backend: openai"
    if model.budget is not None and model.price is None:
        yield "budget", "a budget needs the price: {input: ..., output: ...} in USD per million tokens"
    if model.total_timeout is not None and model.total_timeout < model.timeout:
        yield "total_timeout", f"shorter than timeout ({model.timeout:g} s), the limit of a single try"


# -- source -----------------------------------------------------------------------------------------------------------


def _checkpoints(draft: Draft) -> None:
    """What was trained elsewhere."""
    spec = draft.spec
    for name, paths in spec.checkpoints.items():
        if spec.train and name in spec.train.methods:
            draft.add(("checkpoints", name), f'"{name}" is the name of a method already', key=True)
        if not paths:
            draft.add(("checkpoints", name), "name at least one folder of weights")
        for number, path in enumerate(paths):
            if (path.startswith((".", "/", "~")) or path.count("/") > 1) and not Path(path).expanduser().is_dir():
                draft.add(("checkpoints", name, number), f"there is no folder {path}")


def _source(draft: Draft, path: KeyPath, source: SourceSpec) -> list[str] | None:
    """The columns that templates may name, None while they are unknown."""
    if draft.is_broken(*path) or path[0] not in draft.data or not draft.files:
        return None
    columns, mistakes = sources.peek(source, Path(draft.document.file))
    for where, message in mistakes:
        draft.add((*path, *where), message)
    if columns is None:
        return None
    for key in ("prompt", "answer", "system"):
        if template := getattr(source, key):
            _template(draft, (*path, key), template, columns)
    by = source.split.by
    if by is not None and by not in columns:
        draft.add((*path, "split", "by"), _unknown("column", by, columns))
    if lost := sources.unreadable_columns(source, columns):
        draft.add(path, lost, key=True)
    return [column for column in columns if column not in sources.CHAT_COLUMNS]


def _template(draft: Draft, path: KeyPath, template: str, known: Iterable[str] | None) -> None:
    """Syntax, and where the known names are given, that it uses no other."""
    if message := templates.check(template):
        draft.add(path, message)
        return
    if known is None:
        return
    for name in sorted(templates.required(template) - set(known)):
        names = list(dict.fromkeys(known))
        draft.add(path, f'the template uses "{name}"{did_you_mean(name, names) or choice(names)}')


# -- graph ------------------------------------------------------------------------------------------------------------


def _graph(draft: Draft) -> None:
    known = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    edges: dict[str, list[str]] = {}
    for name, step in draft.spec.graph.items():
        single = isinstance(step.from_, str)
        inner = set(draft.spec.graph) - set(draft.spec.all_sources)
        edges[name] = [up for up in needs(draft.spec, step) if up in inner]
        for number, upstream in enumerate(step.upstream):
            if upstream not in known:
                path: KeyPath = ("graph", name, "from") if single else ("graph", name, "from", number)
                draft.add(path, _unknown("step", upstream, known))
        if draft.is_broken("graph", name, "op"):
            continue
        if message := catalog.wrong_reads(catalog.module(catalog.OPS, step.op), step.op, len(step.upstream)):
            draft.add(("graph", name, "from"), message)
        if len(set(step.upstream)) < len(step.upstream):
            draft.add(("graph", name, "from"), "the same step is there twice")
    for cycle in _cycles(edges):
        draft.add(("graph", cycle[0], "from"), f"the steps form a cycle: {' -> '.join(cycle)}")


def _cycles(edges: dict[str, list[str]]) -> list[list[str]]:
    """Each cycle once, as [a, b, a] along `from`, beginning at the step that is written first."""
    found: list[list[str]] = []
    done: set[str] = set()
    for start in edges:
        path = [start]
        waiting = [iter(edges[start])]
        while waiting and start not in done:
            here = next(waiting[-1], None)
            if here is None:
                waiting.pop()
                done.add(path.pop())
            elif here in path:
                found.append([*path[path.index(here) :], here])
            elif here not in done:
                path.append(here)
                waiting.append(iter(edges[here]))
    return found


def _columns(draft: Draft, steps: Iterable[str], columns: Mapping[str, list[str] | None]) -> list[str] | None:
    """The columns of the sources that these steps are made from, and those that the steps on the way add (an op's
    `columns(params)`, None where it cannot say); None where that is not known."""
    found: dict[str, None] = {}
    waiting, done = list(steps), set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        if name in columns and name not in draft.spec.graph:
            new = columns[name]
        elif name not in draft.spec.graph or draft.is_broken("graph", name, "op"):
            return None
        else:
            step = draft.spec.graph[name]
            waiting += step.upstream
            module = catalog.module(catalog.OPS, step.op)
            if not isinstance(step.params, module.Params):
                return None
            new = module.columns(step.params) if hasattr(module, "columns") else []
        if new is None:
            return None
        found |= dict.fromkeys(new)
    return list(found)


def _params(
    draft: Draft, path: KeyPath, owner: str, params: BaseModel, columns: list[str] | None, variables: Iterable[str]
) -> None:
    """The models, encoders and template variables that the parameters of a step or method name."""
    models = list(dict.fromkeys([*draft.spec.models, *draft.names("models")]))
    for where, model in marked(params, "model"):
        if model not in models and not draft.is_broken(*path, *where):
            draft.add((*path, *where), f"{owner}: {_unknown('model', model, models)}")
    for where, encoder in marked(params, "encoder"):
        if "/" not in encoder and encoder not in ENCODERS and not Path(encoder).is_dir():
            draft.add((*path, *where), f"{owner}: {_unknown('encoder', encoder, ENCODERS)}")
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    for where, step in marked(params, "step"):
        if step not in steps:
            draft.add((*path, *where), f"{owner}: {_unknown('step', step, steps)}")
    known = None if columns is None else [*EXAMPLE_FIELDS, *variables, *columns]
    for where, template in marked(params, "template"):
        _template(draft, (*path, *where), template, known)


# -- train, evaluate, report ------------------------------------------------------------------------------------------


def _rewriters(draft: Draft, columns: Mapping[str, list[str] | None]) -> None:
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    for name, rewriter in draft.spec.rewriters.items():
        path: KeyPath = ("rewriters", name)
        if rewriter.data not in steps:
            draft.add((*path, "data"), _unknown("step", rewriter.data, steps))
        if draft.is_broken(*path, "method"):
            continue
        method = catalog.module(catalog.METHODS, rewriter.method)
        if not hasattr(method, "REWRITES"):
            draft.add((*path, "method"), f"{rewriter.method} trains the spec's model: put it under train.methods")
        if draft.spec.models[name].from_ is None:
            draft.add(
                path, f'models.{name} is another model: say "from: {name}" there, or call this one otherwise', key=True
            )
        known = _columns(draft, [rewriter.data], columns)
        _params(draft, path, f"method {rewriter.method}", rewriter.params, known, getattr(method, "VARIABLES", ()))


def _train(draft: Draft, columns: Mapping[str, list[str] | None]) -> None:
    train = draft.spec.train
    assert train is not None
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    if train.data not in steps:
        draft.add(("train", "data"), _unknown("step", train.data, steps))
    for name, method in train.methods.items():
        path: KeyPath = ("train", "methods", name)
        if method.data not in (*steps, train.data):
            draft.add((*path, "data"), _unknown("step", method.data, steps))
        if not draft.is_broken(*path, "method"):
            if hasattr(catalog.module(catalog.METHODS, method.method), "REWRITES"):
                message = f"{method.method} trains a model that writes data: put it under rewriters"
                draft.add((*path, "method"), message)
            variables = getattr(catalog.module(catalog.METHODS, method.method), "VARIABLES", ())
            known = _columns(draft, [method.data], columns)
            _params(draft, path, f"method {method.method}", method.params, known, variables)
    names: list[str] = []
    for number, stage in enumerate(train.stages):
        place: KeyPath = ("train", "stages", number)
        if stage.data not in steps:
            draft.add((*place, "data"), _unknown("step", stage.data, steps))
        if stage.method is not None and stage.method not in train.methods:
            draft.add((*place, "method"), _unknown("method", stage.method, draft.names("train", "methods")))
        if (called := stage.name or stage.data) in names:
            draft.add(place, f'a stage is called "{called}" already; give this one a name', key=True)
        names.append(called)
    if train.stages and train.tune:
        draft.add(("train", "tune"), "a grid and stages do not go together: tune on one stage first", key=True)
    for number, seed in enumerate(train.seeds):
        if seed in train.seeds[:number]:
            draft.add(("train", "seeds", number), f"the seed {seed} is there twice")
    if train.select.of:
        own = columns[SOURCE]
        known = None if own is None else [*EXAMPLE_FIELDS, *own]
        _template(draft, ("train", "select", "of"), train.select.of, known)
    if train.tune and draft.spec.source and draft.spec.source.split.validation == 0:
        draft.add(("train", "tune"), "tuning chooses on validation rows, and source.split.validation is 0", key=True)
    for key in train.defaults:
        fields = {f for m in train.methods.values() for f in type(m.params).model_fields}
        if key not in fields and not any(
            draft.is_broken("train", "methods", m) for m in draft.names("train", "methods")
        ):
            draft.add(("train", "defaults", key), f'no method has "{key}"{did_you_mean(key, fields)}', key=True)
    for key, values in train.tune.items():
        _grid(draft, key, values)


def _grid(draft: Draft, key: str, values: list) -> None:
    """Every method must have the parameter and accept each value; what it was read as replaces what was written."""
    train = draft.spec.train
    assert train is not None
    if not values:
        draft.add(("train", "tune", key), "must not be empty")
    for name, method in train.methods.items():
        params = type(method.params)
        if draft.is_broken("train", "methods", name, "method"):
            continue
        if key not in params.model_fields:
            hint = did_you_mean(key, params.model_fields)
            draft.add(("train", "tune", key), f'method {name} ({method.method}) has no "{key}"{hint}', key=True)
            return
        for number, value in enumerate(values):
            try:
                values[number] = getattr(params.model_validate({**method.params.model_dump(), key: value}), key)
            except ValidationError as error:
                for _, message, _ in explain(error.errors(), {key: value}, params):
                    draft.add(("train", "tune", key, number), message)


def _evaluate(draft: Draft) -> None:
    evaluate = draft.spec.evaluate
    assert evaluate is not None
    if not evaluate.domain and not evaluate.general and not draft.is_broken("evaluate"):
        if not any(path[0] == "evaluate" for path in draft.broken):
            draft.add(("evaluate",), "name at least one benchmark under domain or general", key=True)
    seen: set[str] = set()
    suites = catalog.suites()
    for part in ("domain", "general"):
        written = [(n, each) for n, name in enumerate(getattr(evaluate, part)) for each in suites.get(name, (name,))]
        for number, name in written:
            path: KeyPath = ("evaluate", part, number)
            if name in seen:
                draft.add(path, f'the benchmark "{name}" is there twice')
            seen.add(name)
            if name.endswith((".yaml", ".yml")):
                for message in taskfiles.mistakes(Path(name), evaluate.allow_code):
                    draft.add(path, message)
            elif wrong := _benchmark(draft, name):
                draft.add(path, wrong)
        setattr(evaluate, part, [name for _, name in written])
    _evaluate_options(draft, evaluate, seen)


def _evaluate_options(draft: Draft, evaluate: EvaluateSpec, used: set[str]) -> None:
    """The keys beside the benchmarks: files that must be there, names that must be used."""
    modules = [catalog.module(catalog.BENCHMARKS, file) for file in catalog.names(catalog.BENCHMARKS)]
    known = sorted({module.DATA for module in modules if hasattr(module, "DATA")})
    for name in evaluate.data if isinstance(evaluate.data, dict) else ():
        if name not in known:
            draft.add(("evaluate", "data", name), _unknown("data set", name, known), key=True)
    for name, own in evaluate.own.items():
        if name in catalog.benchmarks() or name in catalog.suites():
            draft.add(("evaluate", "own", name), f'"{name}" is a benchmark already; choose another name', key=True)
        elif draft.files and (message := readers.unreadable(Path(own.path), Path(draft.document.file))):
            draft.add(("evaluate", "own", name, "path"), message)
        elif own.check == "judge" and evaluate.judge is None:
            draft.add(("evaluate", "own", name, "check"), "check: judge needs a model's name under evaluate.judge")
    for key in ("shots", "samples"):
        for name in getattr(evaluate, key):
            if name not in used:
                draft.add(("evaluate", key, name), f"there is no {name} among the benchmarks of this spec", key=True)
    models = list(dict.fromkeys([*draft.spec.models, *draft.names("models")]))
    if evaluate.judge is not None and evaluate.judge not in models:
        draft.add(("evaluate", "judge"), _unknown("model", evaluate.judge, models))


def _benchmark(draft: Draft, name: str) -> str | None:
    """What is wrong with a benchmark's name. One that no file lists may still be a task of the installed lm-eval."""
    evaluate, known = draft.spec.evaluate, catalog.benchmarks()
    assert evaluate is not None
    builtin = catalog.module(catalog.BENCHMARKS, "builtin")
    if name in evaluate.own:
        return None
    if name not in known and (name.startswith(("lab_", "heldout")) or not builtin.exists(name)):
        return _unknown("benchmark", name, [*known, *catalog.suites(), *evaluate.own])
    split = catalog.module(catalog.BENCHMARKS, "heldout").SPLITS.get(name)
    if split and (draft.spec.source is None or getattr(draft.spec.source.split, split) == 0):
        return "there are no held-out rows: " + (f"source.split.{split} is 0" if draft.spec.source else "no source")
    module = catalog.module(catalog.BENCHMARKS, known[name]) if name in known else None
    if getattr(module, "RUNS_CODE", False) and not evaluate.run_code:
        return f"{name} runs code that the model writes; a spec lets it with evaluate.run_code: true, in a sandbox"
    if wrong := _files(evaluate, name, module):
        return wrong
    if name in getattr(module, "NEEDS_JUDGE", ()) and not evaluate.judge:
        return f"{name} is graded by a model: name one of models under evaluate.judge"
    return None


def _files(evaluate: EvaluateSpec, name: str, module: Any) -> str | None:
    """What is wrong with where a benchmark's own files are to be."""
    if not hasattr(module, "DATA"):
        return None
    try:
        place = catalog.module(catalog.BENCHMARKS, "_files").root(evaluate, module.DATA)
    except UserError as error:
        return str(error)
    if place is None and hasattr(module, "LOCAL_ONLY"):
        return f"{name} reads local files: its data, {module.DATA}, must be named under evaluate.data"
    return None


def _report(draft: Draft) -> None:
    report = draft.spec.report
    methods = [*draft.names("train", "methods"), *draft.names("checkpoints")]
    if report.baseline is not None and report.baseline not in methods:
        draft.add(("report", "baseline"), _unknown("method", report.baseline, methods))
    for number, section in enumerate(report.sections):
        if section not in catalog.names(catalog.SECTIONS):
            draft.add(("report", "sections", number), _unknown("section", section, catalog.names(catalog.SECTIONS)))
