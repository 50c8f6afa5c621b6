"""Every distillation method on the shipped small model: a few steps, an interruption, the same weights. And what two of
them do beyond their parameters: re-invoke's phases, SDPO's prompts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from refinery.checks import Check
from refinery.errors import UserError
from refinery.models.transformers import resolve
from refinery.records import Example
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap, make_examples, weights
from tests.trainers.test_distill import ROUNDING, build, recorded, rollout
from tests.trainers.test_train import Killed, killer
from trainers.errors import Diverged
from trainers.job import directory
from trainers.loop import MARKER, Watch
from trainers.methods import sdpo
from trainers.phases import two_phases
from trainers.reprompt import Reprompt
from trainers.train import train

METHODS: dict[str, dict[str, Any]] = {
    "raft": {"balance": "gradient"},
    "acopd": {"support": "random", "top_k": 8},
    "sdft": {"teacher_ema": 0.5, "skip_tokens": 1},
    "opd": {"estimator": "rao_blackwell"},
    "gkd": {"rollout_source": "teacher", "teacher_prompt": "{{ question }} {{ answer }}"},
    "opsd": {"preset": "released", "lora": {"rank": 4, "dropout": 0.1}},
    "offline_distill": {"teacher_prompt": "{{ question }} {{ answer }}", "tail": "bucket", "top_k": 20},
    "reinvoke": {"max_steps": 2, "second_max_steps": 2},
    "sdpo": {"rollouts": 2, "feedback": "{{ 'good' if correct else 'wrong: ' ~ attempt[:9] }}"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_with_the_weights_it_would_have_had(job: JobMaker, tmp_path: Path, method: str) -> None:
    """Averages, λ, rollouts, draws and phases go on where they were."""
    params = {"_model": "lab", "max_steps": 4, "save_every": 2, "max_completion_length": 6, "learning_rate": 1e-3}
    params |= {"micro_batch_size": 2, **METHODS[method]}
    undisturbed = train(job(method, _out=tmp_path / "undisturbed", **params))
    with pytest.raises(Killed):
        train(job(method, **params), killer(3))
    state = json.loads((directory(job(method, **params)) / "state" / "checkpoint-2" / MARKER).read_text())
    assert state["steps_broken"] == 0
    resumed = train(job(method, **params))
    manifest = json.loads((resumed / "manifest.json").read_text())
    assert manifest["resumed_at_step"] == 2 and manifest["steps"] == 4
    assert gap(undisturbed, resumed) == 0.0
    assert gap(resumed, Path(resolve("lab"))) > 1e-4


def test_a_lost_average_would_be_noticed(job: JobMaker, tmp_path: Path) -> None:
    """The resume test can fail: without what the checkpoint holds of the teacher, training does not go on."""
    params = {"max_steps": 4, "save_every": 2, "max_completion_length": 6, "teacher_ema": 0.5}
    with pytest.raises(Killed):
        train(job("sdft", **params), killer(3))
    (directory(job("sdft", **params)) / "state" / "checkpoint-2" / "teacher_ema.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        train(job("sdft", **params))


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("reinvoke", {"prompts": "general", "teacher_prompt": "Known: {{ answer }}\n{{ question }}"}, "teacher_prompt"),
        ("sdpo", {"teacher_shuffle": True}, "teacher_shuffle"),
    ],
)
def test_what_a_method_would_ignore_is_refused(
    job: JobMaker, method: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{message}: "):
        job(method, **params)
    for name in params:
        job(method, **{key: value for key, value in params.items() if key != name})


# ---- re-invoke


def test_first_phase_is_sft(job: JobMaker, tmp_path: Path) -> None:
    """The checkpoint between the phases has the weights of `sft`, and the rows come in its order."""
    params = {"max_steps": 3, "save_every": 3, "learning_rate": 1e-3, "warmup_ratio": 0.34}
    one = job("reinvoke", **params, second_max_steps=2, max_completion_length=6)
    with pytest.raises(Killed):
        train(one, killer(4))
    from safetensors.torch import load_file

    found = load_file(directory(one) / "state" / "checkpoint-3" / "model.safetensors")
    expected = weights(train(job("sft", **params)))
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < ROUNDING


def test_second_phase_is_on_the_named_prompts(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of the other step, the teacher the model before both phases, an optimiser that begins anew."""
    recorded(monkeypatch)
    general = [Example(f"g{i}", [{"role": "user", "content": f"say {i}"}], "", "") for i in range(6)]
    params = {"max_steps": 2, "second_max_steps": 2, "max_completion_length": 6, "prompts": "general"}
    trainer, rows = build(job("reinvoke", **params, _extra={"prompts": general}, second_learning_rate=1e-3))
    assert [len(rows), trainer.args.max_steps] == [26, 4]
    assert all(place < 20 for place in trainer.places[:8]) and all(place >= 20 for place in trainer.places[8:])
    seen: list[dict[str, float]] = []

    def log(logs: dict[str, float], start_time: float | None = None) -> None:
        seen.append({**logs, **{name: values[-1] for name, values in trainer._metrics["train"].items()}})
        trainer._metrics["train"].clear()

    trainer.log = log
    steps: list[float] = []
    real = trainer.teacher.step

    def noting() -> None:
        real()
        state = trainer.optimizer.state
        steps.append(max((float(s["step"]) for s in state.values()), default=0.0))

    trainer.teacher.step = noting
    trainer.train()
    assert steps == [1, 2, 1, 2]
    assert all({"sft_loss", "kl_loss"} & one.keys() == {"sft_loss"} for one in seen[:2])
    assert all({"sft_loss", "kl_loss"} & one.keys() == {"kl_loss"} for one in seen[2:4])
    assert [one["learning_rate"] for one in seen[:4]] == pytest.approx([1e-2, 5e-3, 1e-3, 5e-4], rel=1e-6)


