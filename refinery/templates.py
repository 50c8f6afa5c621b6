"""Prompt templates: sandboxed Jinja over the fields of one example.

A template cannot reach Python objects, files or the network, and renders the same text every time (no random
filter). An unknown variable is an error, never an empty string; a column whose value is null renders as nothing.
As in chat templates, a block tag on its own line leaves no blank line, and one newline at the very end is dropped.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from refinery.errors import RowError, UserError


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """A key before a method of the same name: a column `values` is what its row holds."""
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)


def _environment() -> ImmutableSandboxedEnvironment:
    env = _Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=lambda value: "" if value is None else value,
    )
    del env.globals["lipsum"], env.filters["random"]  # neither gives the same text twice
    return env


_ENV = _environment()


@lru_cache(maxsize=512)
def _compile(template: str) -> Template:
    try:
        return _ENV.from_string(template)
    except TemplateSyntaxError as error:
        raise UserError(f"template, line {error.lineno}: {error.message}") from None


def render(template: str, fields: Mapping[str, Any]) -> str:
    """`template` filled from `fields`. RowError("template_error") where it fails on these fields (a variable that
    is missing, a wrong type); UserError where the template itself is malformed, which `check` finds beforehand."""
    parts = _plain(template)
    if parts is not None:
        try:
            return "".join([text if name is None else _text(fields[name]) for name, text in parts])
        except KeyError:
            pass  # Jinja says what is missing
    try:
        return _compile(template).render(fields)
    except Exception as error:  # whatever the template's expressions raise is this row's failure
        raise RowError("template_error", f"{type(error).__name__}: {error}") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


@lru_cache(maxsize=512)
def _plain(template: str) -> tuple[tuple[str | None, str], ...] | None:
    """(variable, "") and (None, text) in turn for a template that only puts values between texts, as most do: joining
    them is a tenth of the work of Jinja. None for any other, UserError for a malformed one."""
    _compile(template)
    parts: list[tuple[str | None, str]] = []
    for node in _ENV.parse(template).body:
        if not isinstance(node, nodes.Output):
            return None
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                parts.append((None, part.data))
            elif isinstance(part, nodes.Name):
                parts.append((part.name, ""))
            else:
                return None
    return tuple(parts)


def check(template: str) -> str | None:
    """What is wrong with the template's syntax, or None."""
    try:
        _compile(template)
    except UserError as error:
        return str(error)
    return None


@lru_cache(maxsize=512)
def variables(template: str) -> frozenset[str]:
    """Every name the template looks up. UserError where it is malformed."""
    _compile(template)
    return frozenset(meta.find_undeclared_variables(_ENV.parse(template)))


@lru_cache(maxsize=512)
def required(template: str) -> frozenset[str]:
    """The names without which rendering fails: `variables` less those that the template itself guards
    with `is defined` or `default(...)`. UserError where it is malformed."""
    _compile(template)
    tree = _ENV.parse(template)
    guarded = {
        node.node.name
        for node in tree.find_all((nodes.Filter, nodes.Test))
        if node.name in ("default", "d", "defined", "undefined") and isinstance(node.node, nodes.Name)
    }
    return frozenset(meta.find_undeclared_variables(tree)) - guarded
