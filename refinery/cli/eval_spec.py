"""The spec that `refinery eval` writes: checked before anything is written, and never put over another's."""

import re
import shlex
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from refinery import catalog
from refinery.errors import UserError
from refinery.problems import Problem, SpecErrors
from refinery.spec import Spec, load_spec

HEAD = """\
# Run: refinery run {path}
# Written by `refinery eval`. The same command, or this file, goes on after any stop and skips what stands.
"""
OPTIONS = {"model": "--base", "batch_size": "--batch-size"} | {
    key: f"--{key}" for key in ("domain", "general", "data", "limit", "backend")
}
"""Keys of the spec to the options that write them."""


def checked(spec: Mapping[str, Any], overrides: Sequence[str]) -> Spec:
    """The spec as `load_spec` gives it. A mistake is said of the option that brought it in: there is no file yet."""
    text = _yaml(spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eval.yaml"
        path.write_text(text, "utf-8")
        try:
            return load_spec(path, overrides)
        except SpecErrors as error:
            said = dict.fromkeys(_of_option(each, path, text) for each in error.problems)
            raise UserError("\n".join(said)) from error


def _of_option(problem: Problem, path: Path, text: str) -> str:
    if problem.place.file != str(path):
        return str(problem)
    above = text.splitlines()[: problem.place.line]
    key = next((line.partition(":")[0].strip() for line in reversed(above) if not line.lstrip().startswith("- ")), "")
    setting = re.search(r"(evaluate\.\w+): (\w+)", problem.message)
    also = f" (--set {setting[1]}={setting[2]})" if setting else ""
    return f"{OPTIONS.get(key, key)}: {problem.message}{also}"


def write(spec: Mapping[str, Any], path: Path, force: bool) -> None:
    """UserError where another spec stands at `path`, whose scores and report are in the same folder."""
    if path.exists() and not force and (what := _differing(path, spec)):
        raise UserError(
            f"{path} exists and differs ({what}): name another folder with --out, or use --force to overwrite it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD.format(path=path) + _yaml(spec), "utf-8")


def _differing(path: Path, spec: Mapping[str, Any]) -> str:
    """What is not the same in the file, a few keys of it; "" where everything is."""
    try:
        there = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        there = None
    if not isinstance(there, dict):
        return "it cannot be read as a spec"
    old, new = _flat(there), _flat(spec)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    words = [f"{key} {old.get(key, 'not set')}, now {new.get(key, 'not set')}" for key in keys[:3]]
    return "; ".join([*words, *([f"{len(keys) - 3} more"] if len(keys) > 3 else [])])


def _flat(data: Any, key: str = "") -> dict[str, str]:
    if isinstance(data, Mapping):
        return {k: v for name, each in data.items() for k, v in _flat(each, f"{key}.{name}".lstrip(".")).items()}
    return {key: ", ".join(map(str, data)) if isinstance(data, list) else str(data)}


def _yaml(spec: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True)


def measurable() -> str:
    """What --domain and --general take: suites, a line each, then single benchmarks."""
    suites = catalog.suites()
    wide = max(map(len, suites))
    lines = [f"  {name:{wide}}  {', '.join(parts)}" for name, parts in suites.items()]
    names = [name for name in catalog.benchmarks() if not name.startswith("heldout")]  # of a source, which is not here
    single = textwrap.fill(", ".join(names), 78, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(["suites:", *lines, "benchmarks, besides any task of lm-eval:", single])


def next_words(path: Path, spec: Spec) -> str:
    where, mean = shlex.quote(str(path)), "general_mean" if spec.evaluate and spec.evaluate.general else "domain_mean"
    return (
        f"next: refinery report {where} --format latex  (or csv, json, html, markdown)\n"
        f'      refinery compare {where} --fail-if "{mean} < -2pp"'
    )
