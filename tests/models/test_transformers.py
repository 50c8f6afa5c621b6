"""The in-process backend against transformers' own generate, float64 softmax and exact distributions."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refinery.errors import RowError, UserError
from refinery.models import identity, open_model
from refinery.models.base import Likelihood, Reply, Sampling
from refinery.models.cache import generation_digest
from refinery.models.transformers import load, resolve
from refinery.records import Message
from refinery.spec import ModelSpec
from tests.tiny import CONTEXT, make_tiny_model, tiny_model

torch = pytest.importorskip("torch")

TEXTS = [
    "the clinic opens at nine",
    "which answer is right?",
    "Repeat the answer. " * 6,
    "é",
    "Add 12 to 34 and say what you get: 46.",
    "a rewrite keeps the meaning of the reference and says it in its own words, on every day but sunday",
    "closes",
    "why is the other answer wrong",
]


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def spec(**more: Any) -> ModelSpec:
    return ModelSpec(**{"backend": "transformers", "model": str(tiny_model()), "device": "cpu", **more})


@pytest.fixture(scope="module")
def oracle() -> tuple[Any, Any]:
    return load(str(tiny_model()), device="cpu")


def run(entry: ModelSpec, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        model = open_model(entry, "self")
        try:
            return await asyncio.wait_for(work(model), 120)
        finally:
            await model.close()

    return asyncio.run(all_of_it())


def ask(texts: list[str], sampling: Sampling, sample: int = 0) -> Callable[[Any], Awaitable[list[Any]]]:
    async def work(model: Any) -> list[Any]:
        return await asyncio.gather(
            *(model.generate(user(text), sampling, sample) for text in texts), return_exceptions=True
        )

    return work


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.apply_chat_template(user(text), add_generation_prompt=True, return_dict=False)


def next_probabilities(oracle: tuple[Any, Any], text: str, temperature: float = 1.0) -> np.ndarray:
    """(vocabulary,) float64 probabilities of the first token of an answer."""
    model, tokenizer = oracle
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids(tokenizer, text)])).logits[0, -1].double()
    return (logits / temperature).softmax(-1).numpy()


# ---- greedy


def test_greedy_equals_generate_of_transformers(oracle: tuple[Any, Any]) -> None:
    model, tokenizer = oracle
    replies = run(spec(), ask(TEXTS, Sampling(max_tokens=40)))
    for text, reply in zip(TEXTS, replies, strict=True):
        ids = prompt_ids(tokenizer, text)
        out = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids) :].tolist()
        ended = tokenizer.eos_token_id in out
        out = out[: out.index(tokenizer.eos_token_id)] if ended else out
        assert reply.text == tokenizer.decode(out, skip_special_tokens=True)
        assert reply.finish_reason == ("stop" if ended else "length")
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(ids), len(out))


@pytest.mark.parametrize(
    "sampling", [Sampling(max_tokens=24), Sampling(temperature=1.0, max_tokens=24), Sampling(0.8, 0.9, 40, 24)]
)
def test_text_does_not_depend_on_the_batch(sampling: Sampling) -> None:
    alone = {text: reply.text for text, reply in zip(TEXTS, run(spec(batch_size=1), ask(TEXTS, sampling)), strict=True)}
    assert len(set(alone.values())) == len(TEXTS)
    for size, seed in ((3, 0), (8, 1), (5, 2)):
        order = random.Random(seed).sample(TEXTS, len(TEXTS))
        replies = run(spec(batch_size=size), ask(order, sampling))
        assert {text: reply.text for text, reply in zip(order, replies, strict=True)} == alone


def test_a_longer_limit_continues_the_same_text() -> None:
    sampling = Sampling(temperature=1.0, max_tokens=6)
    short = run(spec(), ask(TEXTS[:3], sampling))
    long = run(spec(), ask(TEXTS[:3], Sampling(temperature=1.0, max_tokens=20)))
    assert all(b.text.startswith(a.text.rstrip("�")) for a, b in zip(short, long, strict=True))


# ---- sampling


def test_each_sample_and_seed_draws_anew_and_again_the_same() -> None:
    async def work(model: Any) -> list[str]:
        asked = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 0)]
        replies = [await model.generate(user("q"), Sampling(1.0, max_tokens=12, seed=seed), k) for k, seed in asked]
        return [reply.text for reply in replies]

    first, *others, again = run(spec(), work)
    assert again == first and len({first, *others}) == 4


DRAWS = 3000


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.5, 1.0, 0), (1.3, 0.8, 30)])
def test_first_tokens_are_drawn_from_the_softmax(
    oracle: tuple[Any, Any], temperature: float, top_p: float, top_k: int
) -> None:
    from scipy.stats import chisquare

    from refinery.models import decoding

    sampling = Sampling(temperature, top_p, top_k, 1)
    model, tokenizer = oracle
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids(tokenizer, TEXTS[0])])).logits[0, -1].float()
    names = [generation_digest("m", user(TEXTS[0]), sampling, k) for k in range(DRAWS)]
    uniform = [decoding.noise(name, 1)[0] for name in names]
    drawn = decoding.choose(logits.expand(DRAWS, -1), [sampling] * DRAWS, uniform)
    counts = np.bincount(drawn, minlength=len(logits))
    expected = _warped(logits, temperature, top_p, top_k).double().softmax(-1).numpy() * DRAWS
    assert not counts[expected == 0].any()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0
    assert chisquare(observed[keep], wanted[keep]).pvalue > 1e-3
    # a wrong temperature would be noticed
    wrong = _warped(logits, temperature * 1.3, top_p, top_k).double().softmax(-1).numpy() * DRAWS
    assert ((counts[common] - wrong[common]) ** 2 / wrong[common].clip(1e-9)).sum() > 3 * common.sum()


def _warped(logits: Any, temperature: float, top_p: float, top_k: int) -> Any:
    """The same by transformers' own processors."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    rows = TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k:
        rows = TopKLogitsWarper(top_k)(None, rows)
    if top_p < 1:
        rows = TopPLogitsWarper(top_p)(None, rows)
    return rows[0]


