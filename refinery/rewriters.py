"""Where the weights of a spec's rewriters are. They are trained by refinery/cli/rewriters.py.

A rewriter is known by the digest of what shapes it (spec.rewriter_identity) before it is trained. A file of that name
beside the checkpoints says which of them is its own.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from refinery import models
from refinery.spec import ModelSpec, Spec, rewriter_identity

_identity = functools.partial(models.identity, fetch=True)


def _note(spec: Spec, identity: str) -> Path:
    return spec.weights_folder / "rewriters" / f"{identity.rpartition(':')[2]}.json"


def remember(spec: Spec, identity: str, checkpoint: Path) -> None:
    """These weights are that rewriter's."""
    path = _note(spec, identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps({"checkpoint": checkpoint.name}), "utf-8")
    fresh.replace(path)


def weights(spec: Spec, identity: str) -> Path | None:
    """The folder of a rewriter's weights; None while it is not trained."""
    try:
        name = json.loads(_note(spec, identity).read_text("utf-8"))["checkpoint"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    folder = spec.weights_folder / str(name)
    return folder if (folder / "manifest.json").exists() else None


def located(spec: Spec, steps: Mapping[str, str]) -> dict[str, ModelSpec]:
    """The spec's models, of which those that are trained rewriters are folders like any other. `steps`: fingerprints of
    the steps and sources, of those at least that rewriters learn from."""
    found = dict(spec.models)
    for name, model in spec.models.items():
        if model.from_ is None or spec.rewriters[model.from_].data not in steps:
            continue
        folder = weights(spec, rewriter_identity(spec, model.from_, _identity, steps))
        if folder is not None:
            found[name] = model.model_copy(update={"from_": None, "model": str(folder), "revision": None})
    return found
