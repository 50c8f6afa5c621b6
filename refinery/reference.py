"""The reference of a spec as Markdown, from the code itself: what the loader checks with is what is described.

Every section, operation, method, benchmark, report section and measure, with every parameter's type, default and
meaning: docstrings, the string literals under fields, and the diagnostics' own words. `refinery schema --markdown`
prints it; a test holds specs/REFERENCE.md to it.
"""

import ast
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel

from refinery import catalog, checks, spec, spec_models
from refinery.diagnostics import AFTER_REFINE, PACKAGE
from refinery.markdown import anchor, grid, prose, safe
from refinery.schema import meanings
from refinery.spec_types import OpParams
from refinery.typewords import default_words, type_words, yaml_words

LONG = 60
"""Characters of a default from which on it stands below its table."""

PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("the whole file", spec.Spec),
    ("models", spec_models.ModelSpec),
    ("models: price", spec_models.Price),
    ("source and sources", spec_models.SourceSpec),
    ("source: split", spec_models.SplitSpec),
    ("source: hub", spec_models.HubSource),
    ("source: sql", spec_models.SqlSource),
    ("graph", spec_models.StepSpec),
    ("train", spec_models.TrainSpec),
    ("train: select", spec_models.SelectSpec),
    ("train: methods, and rewriters", spec_models.MethodSpec),
    ("evaluate", spec_models.EvaluateSpec),
    ("evaluate: own", spec_models.OwnBenchmark),
    ("report", spec_models.ReportSpec),
    ("limits", spec_models.LimitsSpec),
)
"""Heading to model."""

INTRODUCTION = """\
A spec is one YAML file. `refinery validate` checks it, `refinery init` writes one to begin with, and the files beside
this one are ready to run. With their second line editors complete and check a spec as it is typed
([refinery.schema.json](refinery.schema.json)).

A graph's steps read the rows of `source`, of a name under `sources`, or of earlier steps. Each row has a prompt,
`answer` (the reference, which no step of the graph changes), `response` (what would be trained on, at first the
answer) and `candidates`. A row operation gives every row one outcome: kept, changed, fell_back (the reference is its
response again, and later row operations leave it alone) or dropped. A table operation sees all rows at once and may
also make new ones (created). Every outcome has a reason, "ok" where there is nothing to say, and the scores that
decided; `refinery show` reads them.

A template is sandboxed Jinja over a row: its columns, and `question`, `answer`, `response`, `candidates` and `id`;
operations may add variables of their own. An unknown variable is an error. `${NAME}` in any value is the environment
variable NAME, `${NAME:-value}` has a default; keys of servers are written only so."""


def markdown() -> str:
    """The whole reference, the same every time."""
    body = [line for heading, blocks in _chapters() for line in (f"## {heading}", "", *blocks)]
    headings = [line for line in _outside_code(body) if re.match(r"#{2,3} ", line)]
    contents = []
    for line in headings:
        marks, _, title = line.partition(" ")
        contents.append(f"{'  ' * (len(marks) - 2)}- [{title}](#{anchor(title)})")
    made = "<!-- Made by `refinery schema --markdown > specs/REFERENCE.md`; what is written here is lost. -->"
    text = "\n".join(["# What a spec may say", "", made, "", INTRODUCTION, "", *contents, "", *body])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _chapters() -> Iterator[tuple[str, list[str]]]:
    yield "Sections of a spec", [line for heading, model in PARTS for line in _section(heading, model)]
    yield "Operations", [line for name in catalog.names(catalog.OPS) for line in _choice(catalog.OPS, name)]
    yield "Rules that compare answers", _rules()
    yield "Training methods", _methods()
    yield "Benchmarks", _benchmarks()
    yield "Sections of the report", _report_sections()
    yield "Diagnostics", _diagnostics()


