"""The lab's ready specs use the settings that the lab was frozen with, and the prompts its base was trained on."""

import json
from pathlib import Path

import pytest

from refinery.lab import BASE, DOMAINS, MODELS, PROMPTS
from refinery.spec import load_spec

SPECS = Path(__file__).parent.parent.parent / "specs"
FROZEN = json.loads((BASE.parent / "frozen.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["lab", "lab_tuned"])
def test_every_method_trains_with_the_frozen_settings(name: str) -> None:
    spec, frozen = load_spec(SPECS / f"{name}.yaml"), FROZEN["sft"]
    for method in spec.train.methods.values():
        params = method.params
        assert (params.epochs, params.batch_size, params.schedule) == (
            frozen["epochs"],
            frozen["batch"],
            frozen["schedule"],
        )
        assert (params.weight_decay, params.warmup_ratio, params.max_grad_norm) == (
            frozen["weight_decay"],
            frozen["warmup"],
            frozen["clip"],
        )
    rates = frozen["learning_rates"]
    if name == "lab_tuned":
        assert spec.train.tune == {"learning_rate": rates}
    else:
        chosen = {domain["chosen"] for domain in FROZEN["calibration"].values()}
        assert {method.params.learning_rate for method in spec.train.methods.values()} == chosen


@pytest.mark.parametrize("name", ["lab", "lab_tuned"])
def test_prompts_are_those_of_the_base(name: str) -> None:
    spec = load_spec(SPECS / f"{name}.yaml")
    assert spec.graph["rewritten"].params.prompt == PROMPTS["rewrite"]
    assert spec.graph["fused"].params.prompt == PROMPTS["fuse"]
    shown = spec.train.methods["raft"].params.teacher_prompt
    assert shown == PROMPTS["teacher"].replace("{{ answer }}", "{{ response }}")


def test_the_backbones_are_crossed_with_the_public_domains() -> None:
    """At one rate of the frozen grid, everything else as frozen; the calibration domains are used for nothing else."""
    spec, frozen = load_spec(SPECS / "tables" / "backbones.yaml"), FROZEN["sft"]
    points = [(point.spec.model, point.spec.source.lab) for point in spec.points]
    assert sorted(points) == sorted((model, domain) for model in MODELS for domain in DOMAINS)
    assert len({point.folder for point in spec.points}) == 15
    for point in spec.points:
        one = point.spec
        assert one.graph["rewritten"].params.prompt == PROMPTS["rewrite"]
        assert one.graph["fused"].params.prompt == PROMPTS["fuse"]
        assert set(one.train.methods) == {"sft_raw", "raft"} and one.train.data == "fused"
        assert one.evaluate.domain == ["heldout"] and one.source.split.test > 0
        for method in one.train.methods.values():
            params = method.params
            assert params.learning_rate in frozen["learning_rates"]
            assert (params.epochs, params.batch_size, params.schedule, params.weight_decay, params.warmup_ratio) == (
                frozen["epochs"],
                frozen["batch"],
                frozen["schedule"],
                frozen["weight_decay"],
                frozen["warmup"],
            )