def test_another_loss_is_no_divergence() -> None:
    """Where the second phase begins the loss may jump; within a phase a jump of the same size stops the training."""

    def losses(*names: str) -> None:
        watch = Watch(None, "", [1] * 30, None)
        for step in range(1, 31):
            logs = {"loss": 0.1 if step <= 15 else 9.0, names[step > 15]: 1.0}
            watch.on_log(None, SimpleNamespace(log_history=[], global_step=step), SimpleNamespace(), logs)

    losses("sft_loss", "kl_loss")
    with pytest.raises(Diverged, match="run away"):
        losses("kl_loss", "kl_loss")


def test_two_schedules() -> None:
    class Args:
        lr_scheduler_type = "cosine"

        def get_warmup_steps(self, steps: int) -> int:
            return steps // 5

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = two_phases(optimizer, Args(), 10, 15, 0.5)
    rates = []
    for _ in range(15):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0.0 and rates[2] == 2.0 and rates[6] == pytest.approx(1.0) and rates[9] < 0.2
    assert rates[10] == 0.0 and rates[11] == 1.0 and rates[13] == pytest.approx(0.5)


# ---- SDPO


def reprompt(**options: Any) -> Reprompt:
    examples = [Example("a", [{"role": "user", "content": "Add 12 to 34"}], "46", "", meta={"hint": "count on"})]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    given = {"template": sdpo.TEACHER_PROMPT, "feedback": None, "check": Check("contains"), "context": None, **options}
    return Reprompt(tokenizer, examples, **given)


def attempts(made: Reprompt, *texts: str) -> list[list[int]]:
    return [[*made.tokenizer(text)["input_ids"], made.tokenizer.eos_token_id] for text in texts]


def test_a_solution_is_another_attempt_that_passes() -> None:
    made = reprompt()
    z = attempts(made, "you get 45", "<think>12 and 34</think> you get: 46.", "say 46")
    [kept], [shown], shares = made([0], [z])
    texts = [made.tokenizer.decode(ids) for ids in shown]
    assert kept == z and shares == {"solved": pytest.approx(2 / 3), "informed": 1.0}
    assert "you get: 46." in texts[0] and "think" not in texts[0] and "say 46" not in texts[0]
    assert "say 46" in texts[1] and "you get: 46." in texts[2]
    assert all(text.startswith("<|user|>Add 12 to 34") and text.endswith("<|assistant|>") for text in texts)


def test_what_cannot_teach_is_left_out() -> None:
    made = reprompt()
    z = attempts(made, "you get 45", "46")
    [kept], _, shares = made([0], [z])
    assert kept == [z[0]] and shares == {"solved": 0.5, "informed": 0.5}  # the right one has no other to learn from
    nothing = attempts(made, "45", "44")
    assert made([0], [nothing])[0] == [[]]
    assert reprompt(context=20)([0], [z])[0] == [[]]


def test_feedback_is_of_the_attempt_itself() -> None:
    made = reprompt(feedback="{{ '' if correct else 'not ' ~ attempt ~ '; ' ~ hint }}")
    [kept], [shown], _ = made([0], [attempts(made, "45", "44")])
    texts = [made.tokenizer.decode(ids) for ids in shown]
    assert len(kept) == 2 and "not 45; count on" in texts[0] and "not 44; count on" in texts[1]
    assert "A correct solution" not in texts[0]


def test_a_step_without_a_solution_leaves_the_weights(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to learn from is no crash and no gradient."""
    recorded(monkeypatch)
    examples = [Example(str(i), [{"role": "user", "content": f"say {i}"}], "never said", "") for i in range(8)]
    folder = train(job("sdpo", _examples=examples, rollouts=2, max_completion_length=6, weight_decay=0))
    assert gap(folder, tiny_model()) == 0.0
    assert json.loads((folder / "manifest.json").read_text())["final"]["informed"] == 0.0
    with pytest.raises(UserError, match="nothing to check attempts by"):
        train(job("sdpo", _examples=make_examples(), rollouts=1))
    assert rollout(0)
