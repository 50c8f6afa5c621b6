"""What distillation's parameters do: teachers, contexts, rollouts, reductions, balances, and what must not matter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from refinery.errors import UserError
from tests.trainers.conftest import JobMaker, gap, make_examples
from tests.trainers.test_distill import ROUNDING, base, batch_of, build, log_probabilities, recorded, rollout
from trainers.conditioned import shuffled
from trainers.distill import ConditionedDistillation
from trainers.distill_params import DistillParams
from trainers.methods import opd, opsd, sdft
from trainers.train import train

SHORT = {"max_completion_length": 8, "lora": None, "rollout_top_p": 1.0, "rollout_top_k": 0}


def reverse_kl(model: Any, teacher: Any, row: Any, z: list[int], seen: list[int]) -> torch.Tensor:
    """(tokens,) in float64, by unpadded forward passes."""
    log_p, log_q = log_probabilities(model, row.prompt, z), log_probabilities(teacher, seen, z)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


# ---- teachers


def test_ema_is_the_textbook_average(job: JobMaker) -> None:
    """φ_s = (1-α)^s θ_0 + α Σ (1-α)^(s-i) θ_i, over the very parameters that are trained, in full and under LoRA."""
    for lora in (None, {"rank": 4}):
        trainer, _ = build(job("sdft", **{**SHORT, "lora": lora, "teacher_ema": 0.3, "max_steps": 4}))
        average = trainer.teacher.average
        assert average is not None and all(p.requires_grad for p in average.trained.values())
        seen = [{n: p.detach().double().clone() for n, p in average.trained.items()}]

        def noting(loss: Any = None, seen: Any = seen, average: Any = average) -> None:
            seen.append({n: p.detach().double().clone() for n, p in average.trained.items()})

        real = average.update
        average.update = lambda real=real, noting=noting: (noting(), real())
        trainer.train()
        assert len(seen) == 5 and (lora is None) == ("model.embed_tokens.weight" in seen[0])
        for name, value in average.weights.items():
            expected = 0.7**4 * seen[0][name] + sum(0.3 * 0.7 ** (4 - i) * seen[i][name] for i in range(1, 5))
            assert value.dtype == torch.float32 and torch.allclose(value.double(), expected, atol=1e-6)


def test_ema_teaches_with_its_own_weights_and_head(job: JobMaker) -> None:
    """States and head are those of a model that has the averaged weights; the student's are back afterwards."""
    trainer, rows = build(job("sdft", **SHORT, teacher_ema=0.3))
    trainer.train()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    copy = base()
    copy.load_state_dict(trainer.teacher.average.weights, strict=False)
    prompt, z = rows[3].teacher_prompt, rollout(3)
    [states] = trainer._teacher_states([prompt], [z])
    with torch.no_grad():
        own = copy.base_model(input_ids=torch.tensor([prompt + z])).last_hidden_state[0, len(prompt) - 1 : -1]
    assert torch.allclose(states, own, atol=1e-5)
    assert torch.equal(trainer.teacher.head(trainer.model).weight, copy.lm_head.weight)
    assert (copy.lm_head.weight - trainer.model.lm_head.weight).abs().max() > 1e-3
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    assert trainer.model.training


def test_adapter_off_is_the_base_bit_for_bit(job: JobMaker) -> None:
    trainer, rows = build(job("opsd", **{**SHORT, "lora": {"rank": 4, "dropout": 0.2}}, learning_rate=0.1))
    trainer.train()
    model = base()
    for place in (0, 3):
        prompt, z = rows[place].teacher_prompt, rollout(place)
        [states] = trainer._teacher_states([prompt], [z])
        with torch.no_grad():
            own = model.base_model(input_ids=torch.tensor([prompt + z[:-1]])).last_hidden_state[0, len(prompt) - 1 :]
        assert torch.equal(states, own)
    assert torch.equal(trainer.teacher.head(trainer.model).weight, model.lm_head.weight)