def test_warping_equals_that_of_transformers_row_by_row() -> None:
    from refinery.models.decoding import warp

    generator = torch.Generator().manual_seed(0)
    choices = [(t, p, k) for t in (0.3, 1.0, 1.7) for p in (0.05, 0.5, 0.9, 1.0) for k in (0, 1, 5, 63, 64, 500)]
    logits = 3 * torch.randn(len(choices), 64, generator=generator)
    logits[::3] = logits[::3].round()  # ties
    ours = warp(logits, [Sampling(t, p, k) for t, p, k in choices])
    for row, values, (t, p, k) in zip(ours, logits, choices, strict=True):
        torch.testing.assert_close(row, _warped(values, t, p, k), rtol=0, atol=0)


def test_noise_is_fixed_for_good_uniform_and_does_not_depend_on_the_length() -> None:
    from refinery.models.decoding import noise

    name = "0123456789abcdef" * 2
    long = noise(name, 4000)
    assert (noise(name, 10) == long[:10]).all()
    assert long[:3].tolist() == [0.5345565143046691, 0.3671474662490569, 0.9012762801676591]
    assert (long == np.random.Generator(np.random.Philox(key=int(name, 16))).random(4000)).all()
    assert 0 <= long.min() < long.max() < 1 and abs(long.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(long, noise("f" * 32, 4000))[0, 1]) < 0.05


# ---- where an answer ends


def test_stop_texts_end_the_answer_before_the_first() -> None:
    whole = run(spec(), ask(TEXTS, Sampling(max_tokens=30)))
    for text, reply in zip(TEXTS, whole, strict=True):
        for width in (1, 3):
            stop = reply.text[8 : 8 + width]
            (cut,) = run(spec(), ask([text], Sampling(max_tokens=30, stop=("never in it", stop))))
            expected = reply.text[: reply.text.index(stop)]
            if expected.strip():
                assert (cut.text, cut.finish_reason) == (expected, "stop")
                assert cut.completion_tokens <= reply.completion_tokens
            else:
                assert isinstance(cut, RowError) and cut.reason == "empty_response"


def test_the_context_ends_an_answer_and_refuses_a_longer_prompt(oracle: tuple[Any, Any]) -> None:
    length = len(prompt_ids(oracle[1], TEXTS[2]))
    fits, cut, full = (
        run(spec(max_context=length + room), ask([TEXTS[2]], Sampling(max_tokens=8)))[0] for room in (8, 3, 0)
    )
    assert fits.finish_reason == "length" and fits.completion_tokens == 8
    assert cut.finish_reason == "length" and cut.completion_tokens == 3 and fits.text.startswith(cut.text)
    assert isinstance(full, RowError) and full.reason == "prompt_too_long" and not full.transient
    assert full.detail == f"{length} tokens; the context holds {length}"


def test_a_failing_row_leaves_its_batch_alone() -> None:
    texts = [TEXTS[0], "word " * (CONTEXT + 10), TEXTS[1], "half \ud83d"]
    first, long, second, broken = run(spec(), ask(texts, Sampling(max_tokens=8)))
    assert isinstance(first, Reply) and isinstance(second, Reply)
    assert (long.reason, broken.reason) == ("prompt_too_long", "invalid_text")


# ---- likelihood