def _outside_code(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield line


# -- chapters ----------------------------------------------------------------------------------------------------------


def _section(heading: str, model: type[BaseModel]) -> list[str]:
    hidden = ("params",) if model in (spec_models.StepSpec, spec_models.MethodSpec) else ()
    return [f"### {heading}", "", prose(model.__doc__), "", *_table(model, hidden), ""]


def _methods() -> list[str]:
    """What several methods share stands once, before them."""
    names = catalog.names(catalog.METHODS)
    bases = [base for name in names for base in _bases(catalog.module(catalog.METHODS, name).Params)]
    shared = [base for base in dict.fromkeys(bases) if bases.count(base) > 1]
    lines = []
    for base in sorted(shared, key=lambda base: len(base.model_fields)):
        told = prose(base.__doc__ if base.__dict__.get("__doc__") else "")
        lines += [f"### {base.__name__}", "", told, "", *_table(base, _inherited(base, shared)), ""]
        above = [nested for other in _bases(base) for nested in _nested(other)]
        lines += [line for nested in _nested(base) if nested not in above for line in _inner(nested)]
    return lines + [line for name in names for line in _choice(catalog.METHODS, name, shared)]


def _bases(params: type[BaseModel]) -> list[type[BaseModel]]:
    """The models that it builds on, less those of all operations and methods."""
    return [cls for cls in params.__mro__[1:] if issubclass(cls, BaseModel) and cls not in (BaseModel, OpParams)]


def _inherited(model: type[BaseModel], shared: list[type[BaseModel]]) -> list[str]:
    """Fields that mean the same in one of the `shared` models that it builds on."""
    own, above = dict(_rows(model)), [dict(_rows(base)) for base in _bases(model) if base in shared]
    return [name for name, row in own.items() if above and row == next((a[name] for a in above if name in a), None)]


def _inner(nested: type[BaseModel]) -> list[str]:
    """A mapping inside the parameters."""
    return ["", f"**{nested.__name__}**: {prose(nested.__doc__)}", "", *_table(nested), ""]


def _choice(package: str, name: str, shared: list[type[BaseModel]] | None = None) -> list[str]:
    """An operation, or a training method with what it adds to the `shared` models."""
    module = catalog.module(package, name)
    lines = [f"### {name}", "", prose(module.__doc__), ""]
    if package == catalog.OPS:
        lines += [_reads(module), ""]
    bases = [base for base in _bases(module.Params) if base in (shared or [])]
    inherited = _inherited(module.Params, bases)
    if bases:
        named = ", ".join(f"[{base.__name__}](#{anchor(base.__name__)})" for base in bases)
        only = len(inherited) == len(module.Params.model_fields)
        own = "no others." if only else "these, which are its own or have another default:"
        lines += [f"It has the parameters of {named} and {own}", ""]
    lines += _table(module.Params, inherited)
    for nested in _nested(module.Params):
        if not any(nested in _nested(base) for base in bases):
            lines += _inner(nested)
    lines += _presets(module)
    if package == catalog.OPS and (told := _told(module)):
        lines += ["", "What it leaves with a row:", "", *told]
    return [*lines, ""]


def _presets(module: ModuleType) -> list[str]:
    """What each value of `preset` sets; long texts by name alone."""
    presets = getattr(module, "PRESETS", None) or getattr(module.Params, "PRESETS", {})
    lines = []
    for name, values in presets.items():
        words = [
            f"its own {key}" if len(text := yaml_words(each)) > LONG or "\n" in text else f"{key} {text}"
            for key, each in values.items()
        ]
        lines.append(f"- `{name}`: {safe(', '.join(words)) or 'the defaults'}")
    return ["", "What a `preset` sets, where nothing is written beside it:", "", *lines, ""] if lines else []


def _reads(module: ModuleType) -> str:
    low, high = getattr(module, "READS", (1, 1))
    many = {(1, 1): "one step", (1, None): "one or more steps", (2, None): "two or more steps"}
    kind = "table" if hasattr(module, "apply_all") else "row"
    words = [f"A {kind} operation; `from` names {many.get((low, high), f'{low} to {high} steps')}."]
    if module.VARIABLES:
        named = ", ".join(f"`{name}`" for name in module.VARIABLES)
        text = _literals(module).get("VARIABLES", "")
        words.append(f"Its templates also know {named}." + (f" {prose(_sentence(text))}" if text else ""))
    return " ".join(words)


def _sentence(text: str) -> str:
    whole = " ".join(text.split())
    return whole if whole.endswith(".") else f"{whole}."


def _told(module: ModuleType) -> list[str]:
    """The docstring of its apply, or those of the functions among which apply chooses."""
    apply: Callable[..., Any] = getattr(module, "apply_all", None) or module.apply
    if apply.__doc__:
        return [prose(apply.__doc__)]
    called = [getattr(module, name, None) for name in apply.__code__.co_names]
    own = [one for one in called if inspect.isfunction(one) and one.__module__ == module.__name__]
    docs = [(one.__name__.strip("_"), one.__doc__) for one in own if one.__doc__]
    return [f"- {name}: {prose(' '.join(inspect.cleandoc(doc).split()))}" for name, doc in docs]


def _rules() -> list[str]:
    """`kind` and `check` of several operations."""
    return [prose(checks.__doc__), "", prose(checks.value_of.__doc__), "", prose(checks.compare.__doc__), ""]


def _benchmarks() -> list[str]:
    """Suites, and what each file has; `own` has those that a spec makes."""
    suites = [(f"`{suite}`", ", ".join(f"`{name}`" for name in names)) for suite, names in catalog.suites().items()]
    doc = inspect.cleandoc(catalog.module(catalog.BENCHMARKS, "_suites").__doc__ or "")
    lines = ["### Suites", "", prose(doc), "", *grid(("suite", "benchmarks"), suites), ""]
    found = catalog.benchmarks()
    for file in catalog.names(catalog.BENCHMARKS):
        names = [name for name, place in found.items() if place == file]
        doc = inspect.cleandoc(catalog.module(catalog.BENCHMARKS, file).__doc__ or "")
        lines += [f"### {file} benchmarks", "", prose(doc), "", ", ".join(f"`{name}`" for name in names), ""]
    return lines


def _report_sections() -> list[str]:
    rows = [(f"`{name}`", _first(catalog.module(catalog.SECTIONS, name))) for name in catalog.names(catalog.SECTIONS)]
    return [*grid(("section", "what it shows"), rows), ""]


def _diagnostics() -> list[str]:
    known = ", ".join(f"`{name}`" for name in AFTER_REFINE)
    lines = [
        f"A run takes {known} of every step; `refinery diagnose` takes all of them for two steps of your choice, with "
        "`--model` those that ask a model, and after `refinery label` those of people's preferences. Each is taken "
        "over all rows and over those that did not fall back.",
        "",
    ]
    for name in catalog.names(PACKAGE):
        module = catalog.module(PACKAGE, name)
        lines += [f"### {name} measures", "", prose(module.__doc__), ""]
        tools = [*(f"needs {tool}" for tool in module.NEEDS), *(f"uses {tool} where given" for tool in module.USES)]
        tools += [f"library {library}" for library in module.LIBRARIES]
        lines += [f"Tools: {', '.join(tools)}.", ""] if tools else []
        rows = [(f"`{key}`", what, how) for key, (what, how) in module.MEANINGS.items()]
        lines += [*grid(("measure", "what it is", "how to read it"), rows), ""]
    return lines


def _first(module: ModuleType) -> str:
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


# -- parameters --------------------------------------------------------------------------------------------------------


def _table(model: type[BaseModel], hidden: Iterable[str] = ()) -> list[str]:
    """A row a parameter; long defaults stand behind the table."""
    rows, below = [], []
    for name, (key, kind, default, meaning) in _rows(model):
        if name in hidden:
            continue
        if len(default) > LONG or "\n" in default:
            below += ["", f"Default of `{name}`:", "", "```text", default, "```"]
            default = "below"
        elif default and default != "required":
            default = f"`{default}`"
        rows.append((key, kind, default, meaning))
    if not rows:
        return []
    return [*grid(("key", "type", "default", "meaning"), rows), *below]


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, tuple[str, str, str, str]]]:
    """(field, its key, type, default and meaning)."""
    texts = meanings(model)
    for name, info in model.model_fields.items():
        kind = type_words(info.annotation, info.metadata, _link)
        yield name, (f"`{info.alias or name}`", kind, default_words(info), texts.get(name, ""))


def _link(model: type[BaseModel]) -> str:
    """To the section that describes it, where it is one."""
    heading = next((heading for heading, part in PARTS if part is model), "")
    return f"[{heading}](#{anchor(heading)})" if heading else f"mapping ({model.__name__})"


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Models inside its parameters that are no section of a spec."""
    found: dict[type[BaseModel], None] = {}
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        here = waiting.pop(0)
        if isinstance(here, type) and issubclass(here, BaseModel):
            if here not in [model for _, model in PARTS]:
                found[here] = None
        waiting += get_args(here)
    return list(found)


# -- text --------------------------------------------------------------------------------------------------------------


def _literals(module: ModuleType) -> dict[str, str]:
    """Name of a constant to the string literal that follows its assignment."""
    body = ast.parse(inspect.getsource(module)).body
    found = {}
    for statement, text in itertools.pairwise(body):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if isinstance(target, ast.Name) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[target.id] = str(text.value.value)
    return found
