"""A trained checkpoint in vLLM, of every method: it says and scores what it does in transformers."""

from pathlib import Path
from typing import Any

import pytest

from refinery.records import Example
from refinery.spec import ModelSpec
from tests.models.test_likelihoods import VLLM, agree, run, score, small_vllm, talk
from tests.trainers.conftest import JobMaker
from tests.trainers.test_kills import GENERAL, MADE
from tests.trainers.test_rl import SMALL
from trainers.job import directory
from trainers.train import train

__all__ = ["small_vllm"]


def rows() -> list[Example]:
    words = ("one", "two", "three", "four")
    return [Example(w, [{"role": "user", "content": f"say {w}"}], w, f"{w} it is") for w in words]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        *MADE.items(),
        ("grpo", {**SMALL, "format": r"\A\W*[a-l]", "temperature": 1.5, "learning_rate": 1e-2}),
        ("sdft", {"lora": {"rank": 4}}),
    ],
)
def test_vllm_serves_what_was_trained(
    job: JobMaker, tmp_path: Path, small_vllm: None, method: str, params: dict[str, Any]
) -> None:
    more = {"max_steps": 2, "learning_rate": 1e-3, "_extra": {"replay": GENERAL, "prompts": GENERAL}}
    one = job(method, _model="lab", _base_identity="lab", _examples=rows(), **{**more, **params})
    assert train(one) == directory(one)
    folder = str(directory(one))
    here = ModelSpec(model=folder, device="cpu", dtype="float32")
    there = ModelSpec(backend="vllm", model=folder, dtype="float32", command=VLLM, args=["--enforce-eager"])

    async def both(model: Any) -> Any:
        return await talk(model), await score(model)

    (said, scored), (expected, likelihoods) = run(there, both), run(here, both)
    assert [getattr(each, "text", each) for each in said] == [getattr(each, "text", each) for each in expected]
    agree(scored, likelihoods, 1e-3)
    base = run(ModelSpec(model="lab", device="cpu", dtype="float32"), score)
    assert max(abs(a.sum - b.sum) for a, b in zip(base, scored, strict=True)) > 0.05