def test_logprobs_equal_a_float64_softmax_in_any_batch(oracle: tuple[Any, Any]) -> None:
    model, tokenizer = oracle
    pairs = [(text, answer) for text in TEXTS[:4] for answer in ("yes", "the clinic opens at nine", " é!\n")]

    async def work(model: Any) -> list[Likelihood]:
        return await asyncio.gather(*(model.loglikelihood(user(text), answer) for text, answer in pairs))

    alone, together = run(spec(batch_size=1), work), run(spec(batch_size=7), work)
    exact = model.double()
    try:
        for (text, answer), one, many in zip(pairs, alone, together, strict=True):
            prompt, target = prompt_ids(tokenizer, text), tokenizer(answer, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logprobs = exact(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
            wanted = [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(target)]
            assert one.logprobs == pytest.approx(wanted, abs=1e-5)
            assert many.logprobs == pytest.approx(wanted, abs=1e-5)
            assert (one.tokens, one.sum, one.mean) == pytest.approx(
                (len(wanted), sum(wanted), np.mean(wanted)), abs=1e-4
            )
    finally:
        model.float()


def test_the_likelihood_of_one_token_is_its_probability(oracle: tuple[Any, Any]) -> None:
    _, tokenizer = oracle
    probabilities = next_probabilities(oracle, TEXTS[0])
    for answer in ("a", "Z", " the"):
        (token,) = tokenizer(answer, add_special_tokens=False)["input_ids"]
        found = run(spec(), lambda model, answer=answer: model.loglikelihood(user(TEXTS[0]), answer))
        assert math.exp(found.sum) == pytest.approx(probabilities[token], rel=1e-4)


def test_long_vocabularies_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(model: Any) -> list[Any]:
        calls = [model.loglikelihood(user(text), "yes " * (i + 1)) for i, text in enumerate(TEXTS)]
        return [*await asyncio.gather(*calls), await model.loglikelihood(user("q"), "")]

    whole = run(spec(), work)
    monkeypatch.setattr("refinery.models.transformers.LOGITS", 384 * 20)
    parts = run(spec(), work)
    for one, other in zip(whole, parts, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert whole[-1].tokens == 0 and math.isnan(whole[-1].mean)


def test_a_continuation_beyond_the_context_is_refused(oracle: tuple[Any, Any]) -> None:
    length = len(prompt_ids(oracle[1], "q")) + 3
    tokens = oracle[1]("a b", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 3
    score = lambda model: model.loglikelihood(user("q"), "a b")  # noqa: E731
    assert run(spec(max_context=length), score).tokens == 3
    with pytest.raises(RowError, match="prompt_too_long"):
        run(spec(max_context=length - 1), score)


# ---- loading and identity


def test_a_model_without_a_chat_template_is_one_line(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path / "base", template=False)
    (error,) = run(spec(model=str(path)), ask(["q"], Sampling()))
    assert isinstance(error, UserError) and str(error).startswith("models.self: ") and "no chat template" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./nowhere"])
def test_a_model_that_is_not_there_is_one_line(model: str) -> None:
    with pytest.raises(UserError, match=f"model {model}: no such folder"):
        open_model(spec(model=model))


def test_an_odd_dtype_is_one_line() -> None:
    (error,) = run(spec(dtype="tensor"), ask(["q"], Sampling()))
    assert isinstance(error, UserError) and "dtype 'tensor' is none of auto" in str(error)


def test_auto_is_float32_on_the_processor(oracle: tuple[Any, Any]) -> None:
    assert next(oracle[0].parameters()).dtype == torch.float32 and not oracle[0].training


def test_identity_follows_the_content_not_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("refinery.models.weights.SMALL", 1000)
    first, second = make_tiny_model(tmp_path / "a"), make_tiny_model(tmp_path / "b")
    same = identity(spec(model=str(first)))
    assert same == identity(spec(model=str(second), batch_size=1, device="auto")) and same.startswith("weights:")
    assert same != identity(spec(model=str(first), max_context=100))
    assert same != identity(spec(model=str(first), dtype="bfloat16"))
    assert same != identity(spec(model=str(make_tiny_model(tmp_path / "c", seed=1))))
    (second / "notes.txt").write_text("not part of it")
    assert same == identity(spec(model=str(second)))
    template = second / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert same != identity(spec(model=str(second)))


def test_large_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refinery.models import weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "SMALL", 1000)
    path = make_tiny_model(tmp_path / "a")
    (file,) = path.glob("*.safetensors")
    first = weights.weights_digest(path)
    hashed: list[str] = []
    digest = weights.hashlib.file_digest
    watch = lambda stream, kind: hashed.append(stream.name) or digest(stream, kind)  # noqa: E731
    monkeypatch.setattr(weights.hashlib, "file_digest", watch)
    assert weights.weights_digest(path) == first and str(file) not in hashed
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert weights.weights_digest(path) != first and str(file) in hashed


def test_a_hub_model_that_is_not_here_goes_by_its_name() -> None:
    assert identity(spec(model="no-such-org/no-such-model")) == "hub:no-such-org/no-such-model@main"


def test_lab_is_the_shipped_base() -> None:
    from refinery.lab import BASE

    if not (BASE / "config.json").exists():
        pytest.skip("the lab's weights are not there yet")
    assert resolve("lab") == str(BASE)
    prompt = user("What is 2 plus 3?")

    async def work(model: Any) -> tuple[Reply, Likelihood]:
        return await model.generate(prompt, Sampling(max_tokens=32)), await model.loglikelihood(prompt, "5")

    reply, likelihood = run(spec(model="lab"), work)
    assert reply.text.strip() and reply.finish_reason == "stop" and likelihood.sum < 0
