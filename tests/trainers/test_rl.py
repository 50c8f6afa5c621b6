"""GRPO: what TRL is handed and hands over, which prompts come when, what is learnt, and going on after a stop."""

import inspect
import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from refinery.errors import UserError
from refinery.store import Store
from tests.trainers.conftest import JobMaker, gap, make_examples
from tests.trainers.test_train import Killed, killer, manifest
from tests.trainers.two_processes import STEADY
from trainers import rl
from trainers.course import course
from trainers.footprint import Footprint, footprint, skeleton
from trainers.job import directory
from trainers.loop import METRICS
from trainers.train import _prepare, train

ROOT = Path(__file__).parents[2]
SMALL = {"num_generations": 4, "batch_size": 2, "max_completion_length": 8, "check": "contains"}
FORMAT = r"\A\W*[a-l]"
"""What a text of the random model begins with now and then."""


# ---- TRL


def test_what_trl_must_have() -> None:
    def names(name: str) -> list[str]:
        return list(inspect.signature(getattr(GRPOTrainer, name)).parameters)

    assert names("_tokenize_prompts") == ["self", "prompts"]
    assert names("_get_train_sampler") == ["self", "dataset"]
    assert names("_calculate_rewards")[:1] == ["self"] == names("_generate_single_turn")[:1]
    assert names("_save_checkpoint") == ["self", "model", "trial"]
    fields = set(inspect.signature(GRPOConfig).parameters)
    assert {*rl.SAME, "steps_per_generation", "max_completion_length", "disable_dropout"} <= fields
    text = inspect.getsource(GRPOTrainer)
    assert all(f"self.{name} = " in text for name in ("_step", "eos_token_ids", "generation_config"))
    assert all(f'"{name}"' in text for name in METRICS if name in ("kl", "reward_std", "frac_reward_zero_std"))
    prepared = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._step % generate_every == 0" in prepared


def test_every_option_of_vllm_is_trls() -> None:
    from trainers.rl_params import VllmRollouts

    fields = set(inspect.signature(GRPOConfig).parameters)
    assert {f"vllm_{name}" for name in VllmRollouts.model_fields} <= fields


@pytest.fixture
def trainer(job: JobMaker, tmp_path: Path) -> Any:
    """A maker of trainers whose rewards are given: `made(rewards, **params)`."""

    def made(judge: Any, **params: Any) -> rl.Grpo:
        run = _prepare(job("grpo", **{**SMALL, **params}), tmp_path)
        found = rl.build(run, judge)
        found.create_optimizer_and_scheduler(10)
        return found

    return made


def given(rewards: list[list[float | None]]) -> Any:
    def judge(groups: list[rl.Group]) -> rl.Judgement:
        assert all(len(group.texts) == len(group.ids) == len(group.whole) == 4 for group in groups)
        return rl.Judgement([list(one) for one in rewards], {"thing": [1.0, 2.0]})

    return judge


def advantages(trainer: rl.Grpo) -> torch.Tensor:
    trainer.model.train()
    rows = [dict(trainer.train_dataset[place]) for place in (0, 1) for _ in range(4)]
    return trainer._generate_and_score_completions(rows)["advantages"]


def test_advantages_are_relative_to_the_group(trainer: Any) -> None:
    rewards = [[1.0, 0.25, 0.5, 0.75], [0.7, 0.7, 0.7, 0.7]]
    one = trainer(given(rewards))
    found = advantages(one)
    group = torch.tensor(rewards[0], dtype=torch.float64)
    expected = (group - group.mean()) / (group.std(unbiased=True) + 1e-4)
    assert torch.allclose(found[:4].double(), expected, atol=1e-4)
    assert found[4:].tolist() == [0.0] * 4  # exactly: 0.7 is no number of float32, and its mean over four not always
    assert one._metrics["train"]["frac_reward_zero_std"] == [0.5]
    assert one._metrics["train"]["reward/thing"] == [1.5]
    raw = advantages(trainer(given(rewards), scale_rewards="none"))
    assert torch.allclose(raw[:4].double(), group - group.mean(), atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.35, 2.7182818])
