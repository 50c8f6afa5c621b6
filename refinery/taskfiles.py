"""lm-eval task files that a spec names: do they exist, are they YAML, and would reading one run code?

An lm-eval file may name Python functions (`!function utils.f`), pull in other files (`include`), load a metric script,
and reach Python through the attributes of a template's values. Unless the spec says `evaluate.allow_code: true`, none
of that is let through, in the file or in any file it includes.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml
from jinja2 import Environment, TemplateError, nodes

PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in "null bool int float str seq map merge timestamp value".split()}
ALLOW = "a spec lets it with evaluate.allow_code: true"


def mistakes(path: Path, allow_code: bool) -> list[str]:
    """What is wrong with a task file and those it includes, each as one line with its place."""
    return list(_mistakes(path, allow_code, set()))


def _mistakes(path: Path, allow_code: bool, seen: set[Path]) -> Iterator[str]:
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        root = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        yield f"there is no readable task file {path} ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        return
    except yaml.YAMLError as error:
        yield f"{path} is not YAML: {getattr(error, 'problem', None) or error}"
        return
    if not isinstance(root, yaml.MappingNode):
        yield f"{path} is not an lm-eval task: a mapping with a task name"
        return
    if not allow_code:
        for node, message in _code(root, set()):
            yield f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {message}; {ALLOW}"
    for included in _includes(root):
        yield from _mistakes(path.parent / included, allow_code, seen)


def _includes(root: yaml.MappingNode) -> Iterator[str]:
    for key, value in root.value:
        if key.value == "include":
            for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(node, yaml.ScalarNode):
                    yield node.value


def _code(node: yaml.Node, seen: set[int]) -> Iterator[tuple[yaml.Node, str]]:
    """Every node that would run code, with what it does."""
    if id(node) in seen:  # aliases may make a loop
        return
    seen.add(id(node))
    if node.tag not in PLAIN_TAGS:
        yield node, f"{node.tag.replace('tag:yaml.org,2002:', '!!')} runs code"
    if isinstance(node, yaml.ScalarNode) and ("{{" in node.value or "{%" in node.value) and _reaches(node.value):
        yield node, "the template reaches into Python objects"
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _code(item, seen)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if message := _unsafe(key, value):
                yield value, message
            yield from _code(key, seen)
            yield from _code(value, seen)


def _unsafe(key: yaml.Node, value: yaml.Node) -> str | None:
    text = value.value if isinstance(value, yaml.ScalarNode) else ""
    truth = text.lower() in ("true", "yes", "on")
    if key.value == "metric" and not text.replace("_", "").isalnum():
        return "a metric that is not lm-eval's own is a script"
    if key.value in ("hf_evaluate", "unsafe_code", "trust_remote_code") and truth:
        return f"{key.value} runs code"
    if key.value == "dataset_path" and text == "pandas":
        return "pickled data runs code"
    return None


def _reaches(template: str) -> bool:
    """Does it name an attribute that begins with an underscore, in any spelling that the syntax tree shows? (The
    harness renders in a sandbox as well; this is to say so before anything runs.)"""
    try:
        tree = Environment().parse(template)
    except TemplateError:
        return True
    constants = [str(node.value) for node in tree.find_all(nodes.Const)]
    attributes = [node.attr for node in tree.find_all(nodes.Getattr)]
    filters = [node.name for node in tree.find_all(nodes.Filter)]
    return (
        any(text.startswith("_") for text in attributes) or any("__" in text for text in constants) or "attr" in filters
    )