def test_live_teacher_is_the_student_in_another_context(job: JobMaker) -> None:
    """With the student's own prompt there is nothing to learn, before training and after; with a context there is."""
    for prompt, least in ((None, 0.0), (sdft.TEACHER_PROMPT, 0.1)):
        trainer, rows = build(job("sdft", **SHORT, teacher="live", teacher_prompt=prompt))
        for _ in range(2):
            seen = [replace(row, teacher_prompt=row.teacher_prompt or row.prompt) for row in rows]
            batch = batch_of(trainer, seen, [3, 4])
            value = trainer._sums(trainer.model, batch).kl.item()
            assert value > least if prompt else value == pytest.approx(0.0, abs=1e-5)
            trainer.train()


# ---- contexts


def test_shuffled_context_is_another_row_s() -> None:
    examples = make_examples(12)
    shown = shuffled(examples, seed=1)
    for example in examples:
        fields = shown[example.id]
        assert fields["question"] == example.question and fields["id"] == example.id
        assert fields["response"] != example.response
        assert any(fields["response"] == e.response and fields["answer"] == e.answer for e in examples)
    assert shown == shuffled(examples, seed=1) != shuffled(examples, seed=2)
    with pytest.raises(UserError, match="two rows"):
        shuffled(examples[:1], seed=0)
    same = [replace(e, response="x", answer="x") for e in examples[:2]]
    assert shuffled(same, 0)[same[0].id]["response"] == "x"


def test_shuffle_reaches_the_teacher(job: JobMaker) -> None:
    prompt = "Known: {{ response }}\n{{ question }}"
    texts = []
    for shuffle in (False, True):
        trainer, rows = build(job("acopd", **SHORT, teacher_prompt=prompt, teacher_shuffle=shuffle))
        texts.append([trainer._tokenizer.decode(row.teacher_prompt) for row in rows])
    for example, own, other in zip(make_examples(), *texts, strict=True):
        assert example.response in own and example.question in own and example.question in other
    assert sum(a == b for a, b in zip(*texts, strict=True)) == 0


def test_rows_without_a_response_are_enough_where_none_is_used(job: JobMaker) -> None:
    examples = [replace(e, response="", answer="") for e in make_examples()]
    train(job("opd", **SHORT, _examples=examples))
    for method, params in (("sdft", {}), ("raft", {}), ("offline_distill", {}), ("gkd", {})):
        with pytest.raises(UserError, match="empty_response 20"):
            train(job(method, **SHORT, **params, _examples=examples))


# ---- the loss


def expected_rows(trainer: Any, rows: Any, places: list[int], skip: int) -> list[torch.Tensor]:
    return [reverse_kl(base(), base(), rows[p], rollout(p), rows[p].teacher_prompt)[skip:] for p in places]


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("reduction", ["rows", "tokens"])
def test_skipped_tokens_and_reductions(job: JobMaker, reduction: str, skip: int) -> None:
    """Rollouts of 1 to 6 tokens; those of three or fewer leave nothing to learn from when three are skipped."""
    trainer, rows = build(job("sdft", **SHORT, reduction=reduction, skip_tokens=skip))
    places = [0, 1, 2, 3, 4, 5]
    sums = trainer._sums(trainer.model, batch_of(trainer, rows, places))
    found = expected_rows(trainer, rows, places, skip)
    expected = sum(row.sum() if reduction == "tokens" else row.sum() / max(1, len(row)) for row in found)
    assert sums.kl.item() == pytest.approx(float(expected), rel=1e-4)
    assert sums.sft.item() == 0.0


def test_units_count_what_is_averaged(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch)
    for reduction in ("rows", "tokens"):
        trainer, _ = build(job("sdft", **SHORT, reduction=reduction, skip_tokens=2, rollouts=3))
        inputs = [trainer.train_dataset[place] for place in range(4)]
        batch = trainer._generate_and_score_completions(inputs)
        lengths = [len(z) for zs in batch["rollout"] for z in zs]
        assert [len(zs) for zs in batch["rollout"]] == [3] * 4
        assert int(batch["units"]) == (12 if reduction == "rows" else sum(max(0, n - 2) for n in lengths))
        assert batch["answer"] == [[]] * 4