def test_equal_rewards_have_no_variance_in_float32(value: float) -> None:
    """Without rounding the mean of ten equal values misses them by up to a rounding."""
    reward = rl.Reward(lambda groups: rl.Judgement([[value] * 10]), 10)
    found = reward([], ["x"] * 10, [[1]] * 10, [0] * 10, lambda *_: None)
    row = torch.tensor(found, dtype=torch.float32)
    assert torch.nanmean(row) == row[0] and abs(found[0] - value) < 1e-5  # type: ignore[operator]


def test_an_unknown_reward_is_no_reward_of_zero(trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = trainer(given([[1.0, 0.0, None, 1.0], [None] * 4]))
    found = advantages(one).double()
    known = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    expected = (known - known.mean()) / (known.std(unbiased=True) + 1e-4)
    assert torch.allclose(found[[0, 1, 3]], expected, atol=1e-4)
    assert found[2] == 0 and found[4:].tolist() == [0.0] * 4
    assert one._metrics["train"]["reward"] == [pytest.approx(2 / 3)]
    assert one._metrics["train"]["reward/unknown"] == [5 / 8]
    assert not caplog.records


def test_a_group_is_never_split() -> None:
    reward = rl.Reward(given([[0.0] * 4]), 4)
    with pytest.raises(AssertionError, match="split"):
        reward([], ["x"] * 4, [[1]] * 4, [0, 0, 0, 1], lambda *_: None)


# ---- which prompts come when


def test_prompts_of_a_generation_come_as_often_as_they_are_learnt_from(job: JobMaker, tmp_path: Path) -> None:
    params = {**SMALL, "steps_per_generation": 2, "num_iterations": 3, "max_steps": 8, "rollouts_per_pass": 4}
    one = job("grpo", **params)
    run = _prepare(one, tmp_path)
    places = run.course.places
    assert len(places) == 16 and run.course.steps == 8
    first, second = places[:4], places[12:16]
    assert places == first * 3 + second and len({*first, *second}) == 8
    built = rl.build(run, given([]))
    assert built.args.per_device_train_batch_size == 4 and built.args.gradient_accumulation_steps == 2
    drawn = built._get_train_sampler()
    batch = 4 * 4  # prompts of a generation times their rollouts
    generation = [place for place in first for _ in range(4)]
    assert drawn[:batch] == generation
    # every one of the four micro-batches of a generation draws it anew, and so does each of three iterations
    assert drawn[: batch * 12] == generation * 12 and drawn[batch * 12] == second[0]
    assert built.args.save_steps == 102  # a whole number of generations of six steps


def test_epochs_count_passes_over_the_prompts(job: JobMaker) -> None:
    one = job("grpo", **{**SMALL, "max_steps": None, "epochs": 1.5, "num_iterations": 2})
    found = course(one, AutoTokenizer.from_pretrained(one.model))
    assert found.steps == 2 * 15  # 20 rows, two a step, one and a half passes, each learnt from twice


def test_what_cannot_be_is_refused(job: JobMaker) -> None:
    for params, words in (
        ({"max_steps": 3, "steps_per_generation": 2}, "not a multiple of steps_per_generation 2"),
        ({"lora": {"dropout": 0.1}}, "leave lora.dropout at 0"),
        ({"format": "(("}, "does not work"),
    ):
        with pytest.raises(ValueError, match=words):
            job("grpo", **params)
    with pytest.raises(UserError, match="rollouts_per_pass 3 does not divide the 8 rollouts"):
        train(job("grpo", **SMALL, rollouts_per_pass=3))
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match="rollouts by vllm need it"):
            train(job("grpo", **SMALL, vllm={}))


# ---- the method


