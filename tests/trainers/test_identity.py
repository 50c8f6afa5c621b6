"""Trainings that stand keep standing: fingerprints of settings that people have run."""

from pathlib import Path
from typing import Any

from refinery.catalog import METHODS, module
from refinery.records import Example
from trainers.job import TrainJob, fingerprint


def one(method: str, **params: Any) -> TrainJob:
    return TrainJob(
        name=method,
        method=method,
        params=module(METHODS, method).Params(**params),
        seed=0,
        model="lab",
        examples=[Example("0", [{"role": "user", "content": "q"}], "a", "r")],
        data_fingerprint="data",
        out=Path("x"),
        base_identity="tiny",
    )


def test_fingerprints_are_those_of_before() -> None:
    assert fingerprint(one("sft")) == "74557df550e2c71643c158be9eb60e27"
    assert fingerprint(one("sft", learning_rate=1e-3, lora={"rank": 4})) == "a7abc07ec4467795b665298c9ea49f7c"
    assert fingerprint(one("raft")) == "86125d6d6007c48106bed9c2dc9041a8"


def test_what_is_watched_is_no_part_of_it() -> None:
    watched = one("sft", save_every=3, report_to=["tensorboard"], probe_every=2, probe_rows=4)
    assert fingerprint(watched) == fingerprint(one("sft"))
