"""The flow from rows to a checkpoint: what is computed, what is kept, and what an interruption costs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.errors import UserError
from refinery.store import Store
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap, weights
from trainers.data import order, prepare
from trainers.job import TrainJob, directory, fingerprint
from trainers.loop import MARKER
from trainers.train import last_whole, train

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stops a training as a signal would: nothing of ours catches it."""


def killer(at: int) -> Callable[[int, int, float], None]:
    def progress(step: int, total: int, loss: float) -> None:
        if step == at:
            raise Killed

    return progress


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def plain_loop(job: TrainJob) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Supervised fine-tuning written out: the losses of all steps, and the weights after them."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).train()
    rows = prepare(job.examples, tokenizer, max_length=1024).rows
    size, count = job.params.batch_size, job.params.max_steps or 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.params.learning_rate, weight_decay=0.0)
    losses = []
    for step in range(count):
        total, tokens = torch.zeros(()), 0
        for place in order(len(rows), count * size, job.seed)[step * size : (step + 1) * size]:
            ids = torch.tensor([rows[place].prompt + rows[place].answer])
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
            first = len(rows[place].prompt)
            total = total - sum(log_p[i - 1, ids[0, i]] for i in range(first, ids.shape[1]))
            tokens += ids.shape[1] - first
        loss = total / tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.params.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def test_sft_is_the_loop_written_out(job: JobMaker) -> None:
    one = job("sft", schedule="constant", weight_decay=0, learning_rate=1e-3, micro_batch_size=2)
    got: list[float] = []
    folder = train(one, lambda step, total, loss: got.append(loss))
    losses, expected = plain_loop(one)
    assert got == pytest.approx(losses, abs=1e-4)
    found = weights(folder)
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-4


def test_the_same_job_twice_gives_the_same_weights(job: JobMaker, tmp_path: Path) -> None:
    for method in ("sft", "raft"):
        one = train(job(method))
        two = train(job(method, _out=tmp_path / "again"))
        other = train(job(method, _seed=1))
        assert gap(one, two) == 0.0
        assert gap(one, other) > 1e-3


@pytest.fixture
def tied(tmp_path: Path) -> str:
    """The tiny model with one matrix for reading and writing words."""
    from transformers import LlamaForCausalLM

    config = LlamaForCausalLM.config_class.from_pretrained(tiny_model())
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "tied")
    return str(tmp_path / "tied")


