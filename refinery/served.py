"""What a spec evaluates by way of servers, and what is wrong with how it says so."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from refinery import catalog
from refinery.errors import did_you_mean

if TYPE_CHECKING:
    from refinery.spec import Spec
    from refinery.spec_models import EvaluateSpec, ModelSpec

SERVED = "models."
"""Before the name of a served model among `checkpoints`."""

HERE = ("transformers", "vllm")
"""The backends of `evaluate.backend` that are no names under `models`."""

KeyPath = tuple[str | int, ...]


def through(spec: "Spec") -> "ModelSpec | None":
    """The entry under `models` that `evaluate.backend` names, if it names one."""
    name = spec.evaluate.backend if spec.evaluate else ""
    return None if name in HERE else spec.models.get(name)


def mistakes(spec: "Spec") -> Iterator[tuple[KeyPath, str]]:
    """(key, what is wrong with it): names that are no servers, weights that a server cannot run, and likelihoods that
    it is not said to give."""
    listed = [(name, number, path) for name, paths in spec.checkpoints.items() for number, path in enumerate(paths)]
    asked = []
    for name, number, path in listed:
        if path.startswith(SERVED):
            asked.append(path.removeprefix(SERVED))
            yield from _no_server(spec, ("checkpoints", name, number), asked[-1])
    if spec.evaluate is None:
        return
    place: KeyPath = ("evaluate", "backend")
    if spec.evaluate.backend not in HERE:
        asked.append(spec.evaluate.backend)
        yield from _no_server(spec, place, asked[-1])
    here = [path for _, _, path in listed if not path.startswith(SERVED)]
    if (entry := through(spec)) is not None and entry.backend == "openai" and (spec.train or here):
        what = "what is trained here" if spec.train else f"the weights of {here[0]}"
        yield place, f"models.{spec.evaluate.backend} is a server with a model of its own: it cannot run {what}"
    silent = [name for name in asked if name in spec.models and not scores_prompts(spec.models[name])]
    benchmarks = [name for name in (*spec.evaluate.domain, *spec.evaluate.general) if _ranks(spec.evaluate, name)]
    if silent and benchmarks:
        yield (
            ("models", silent[0]),
            f"{', '.join(benchmarks)} need likelihoods of a prompt, which this server is not said to give: leave them "
            "out, or say how it gives them with likelihood: prompt_logprobs (vLLM) or echo",
        )


def scores_prompts(entry: "ModelSpec") -> bool:
    """An adapter on vLLM does too: it is merged first."""
    return entry.backend != "openai" or entry.likelihood is not None


def _no_server(spec: "Spec", place: KeyPath, name: str) -> Iterator[tuple[KeyPath, str]]:
    entry = spec.models.get(name)
    if entry is None:
        known = [each for each in spec.models if spec.models[each].backend != "transformers"]
        hint = did_you_mean(name, [*known, *HERE]) or f" (models has {', '.join(known) or 'no servers'})"
        yield place, f'there is no served model "{name}"{hint}'
    elif entry.backend == "transformers" or entry.from_ is not None:
        yield place, f"models.{name} is no server: its backend must be openai or vllm"


def _ranks(evaluate: "EvaluateSpec", name: str) -> bool:
    """Whether a benchmark is known to go by likelihoods; lm-eval's own and those of files show when they are loaded."""
    if name in evaluate.own:
        return evaluate.own[name].choices is not None
    known = catalog.benchmarks()
    return name in known and name in getattr(catalog.module(catalog.BENCHMARKS, known[name]), "RANKED", ())
