"""What sources, models and steps ask of one another: names that exist, no cycles, templates over known columns.

What comes after them is checked in spec_stage_checks.py.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from refinery import catalog, sources, templates
from refinery.errors import did_you_mean
from refinery.problems import ENV_KEY
from refinery.spec import SOURCE, needs
from refinery.spec_load import Draft
from refinery.spec_messages import choice
from refinery.spec_models import ModelSpec, SourceSpec
from refinery.spec_types import marked
from refinery.yamlpos import KeyPath

EXAMPLE_FIELDS = ("question", "answer", "response", "id")
"""What a step's template may name besides the source's columns (records.Example.fields) and the op's VARIABLES."""
ENCODERS = ("all-MiniLM-L6-v2",)
Columns = dict[str, list[str] | None]
"""Source name to the columns that templates may name, None while they are unknown."""


def check(draft: Draft) -> Columns:
    """Add a problem to the draft's document for everything that is wrong between sources, models and steps; returns the
    columns of each source, None where they are unknown."""
    _names(draft)
    _models(draft)
    columns: Columns = {SOURCE: _source(draft, ("source",), draft.spec.source) if draft.spec.source else None}
    for name, source in draft.spec.sources.items():
        columns[name] = _source(draft, ("sources", name), source)
    _graph(draft)
    for name, step in draft.spec.graph.items():
        if not draft.is_broken("graph", name, "op"):
            variables = getattr(catalog.module(catalog.OPS, step.op), "VARIABLES", ())
            known = columns_of(draft, step.upstream, columns)
            check_params(draft, ("graph", name), f"op {step.op}", step.params, known, variables)
    return columns


def unknown(what: str, name: str, known: Iterable[str]) -> str:
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
    from refinery.lab import MODELS

    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        draft.add(path, f"there is no folder {model}")
    elif "/" in model or model in MODELS or Path(model).exists():
        return
    elif hint := did_you_mean(model, MODELS):
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
    written = draft.document.written.get((*path, "api_key"), model.api_key.get_secret_value() if model.api_key else "")
    if written not in ("", "EMPTY") and not re.fullmatch(ENV_KEY, written):
        draft.add((*path, "api_key"), 'a key is not written into a spec: put it in the environment and write "${NAME}"')


def _trained(draft: Draft, path: KeyPath, model: ModelSpec) -> None:
    """An entry whose weights a rewriter trains."""
    if model.from_ not in draft.names("rewriters"):
        draft.add((*path, "from"), unknown("rewriter", model.from_ or "", draft.names("rewriters")))
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
            check_template(draft, (*path, key), template, columns)
    by = source.split.by
    if by is not None and by not in columns:
        draft.add((*path, "split", "by"), unknown("column", by, columns))
    if lost := sources.unreadable_columns(source, columns):
        draft.add(path, lost, key=True)
    return [column for column in columns if column not in sources.CHAT_COLUMNS]


def check_template(draft: Draft, path: KeyPath, template: str, known: Iterable[str] | None) -> None:
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
                draft.add(path, unknown("step", upstream, known))
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


def columns_of(draft: Draft, steps: Iterable[str], columns: Columns) -> list[str] | None:
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


def check_params(
    draft: Draft, path: KeyPath, owner: str, params: BaseModel, columns: list[str] | None, variables: Iterable[str]
) -> None:
    """The models, encoders and template variables that the parameters of a step or method name."""
    models = list(dict.fromkeys([*draft.spec.models, *draft.names("models")]))
    for where, model in marked(params, "model"):
        if model not in models and not draft.is_broken(*path, *where):
            draft.add((*path, *where), f"{owner}: {unknown('model', model, models)}")
    for where, encoder in marked(params, "encoder"):
        if "/" not in encoder and encoder not in ENCODERS and not Path(encoder).is_dir():
            draft.add((*path, *where), f"{owner}: {unknown('encoder', encoder, ENCODERS)}")
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    for where, step in marked(params, "step"):
        if step not in steps:
            draft.add((*path, *where), f"{owner}: {unknown('step', step, steps)}")
    known = None if columns is None else [*EXAMPLE_FIELDS, *variables, *columns]
    for where, template in marked(params, "template"):
        check_template(draft, (*path, *where), template, known)