def test_importance_weights_are_capped_ratios(job: JobMaker) -> None:
    """A sampler whose likelihoods are off by log 1.5 at every token weighs 1.5, one off by log 9 the cap of 2."""
    trainer, rows = build(job("sdft", **SHORT, importance_cap=2.0, skip_tokens=1))
    places = [3, 4, 5]
    batch = batch_of(trainer, rows, places)
    plain = [trainer._sums(trainer.model, batch_of(trainer, rows, [p])).kl.item() for p in places]
    off = torch.tensor([1.0, 1.5, 9.0]).log()
    batch["sampler"] = []
    for place, shift in zip(places, off, strict=True):
        z = rollout(place)
        log_p = log_probabilities(base(), rows[place].prompt, z)
        batch["sampler"].append([[(log_p[i, token] - shift).item() for i, token in enumerate(z)]])
    got = trainer._sums(trainer.model, batch).kl.item()
    assert got == pytest.approx(plain[0] + 1.5 * plain[1] + 2.0 * plain[2], rel=1e-4)


def test_rao_blackwell_has_the_value_of_analytic_and_another_gradient(job: JobMaker) -> None:
    gradients, values = [], []
    for estimator in ("analytic", "rao_blackwell"):
        trainer, rows = build(job("opd", **SHORT, estimator=estimator, teacher_prompt="Say {{ question }}"))
        sums = trainer._sums(trainer.model, batch_of(trainer, rows, [3, 4, 5]))
        values.append(sums.kl.item())
        gradients.append(torch.autograd.grad(sums.kl, trainer.model.lm_head.weight)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    model, extra = base(), 0.0
    for place in (3, 4, 5):
        z, row = rollout(place), rows[place]
        with torch.enable_grad():
            logits = model(input_ids=torch.tensor([row.prompt + z])).logits[0, len(row.prompt) - 1 : -1]
        chosen = logits.log_softmax(-1)[torch.arange(len(z)), torch.tensor(z)]
        d = reverse_kl(base(), base(), row, z, row.teacher_prompt)
        extra = extra + sum(chosen[t] * d[t + 1 :].sum().float() for t in range(len(z))) / len(z)
    [wanted] = torch.autograd.grad(extra, model.lm_head.weight)
    assert torch.allclose(gradients[1] - gradients[0], wanted, atol=1e-4 * wanted.abs().max())
    assert wanted.abs().max() > 0.01


def test_order_and_company_do_not_matter(job: JobMaker) -> None:
    """The batch's sums are those of its rows alone, however long the others are."""
    for method in ("sdft", "raft"):
        trainer, rows = build(job(method, **SHORT))
        places = [3, 8, 5, 0]
        together = trainer._sums(trainer.model, batch_of(trainer, rows, places))
        turned = trainer._sums(trainer.model, batch_of(trainer, rows, places[::-1]))
        alone = [trainer._sums(trainer.model, batch_of(trainer, rows, [p])) for p in places]
        assert together.kl.item() == pytest.approx(turned.kl.item(), rel=1e-5)
        assert together.kl.item() == pytest.approx(sum(one.kl.item() for one in alone), rel=1e-4)
        assert together.sft.item() == pytest.approx(sum(one.sft.item() for one in alone), rel=1e-4)


@pytest.mark.parametrize(("method", "params"), [
    ("sdft", {"reduction": "tokens", "teacher_ema": 0.5}),
    ("sdft", {"preset": "released"}),
    ("offline_distill", {"teacher_prompt": "Say {{ answer }}: {{ question }}"}),
    ("raft", {"balance": "gradient"}),
    ("raft", {"balance": "initial"}),
    ("raft", {"balance": 0.5}),
])  # fmt: skip
def test_accumulation_changes_nothing(
    job: JobMaker, monkeypatch: pytest.MonkeyPatch, method: str, params: dict[str, Any]
) -> None:
    """1x4, 2x2 and 4x1: the same weights."""
    recorded(monkeypatch)
    one = {**SHORT, **params, "learning_rate": 1e-3, "batch_size": 4}
    folders = [train(job(method, **one, micro_batch_size=micro)) for micro in (4, 2, 1)]
    assert len(set(folders)) == 3
    assert max(gap(folders[0], other) for other in folders[1:]) < ROUNDING


# ---- balance


def test_gradient_balance_is_the_ratio_of_norms(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step λ = ‖g_SFT‖ / ‖g_KL‖ at the last layer."""
    recorded(monkeypatch)
    trainer, rows = build(job("raft", **SHORT, balance="gradient", max_steps=1))
    places = trainer.places[:4]
    batch = batch_of(trainer, rows, places)
    batch["rollout"] = [[rollout(sum(rows[p].prompt))] for p in places]
    flat = [z for [z] in batch["rollout"]]
    batch["teacher"] = [[s] for s in trainer._teacher_states([rows[p].teacher_prompt for p in places], flat)]
    sums = trainer._sums(trainer.model, batch)
    last = list(trainer.model.model.layers[-1].parameters())
    norms = []
    for term in (sums.sft / sum(len(rows[p].answer) for p in places), sums.kl / 4):
        parts = torch.autograd.grad(term, last, retain_graph=True)
        norms.append(sum(float(part.double().square().sum()) for part in parts) ** 0.5)
    trainer.train()
    assert trainer._lambda == pytest.approx(norms[0] / norms[1], rel=1e-4)


def test_initial_balance_stays(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = build(job("raft", **SHORT, balance="initial", max_steps=3))
    seen: list[dict[str, float]] = []
    trainer.log = lambda logs, start_time=None: seen.append({k: v[-1] for k, v in trainer._metrics["train"].items()})
    trainer.train()
    assert {one["lambda"] for one in seen[:3]} == {seen[0]["lambda"]}
    assert seen[0]["lambda"] == pytest.approx(seen[0]["sft_loss"] / seen[0]["kl_loss"], rel=1e-5)
    assert seen[1]["lambda"] != pytest.approx(seen[1]["sft_loss"] / seen[1]["kl_loss"], rel=1e-3)


# ---- rollouts


def test_stored_rollouts_are_the_responses(job: JobMaker) -> None:
    trainer, rows = build(job("offline_distill", **SHORT))
    batch = trainer._generate_and_score_completions([trainer.train_dataset[p] for p in (2, 5)])
    assert batch["rollout"] == [[rows[2].answer], [rows[5].answer]]
    assert trainer._sums(trainer.model, batch).kl.item() == pytest.approx(0.0, abs=1e-5)


def test_gkd_mixes_whole_steps(job: JobMaker) -> None:
    """λ = 0 is distillation along the data; between, about so many steps are on the student's own words."""
    offline = job("offline_distill", **SHORT, learning_rate=1e-3, teacher_prompt="Say {{ response }}")
    mixed = job("gkd", **SHORT, learning_rate=1e-3, teacher_prompt="Say {{ response }}", divergence="forward",
                on_policy=0.0)  # fmt: skip
    assert gap(train(offline), train(mixed)) == 0.0
    trainer, rows = build(job("gkd", **SHORT, on_policy=0.3))
    own = 0
    for step in range(60):
        trainer.state.global_step = step
        [[z]] = trainer._rollouts([trainer.train_dataset[1]])
        own += z != rows[1].answer
    assert 8 <= own <= 30


def test_teacher_speaks_with_its_own_prompt_and_weights(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[list[list[int]], torch.Tensor]] = []

    def listening(model: Any, prompts: list[list[int]], manner: Any) -> list[list[int]]:
        with torch.no_grad():
            heard.append((prompts, model(input_ids=torch.arange(9)[None]).logits))
        assert not model.training
        return [rollout(4) for _ in prompts]

    monkeypatch.setattr("trainers.rollouts.sample", listening)
    with torch.no_grad():
        own = base()(input_ids=torch.arange(9)[None]).logits
    for lora in (None, {"rank": 4}):
        heard.clear()
        trainer, rows = build(
            job("acopd", **{**SHORT, "lora": lora}, rollout_source="teacher", learning_rate=0.1, top_k=8)
        )
        trainer.train()
        assert all(torch.allclose(logits, own, atol=1e-5) for _, logits in heard) and len(heard) == 3
        prompts = [row.teacher_prompt for row in rows]
        assert all(ids in prompts for asked, _ in heard for ids in asked)
        assert trainer.model_wrapped.training


def test_sampled_estimator_trains_on_the_rollouts_own_tokens(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, rows = build(job("opd", **SHORT, teacher_prompt="Say {{ question }}"))
    places = [3, 4]
    got = trainer._sums(trainer.model, batch_of(trainer, rows, places))
    expected = 0.0
    for place in places:
        z, row = rollout(place), rows[place]
        log_p, log_q = (log_probabilities(base(), prompt, z) for prompt in (row.prompt, row.teacher_prompt))
        expected += sum((log_p - log_q)[i, token].item() for i, token in enumerate(z)) / len(z)
    assert got.kl.item() == pytest.approx(expected, rel=1e-4)
    assert got.coverage.isnan()


# ---- parameters


def test_presets_fill_what_is_not_given() -> None:
    paper, released = sdft.Params(), sdft.Params(preset="released", skip_tokens=1)
    assert (paper.divergence, paper.teacher_ema, paper.skip_tokens, paper.importance_cap) == ("reverse", 0.02, 0, None)
    assert (released.divergence, released.teacher_ema, released.skip_tokens) == ("forward", 0.01, 1)
    assert (released.importance_cap, released.learning_rate) == (2.0, 2e-5)
    assert (opsd.Params().token_clip, opsd.Params(preset="released").token_clip) == (None, 0.05)
    assert opsd.Params(lora=False).lora is None and opsd.Params().lora is not None
    assert sdft.Params(**{**released.model_dump(), "learning_rate": 1e-4}).skip_tokens == 1


@pytest.mark.parametrize(("params", "why"), [
    ({"estimator": "sampled", "rollout_top_p": 0.9}, "whole distribution"),
    ({"estimator": "sampled", "rollout_source": "stored"}, "whole distribution"),
    ({"estimator": "sampled", "temperature": 2.0}, "to be equal"),
    ({"estimator": "rao_blackwell", "skip_tokens": 2}, "skip_tokens at 0"),
    ({"support": "random"}, "number of draws"),
    ({"divergence": "jsd", "beta": 1.0}, "less than 1"),
])  # fmt: skip
def test_contradictions_are_refused(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DistillParams(**params)
    assert opd.Params().estimator == "sampled"


def test_metrics_of_a_divergence_alone(job: JobMaker, tmp_path: Path) -> None:
    """No cross-entropy is claimed where none was computed, and no λ."""
    from refinery.store import Store
    from trainers.job import fingerprint

    store = Store(tmp_path / "store.duckdb")
    one = job("sdft", **SHORT, _store=store, _run_id="run")
    train(one)
    names = {entry["name"] for entry in store.training_metrics(fingerprint(one))}
    assert {"loss", "kl_loss", "coverage", "rollout_length"} <= names and not {"sft_loss", "lambda"} & names
    assert isinstance(AutoModelForCausalLM.from_pretrained(one.out / fingerprint(one)), torch.nn.Module)
    assert ConditionedDistillation.__mro__[1].__name__ == "Loop"
