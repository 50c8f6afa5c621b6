"""The JSON Schema (draft 2020-12) of a whole spec, with which an editor completes and checks it as it is typed.

It is made from the same models that `load_spec` validates with: a step's parameters follow its `op`, a method's its
`method`, and names that are files (ops, methods, benchmarks, sections) are listed. What one part asks of another, and
whether a template's columns exist, only `refinery validate` sees.
"""

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from refinery import catalog
from refinery.spec import Spec

Json = dict[str, Any]
TITLE = "Refinery spec"


def json_schema() -> Json:
    """The schema as plain data, the same every time."""
    ops = {name: catalog.module(catalog.OPS, name).Params for name in catalog.names(catalog.OPS)}
    methods = {name: catalog.module(catalog.METHODS, name).Params for name in catalog.names(catalog.METHODS)}
    models = [Spec, *ops.values(), *methods.values()]
    refs, collected = models_json_schema([(model, "validation") for model in models], by_alias=True)
    definitions: dict[str, Json] = collected["$defs"]
    for model in _reachable(models):
        _describe(model, definitions)
    params = {model: definitions[refs[(model, "validation")]["$ref"].rpartition("/")[2]] for model in models}
    definitions["StepSpec"] = _either(
        definitions["StepSpec"], "op", catalog.OPS, {n: params[m] for n, m in ops.items()}
    )
    of_methods = {name: params[model] for name, model in methods.items()}
    definitions["MethodSpec"] = _either(definitions["MethodSpec"], "method", catalog.METHODS, of_methods)
    _shorthands(definitions)
    _grids(definitions["TrainSpec"]["properties"], [params[model]["properties"] for model in methods.values()])
    for name in ("BaseModel", *(refs[(model, "validation")]["$ref"].rpartition("/")[2] for model in models)):
        definitions.pop(name, None)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        **params[Spec],
        "anyOf": [{"required": [key]} for key in ("source", "checkpoints", "matrix")],
        "$defs": dict(sorted(definitions.items())),
    }
    return _tidy(schema)


def _either(base: Json, key: str, package: str, choices: dict[str, Json]) -> Json:
    """A step or method: its own keys, and beside them the parameters that go with the value of `key`."""
    own = {name: value for name, value in base["properties"].items() if name != "params"}
    own[key] = {**own[key], "enum": list(choices)}
    branches = []
    for name, params in choices.items():
        required = params.get("required", [])
        then: Json = {
            "description": (catalog.module(package, name).__doc__ or "").strip().partition("\n")[0],
            "properties": {**dict.fromkeys(own, True), **params["properties"]},
            "additionalProperties": False,
        }
        if required:
            then["required"] = required
        branches.append({"if": {"required": [key], "properties": {key: {"const": name}}}, "then": then})
    return {**base, "properties": own, "additionalProperties": True, "allOf": branches}


def _shorthands(definitions: dict[str, Json]) -> None:
    """What the loader accepts or demands beyond the models' types."""
    from refinery.lab import CALIBRATION, DOMAINS

    source = definitions["SourceSpec"]
    kinds = ("lab", "path", "hub", "sql")
    source["oneOf"] = [{"required": [kind]} for kind in kinds]
    source["properties"]["lab"]["anyOf"][0]["enum"] = [*DOMAINS, *CALIBRATION]
    source["properties"]["hub"]["anyOf"].append({"type": "string"})
    known = [*catalog.suites(), *catalog.benchmarks()]
    named = {"type": "string", "anyOf": [{"enum": known}, {"pattern": r"\.ya?ml$"}, {"pattern": r"^[\w.-]+$"}]}
    task = {
        "type": "object",
        "properties": {"task": {"type": "string"}},
        "required": ["task"],
        "additionalProperties": False,
    }
    for part in ("domain", "general"):
        definitions["EvaluateSpec"]["properties"][part]["items"] = {"anyOf": [named, task]}
    definitions["ReportSpec"]["properties"]["sections"]["items"]["enum"] = catalog.names(catalog.SECTIONS)
    train = definitions["TrainSpec"]
    train["required"] = [name for name in train.get("required", []) if name != "methods"]


