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


def test_what_vllm_adds_to_the_loss_is_part_of_it_and_where_it_runs_is_not() -> None:
    assert fingerprint(one("grpo")) == "817a63bbb164f7497a645266172f2a71"  # as before vllm counted
    assert fingerprint(one("dart")) == "35d4aae711c60a03fc26080e5e84a06d"
    elsewhere = {"mode": "server", "server_base_url": "http://other", "server_timeout": 1, "group_port": 2}
    there = {"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "enable_sleep_mode": True}
    on = fingerprint(one("grpo", vllm={}))
    assert fingerprint(one("grpo", vllm={**elsewhere, **there})) == on
    others: list[dict[str, Any]] = [
        {"importance_sampling_correction": False},
        {"importance_sampling_mode": "token_mask"},
        {"importance_sampling_clip_max": None},
        {"max_model_length": 64},
    ]
    found = {fingerprint(one("grpo", vllm=vllm)) for vllm in others}
    assert len({fingerprint(one("grpo")), on, *found}) == 6


def test_where_vllm_samples_a_students_rollouts_is_no_part_of_it() -> None:
    engine: Any = {"rollout_engine": "vllm"}
    assert fingerprint(one("sdft", **engine, vllm={"sleep": True})) == fingerprint(one("sdft", **engine))