@pytest.mark.parametrize("method", ["sft", "raft"])
def test_tied_weights_stay_tied_through_interruption_and_saving(
    job: JobMaker, tied: str, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"_model": tied, "max_steps": 4, "save_every": 2}
    with pytest.raises(Killed):
        train(job(method, **params), killer(3))
    folder = train(job(method, **params))
    assert "lm_head.weight" not in weights(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert gap(folder, train(job(method, _out=tmp_path / "undisturbed", **params))) == 0.0
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


def test_files_and_manifest(job: JobMaker, examples: list[Any]) -> None:
    long = replace(examples[0], id="long", response="word " * 300)
    prompt = "Known: {{ response }} {{ question }}"
    one = job("raft", _examples=[*examples, long], max_length=200, teacher_prompt=prompt)
    folder = train(one)
    assert folder == directory(one) and folder.name == fingerprint(one)
    names = {path.name for path in folder.iterdir()}
    assert {"manifest.json", "configuration.json", "model.safetensors", "tokenizer.json"} <= names
    assert "state" not in names
    said = manifest(folder)
    assert said["rows_dropped"] == {"too_long": 1} and said["rows_trained"] == len(examples)
    assert said["prompts"]["teacher_prompt"] == prompt
    assert said["prompts"]["first_teacher_prompt"].startswith("<|user|>Known: the answer is one what is right")
    assert said["params"]["top_k"] == 16 and said["base"] == "tiny" and said["data"] == "data"
    assert said["versions"]["trl"] and said["balancer"]["steps"] == 3 and said["seconds"] > 0


def test_complete_means_nothing_is_done_again(job: JobMaker) -> None:
    folder = train(job("sft"))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert train(job("sft", _name="renamed"), killer(1)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_everything_that_shapes_the_weights_is_in_the_name(job: JobMaker, examples: list[Any]) -> None:
    changed = [
        job("sft"),
        job("raft"),
        job("sft", learning_rate=1e-3),
        job("sft", _seed=1),
        job("sft", _base_identity="other"),
        job("sft", _data_fingerprint="other"),
        job("sft", _examples=examples[:-1]),
        job("sft", _examples=[replace(examples[0], response="x"), *examples[1:]]),
    ]
    assert len({fingerprint(one) for one in changed}) == len(changed)
    assert fingerprint(job("sft", _name="x", _role="tuning", _run_id="r", save_every=7)) == fingerprint(job("sft"))


@pytest.mark.parametrize("method", ["sft", "raft"])
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_mixed_precision_and_recomputed_activations(job: JobMaker, method: str, lora: Any) -> None:
    """bfloat16 arithmetic stays near float32, the weights are saved in it, and the losses go down."""
    options = {"lora": lora, "gradient_checkpointing": True, "learning_rate": 3e-3, "max_steps": 8}
    losses: list[float] = []
    folder = train(job(method, dtype="bfloat16", **options), lambda step, total, loss: losses.append(loss))
    first: list[float] = []
    with pytest.raises(Killed):
        train(job(method, **options), lambda *now: first.append(now[2]) or killer(1)(*now))
    assert losses[0] == pytest.approx(first[0], rel=0.02)
    assert losses[-1] < losses[0]
    assert all(value.dtype == torch.bfloat16 and value.isfinite().all() for value in weights(folder).values())


def test_another_configuration_in_the_folder_is_refused(job: JobMaker) -> None:
    one = job("sft")
    folder = directory(one)
    folder.mkdir(parents=True)
    other = {**json.loads(json.dumps({"seed": 5}))}
    (folder / "configuration.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="holds a training with another base, data, method"):
        train(one)


@pytest.mark.parametrize(
    ("method", "params"),
    [("sft", {}), ("raft", {}), ("raft", {"micro_batch_size": 2}), ("raft", {"lora": {"dropout": 0.1}})],
)
def test_a_killed_training_ends_with_the_weights_it_would_have_had(
    job: JobMaker, tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    params = {**params, "max_steps": 8, "save_every": 2}
    undisturbed = train(job(method, _out=tmp_path / "undisturbed", **params))
    for at in (1, 5):
        with pytest.raises(Killed):
            train(job(method, **params), killer(at))
    steps: list[int] = []
    resumed = train(job(method, **params), lambda step, total, loss: steps.append(step))
    assert steps == [5, 6, 7, 8]
    assert gap(undisturbed, resumed) == 0.0
    assert manifest(resumed)["resumed_at_step"] == 4
    if method == "raft":
        assert manifest(resumed)["balancer"] == manifest(undisturbed)["balancer"]


def test_a_checkpoint_that_was_cut_off_is_not_used(job: JobMaker, tmp_path: Path) -> None:
    params = {"max_steps": 8, "save_every": 2}
    one = job("sft", **params)
    with pytest.raises(Killed):
        train(one, killer(7))
    state = directory(one) / "state"
    assert sorted(path.name for path in state.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    (state / "checkpoint-6" / MARKER).unlink()
    (state / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    assert last_whole(state) == state / "checkpoint-4"
    assert gap(train(one), train(job("sft", _out=tmp_path / "undisturbed", **params))) == 0.0


def test_sigkill_in_another_process(job: JobMaker, tmp_path: Path) -> None:
    """The real thing: the process is killed where it stands, and the same command goes on."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pickle, signal, sys\n"
        "from trainers.train import train\n"
        "job = pickle.load(open(sys.argv[1], 'rb'))\n"
        "train(job, lambda step, total, loss: os.kill(os.getpid(), signal.SIGKILL) if step == 5 else None)\n"
    )
    import pickle

    params = {"max_steps": 6, "save_every": 2}
    (tmp_path / "job").write_bytes(pickle.dumps(job("sft", **params)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, str(script), str(tmp_path / "job")], env=environment)
    assert killed.returncode == -signal.SIGKILL
    resumed = train(job("sft", **params))
    assert manifest(resumed)["resumed_at_step"] == 4
    assert gap(resumed, train(job("sft", _out=tmp_path / "undisturbed", **params))) == 0.0


def test_lora_keeps_the_adapter_and_the_merged_weights(job: JobMaker) -> None:
    from peft import PeftModel

    folder = train(job("sft", lora={"rank": 2, "alpha": 4}))
    base = AutoModelForCausalLM.from_pretrained(tiny_model())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, folder / "adapter")(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-3)
    assert (before - merged).abs().max() > 0.01


def test_a_broken_gradient_costs_one_step(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.supervised import SupervisedTrainer

    real = SupervisedTrainer.compute_loss

    def breaking(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 1 else loss

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", breaking)
    folder = train(job("sft"))
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert manifest(folder)["steps_broken"] == 1


def test_hopeless_training_stops(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.supervised import SupervisedTrainer

    monkeypatch.setattr("trainers.loop.HOPELESS", 2)
    real = SupervisedTrainer.compute_loss
    monkeypatch.setattr(SupervisedTrainer, "compute_loss", lambda self, *a, **k: real(self, *a, **k) * float("inf"))
    with pytest.raises(UserError, match="no finite gradient for 2 steps in a row"):
        train(job("sft"))


def test_store_has_the_checkpoint_and_its_metrics(job: JobMaker, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    one = job("raft", _store=store, _run_id="run", _name="mine", max_steps=4, save_every=2)
    with pytest.raises(Killed):
        train(one, killer(3))
    row = store.checkpoint(fingerprint(one))
    assert row is not None and row["status"] == "running"
    folder = train(one)
    row = store.checkpoint(fingerprint(one))
    assert row is not None and (row["status"], row["name"], row["role"]) == ("complete", "mine", "final")
    assert row["path"] == str(folder)
    metrics: dict[str, list[int]] = {}
    for entry in store.training_metrics(fingerprint(one)):
        metrics.setdefault(entry["name"], []).append(entry["step"])
    names = "loss sft_loss kl_loss lambda coverage teacher_tail student_tail rollout_length grad_norm learning_rate"
    more = "rollouts_cut entropy step_seconds generation_seconds teacher_seconds student_seconds"
    tokens = "tokens rollout_tokens teacher_tokens student_tokens"
    assert {*names.split(), *more.split(), *tokens.split()} == metrics.keys()
    assert all(steps == [1, 2, 3, 4] for steps in metrics.values())
    other = Store(tmp_path / "other.duckdb")
    train(replace(one, store=other))
    found = other.checkpoint(fingerprint(one))
    assert found is not None and found["status"] == "complete"


def test_nothing_is_printed(job: JobMaker, capfd: pytest.CaptureFixture[str]) -> None:
    train(job("sft"))
    train(job("raft"))
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""


def test_model_without_chat_template(job: JobMaker, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_model

    bare = make_tiny_model(tmp_path / "bare", template=False)
    with pytest.raises(UserError, match="no chat template"):
        train(job("sft", _model=str(bare)))
