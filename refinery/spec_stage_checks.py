"""What training, evaluation and report ask of the rest of a spec: steps, models and benchmarks that exist, values that
a grid's methods accept, files that are there."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from refinery import catalog, readers, served, taskfiles
from refinery.errors import UserError, did_you_mean
from refinery.models.weights import no_weights
from refinery.spec import SOURCE
from refinery.spec_checks import EXAMPLE_FIELDS, Columns, check_params, check_template, columns_of, unknown
from refinery.spec_load import Draft
from refinery.spec_messages import explain
from refinery.spec_models import EvaluateSpec
from refinery.spec_types import varied
from refinery.yamlpos import KeyPath


def check(draft: Draft, columns: Columns) -> None:
    """Add a problem to the draft's document for everything that is wrong there; `columns` as spec_checks.check gives
    them."""
    _checkpoints(draft)
    _rewriters(draft, columns)
    if draft.spec.train:
        _train(draft, columns)
    if draft.spec.evaluate:
        _evaluate(draft)
    for place, message in served.mistakes(draft.spec):
        draft.add(place, message)
    _report(draft)


def _checkpoints(draft: Draft) -> None:
    """What was trained elsewhere."""
    spec = draft.spec
    for name, paths in spec.checkpoints.items():
        if spec.train and name in spec.train.methods:
            draft.add(("checkpoints", name), f'"{name}" is the name of a method already', key=True)
        if not paths:
            draft.add(("checkpoints", name), "name at least one folder of weights")
        for number, path in enumerate(paths):
            if not path.startswith(served.SERVED) and (message := no_weights(path)):
                draft.add(("checkpoints", name, number), message)


def _rewriters(draft: Draft, columns: Columns) -> None:
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    for name, rewriter in draft.spec.rewriters.items():
        path: KeyPath = ("rewriters", name)
        if rewriter.data not in steps:
            draft.add((*path, "data"), unknown("step", rewriter.data, steps))
        if draft.is_broken(*path, "method"):
            continue
        method = catalog.module(catalog.METHODS, rewriter.method)
        if not hasattr(method, "REWRITES"):
            draft.add((*path, "method"), f"{rewriter.method} trains the spec's model: put it under train.methods")
        if draft.spec.models[name].from_ is None:
            draft.add(
                path, f'models.{name} is another model: say "from: {name}" there, or call this one otherwise', key=True
            )
        known = columns_of(draft, [rewriter.data], columns)
        check_params(draft, path, f"method {rewriter.method}", rewriter.params, known, getattr(method, "VARIABLES", ()))


def _train(draft: Draft, columns: Columns) -> None:
    train = draft.spec.train
    assert train is not None
    steps = [SOURCE, *draft.names("sources"), *draft.names("graph")]
    if train.data not in steps:
        draft.add(("train", "data"), unknown("step", train.data, steps))
    for name, method in train.methods.items():
        path: KeyPath = ("train", "methods", name)
        if method.data not in (*steps, train.data):
            draft.add((*path, "data"), unknown("step", method.data, steps))
        if not draft.is_broken(*path, "method"):
            if hasattr(catalog.module(catalog.METHODS, method.method), "REWRITES"):
                message = f"{method.method} trains a model that writes data: put it under rewriters"
                draft.add((*path, "method"), message)
            variables = getattr(catalog.module(catalog.METHODS, method.method), "VARIABLES", ())
            known = columns_of(draft, [method.data], columns)
            check_params(draft, path, f"method {method.method}", method.params, known, variables)
    names: list[str] = []
    for number, stage in enumerate(train.stages):
        place: KeyPath = ("train", "stages", number)
        if stage.data not in steps:
            draft.add((*place, "data"), unknown("step", stage.data, steps))
        if stage.method is not None and stage.method not in train.methods:
            draft.add((*place, "method"), unknown("method", stage.method, draft.names("train", "methods")))
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
        check_template(draft, ("train", "select", "of"), train.select.of, known)
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
                values[number] = getattr(varied(method.params, {key: value}), key)
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
            draft.add(("evaluate", "data", name), unknown("data set", name, known), key=True)
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
        draft.add(("evaluate", "judge"), unknown("model", evaluate.judge, models))


def _benchmark(draft: Draft, name: str) -> str | None:
    """What is wrong with a benchmark's name. One that no file lists may still be a task of the installed lm-eval."""
    evaluate, known = draft.spec.evaluate, catalog.benchmarks()
    assert evaluate is not None
    builtin = catalog.module(catalog.BENCHMARKS, "builtin")
    if name in evaluate.own:
        return None
    if name not in known and (name.startswith(("lab_", "heldout")) or not builtin.exists(name)):
        return unknown("benchmark", name, [*known, *catalog.suites(), *evaluate.own])
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
        draft.add(("report", "baseline"), unknown("method", report.baseline, methods))
    for number, section in enumerate(report.sections):
        if section not in catalog.names(catalog.SECTIONS):
            draft.add(("report", "sections", number), unknown("section", section, catalog.names(catalog.SECTIONS)))