def _grids(train: Json, methods: list[Json]) -> None:
    """`defaults` has the parameters of any method, `tune` lists of those that all have."""
    every: Json = {}
    for properties in methods:
        every = {**properties, **every}
    shared = [name for name in every if all(name in properties for properties in methods)]
    plain = {name: {k: v for k, v in every[name].items() if k != "default"} for name in every}
    train["defaults"] |= {"properties": plain, "additionalProperties": False}
    train["tune"] |= {
        "properties": {name: {"type": "array", "items": plain[name], "minItems": 1} for name in shared},
        "additionalProperties": False,
    }


# -- descriptions from the docstrings under fields --------------------------------------------------------------------

COMMON = {
    "banned": "Phrases that a text may not hold, in any case, unless the question or the reference does.",
    "check": "The rule by which an answer agrees with the reference.",
    "dropout": "Share of activations left out while training.",
    "encoder": "A sentence encoder: the packaged all-MiniLM-L6-v2, a folder, or a hub id.",
    "fallback": "What becomes of a row that the step decides against: the reference comes back, or the row goes.",
    "gradient_checkpointing": "Less memory for about a third more time.",
    "judges": "Names under models.",
    "learning_rate": "The highest; it rises to it over the warm-up and then falls.",
    "max_grad_norm": "Gradients above this norm are scaled down to it.",
    "max_tokens": "Of a reply; one that is cut off there is refused.",
    "model": "Who writes: a name under models.",
    "prompt": "The user turn that is sent.",
    "rank": "Of the adapters.",
    "revision": "Of the model or data set on the hub: a branch, a tag or a commit.",
    "rollout_temperature": "Of the student's own texts.",
    "schedule": "How the learning rate falls.",
    "seed": "Of every choice by chance.",
    "system": "Sent as the system message.",
    "temperature": "0 takes the likeliest token each time.",
    "top_k": "Tokens to sample from, the likeliest ones; 0 is no limit.",
    "top_p": "Samples among the likeliest tokens that make up this share of the probability.",
    "trust_remote_code": "Lets the model's repository run its own Python code.",
    "warmup_ratio": "Share of the steps over which the learning rate rises.",
    "weight_decay": "AdamW's.",
}
"""What a parameter of that name means wherever no docstring of its own says it."""


def _reachable(models: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """The models and all that their fields mention."""
    found: dict[type[BaseModel], None] = {}
    waiting: list[Any] = list(models)
    while waiting:
        here = waiting.pop()
        if isinstance(here, type) and issubclass(here, BaseModel) and here not in found:
            found[here] = None
            waiting += [field.annotation for field in here.model_fields.values()]
        waiting += getattr(here, "__args__", ())
    return list(found)


def _describe(model: type[BaseModel], definitions: dict[str, Json]) -> None:
    """Put the docstring under each field into its `description`."""
    texts = meanings(model)
    for name, definition in definitions.items():
        ours = name == model.__name__ or name.replace("__", ".") == f"{model.__module__}.{model.__qualname__}"
        if not ours:
            continue
        for field, info in model.model_fields.items():
            if field in texts:
                definition["properties"][info.alias or field]["description"] = texts[field]


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field name to what it means, from the class and those it inherits from."""
    texts = {name: COMMON[name] for name in model.model_fields if name in COMMON}
    for cls in reversed([c for c in model.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]):
        texts |= field_docstrings(cls)
    return texts


def field_docstrings(cls: type) -> dict[str, str]:
    """Field name to the string literal that follows it in the class body, on one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                found[field.target.id] = " ".join(text.value.value.split())
    return found


def _tidy(value: Any) -> Any:
    """Less the titles that pydantic makes of names, and with names that do not fit a pattern refused."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidy(item) for key, item in value.items() if key != "title" or not _made_up(item)}
    return {**tidy, "additionalProperties": False} if "patternProperties" in tidy else tidy


def _made_up(title: Any) -> bool:
    return isinstance(title, str) and title != TITLE
