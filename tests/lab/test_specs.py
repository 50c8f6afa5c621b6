"""The lab's ready specs use the settings that the lab was frozen with, and the prompts its base was trained on."""

import json
from pathlib import Path

import pytest

from refinery.lab import BASE, PROMPTS
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