def test_rewards_of_the_answer_the_format_and_the_length(job: JobMaker, tmp_path: Path, monkeypatch: Any) -> None:
    """Judged on texts given by hand: right, right and long, in the format, nothing."""
    from trainers.methods import grpo

    judges: list[Any] = []
    monkeypatch.setattr(rl, "build", lambda run, judge: judges.append(judge))
    params = {**SMALL, "format": r"\Ayes", "format_weight": 0.25, "overlong_tokens": 4, "overlong_weight": 0.5}
    run = _prepare(job("grpo", **params), tmp_path)
    run.notes["rollout_limit"] = 8
    grpo.build(run)
    place = next(i for i, row in enumerate(run.prepared.rows) if row.id == "0")
    texts = ["The answer is one, yes", "so the answer is one", "yes yes", "no"]
    ids = [[1] * 3, [1] * 8, [1] * 6, []]
    made = judges[0]([rl.Group(place, texts, ids, [True] * 4)])
    assert made.rewards == [[1.0, 1.0 - 0.5, 0.25 - 0.25, 0.0]]
    assert made.told == {"answer": [1, 1, 0, 0], "format": [0, 0, 1, 0], "overlong": [0, 1, 0.5, 0]}


def test_rows_without_anything_to_compare_are_left_out(job: JobMaker) -> None:
    rows = make_examples(6)
    params = {**SMALL, "check": "number", "of": "{{ '7' if id == '3' else answer }}", "batch_size": 1, "max_steps": 1}
    folder = train(job("grpo", _examples=rows, **params))
    assert manifest(folder)["rows_dropped"] == {"unreadable_reference": 5} and manifest(folder)["rows_trained"] == 1


def test_reward_rises(job: JobMaker, tmp_path: Path) -> None:
    """A model of random weights learns how to begin, and what is stored tells it."""
    store = Store(tmp_path / "refinery.duckdb")
    params = {"num_generations": 8, "batch_size": 4, "max_completion_length": 4, "format": FORMAT, "epochs": 10}
    params |= {"learning_rate": 1e-3, "max_steps": 30, "schedule": "constant", "format_weight": 1.0}
    folder = train(job("grpo", **params, _store=store))
    rows = store.query(
        "SELECT step, name, value FROM training_metrics WHERE checkpoint = ? ORDER BY step", [folder.name]
    )
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row["value"])
    assert len(found["reward"]) == 30
    first, last = sum(found["reward"][:5]) / 5, sum(found["reward"][-5:]) / 5
    assert first < 0.5 and last > 0.9
    names = {"reward_std", "zero_variance", "rollouts_cut", "rollout_length", "clip_ratio", "entropy", "grad_norm",
             "rollout_tokens", "generation_seconds", "teacher_seconds"}  # fmt: skip
    assert names <= set(found) and "sft_loss" not in found and "reference_kl" not in found
    assert found["reward/format"] == pytest.approx(found["reward"], abs=1e-4) and not any(found["reward/answer"])
    assert manifest(folder)["final"]["reward"] == pytest.approx(sum(found["reward"][-10:]) / 10)


