"""One way to ask for text or likelihoods, whoever gives them: a server or a model in this process."""

from typing import TYPE_CHECKING, Any

from refinery.errors import UserError
from refinery.models.base import Likelihood, Model, Reply, Sampling
from refinery.models.weights import adapter_folder, folder, resolve, shaping, weights_digest
from refinery.records import digest

if TYPE_CHECKING:
    from refinery.spec import ModelSpec

__all__ = ["Likelihood", "Model", "Reply", "Sampling", "identity", "open_model", "resolve", "weights_digest"]


def identity(spec: "ModelSpec", *, fetch: bool = False) -> str:
    """What is asked, wherever it runs: a local model's weights digest, a served model's name and provider.

    Whatever else of the entry shapes answers (adapter, max_context, dtype, extra_body) is part of it where it is
    declared; the address, the key, the price and the concurrency are not, nor whether vLLM or transformers runs the
    weights. A hub model that is not on this machine goes by its name until
    `fetch` downloads it. Loads no weights.
    """
    adapter = None
    if spec.from_ is not None:
        return f"rewriter {spec.from_}"  # what its weights are is known of a whole spec alone (spec.model_identity)
    if spec.backend == "openai":
        base = f"{spec.provider}/{spec.model}" if spec.provider else spec.model
    else:
        path = folder(spec.model, spec.revision, fetch=fetch)
        base = f"weights:{weights_digest(path)}" if path else f"hub:{spec.model}@{spec.revision or 'main'}"
        adapter = weights_digest(adapter_folder(spec.adapter)) if spec.adapter else None
    dtype = spec.dtype if spec.dtype != "auto" else None
    declared: list[tuple[str, Any]] = [("extra_body", spec.extra_body), ("max_context", spec.max_context)]
    declared += [("dtype", dtype)]
    declared += [("adapter", adapter), ("args", shaping(spec.args) if spec.backend == "vllm" else None)]
    more = {key: value for key, value in declared if value}
    return f"{base}+{digest(more, 8)}" if more else base


def open_model(spec: "ModelSpec", name: str = "", known: str = "") -> Model:
    """A model ready to be asked; `name` is its name under `models:`, for messages, and `known` its identity, where that
    is another than its entry's own. Weights load on first use. UserError for a rewriter that is not trained yet."""
    if spec.from_ is not None:
        raise UserError(f"models.{name}: rewriters.{spec.from_} is not trained yet; `refinery run` trains it")
    if spec.backend == "openai":
        from refinery.models.openai import OpenAIModel

        return OpenAIModel(spec, identity(spec), name)
    if spec.backend == "vllm":
        from refinery.models.vllm import VllmModel

        return VllmModel(spec, known or identity(spec, fetch=True), name)
    from refinery.models.transformers import TransformersModel

    return TransformersModel(spec, known or identity(spec, fetch=True), name)