def test_the_reference_holds_it_back(job: JobMaker, tmp_path: Path) -> None:
    """The divergence is 0 at the first step and stored; a large weight keeps the weights nearer to where they were."""
    store = Store(tmp_path / "refinery.duckdb")
    params = {**SMALL, "format": FORMAT, "learning_rate": 3e-3, "max_steps": 6}
    base = Path(job("grpo").model)
    free = train(job("grpo", **params))
    held = train(job("grpo", **params, beta=5.0, _store=store))
    sql = "SELECT value FROM training_metrics WHERE name = 'reference_kl' ORDER BY step"
    found = [row["value"] for row in store.query(sql)]
    assert found[0] == pytest.approx(0, abs=1e-6) and len(found) == 6 and max(found) > 0
    assert manifest(held)["params"]["beta"] == 5.0 and gap(held, base) > 0 and gap(free, held) > 1e-4


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"beta": 0.1, "rollouts_per_pass": 2, "loss_type": "grpo"},
        {"lora": {"rank": 4}, "beta": 0.1},
        {"num_iterations": 2, "loss_type": "dr_grpo"},
        {"steps_per_generation": 2, "num_iterations": 2, "micro_batch_size": 1, "max_steps": 8},
    ],
    ids=["plain", "reference", "lora", "iterations", "generations"],
)
def test_a_killed_training_ends_with_the_weights_it_would_have_had(
    job: JobMaker, tmp_path: Path, params: dict[str, Any]
) -> None:
    params = {**SMALL, "format": FORMAT, "learning_rate": 3e-3, "max_steps": 6, "save_every": 2, **params}
    undisturbed = train(job("grpo", _out=tmp_path / "undisturbed", **params))
    stopped = 7 if params["max_steps"] == 8 else 5
    with pytest.raises(Killed):
        train(job("grpo", **params), killer(stopped))
    state = directory(job("grpo", **params)) / "state" / f"checkpoint-{4}"
    assert json.loads((state / "refinery.json").read_text())["passes"] > 0
    resumed = train(job("grpo", **params))
    assert manifest(resumed)["resumed_at_step"] == 4
    assert gap(undisturbed, resumed) == 0.0
    assert gap(resumed, Path(job("grpo").model)) > 1e-4


def test_micro_batches_give_the_same_weights(job: JobMaker, tmp_path: Path) -> None:
    """The same rollouts: how many fit into one pass changes rounding alone."""
    params = {**SMALL, "format": FORMAT, "learning_rate": 1e-3, "max_steps": 1}
    whole = train(job("grpo", **params))
    parts = train(job("grpo", **params, rollouts_per_pass=4, _out=tmp_path / "parts"))
    assert gap(whole, parts) < 1e-5


def test_memory_is_that_of_all_rollouts_of_a_pass(job: JobMaker) -> None:
    def estimate(**params: Any) -> Footprint:
        one = job("grpo", **{**SMALL, "micro_batch_size": 1, **params})
        found = course(one, AutoTokenizer.from_pretrained(one.model))
        return footprint(one, found, skeleton(one.model, None, False), on_gpu=False)

    four = estimate()
    assert estimate(num_generations=8).activations == 2 * four.activations
    assert estimate(rollouts_per_pass=2).activations * 2 == four.activations
    assert estimate(max_completion_length=16).activations > four.activations
    assert estimate(max_completion_length=5000).activations == estimate(max_completion_length=9000).activations
    assert estimate(beta=0.1).weights == 2 * four.weights
    assert estimate(beta=0.1, lora={}).weights < 2 * four.weights


# ---- several processes


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{}, {"loss_type": "grpo", "beta": 0.1}, {"lora": {"rank": 4}, "scale_rewards": "batch"}]
)
def test_two_processes_are_one(job: JobMaker, tmp_path: Path, params: dict[str, Any]) -> None:
    """Each has whole groups; advantages, denominators and gradients are those of the whole batch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    params = {**SMALL, "format": "[a-l]", "learning_rate": 1e-3, "max_steps": 3, **params}
    folders = []
    for count in (1, 2):
        one = job("grpo", **params, _out=tmp_path / str(count))
        file = tmp_path / f"job-{count}"
        file.write_bytes(pickle.dumps(one))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [str(ROOT / "tests/trainers/rl_processes.py"), str(file)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        folders.append(directory(one))
    assert gap(*folders) < STEADY
    assert gap(folders[0], Path(job("grpo").model)) > 1e-4
    totals = [manifest(folder)["final"] for folder in folders]
    assert totals[0]["rollout_tokens"] == totals[1]["rollout_tokens"]
    assert totals[0]["reward"] == pytest.approx(totals[1]["reward"], abs=1e-5)
