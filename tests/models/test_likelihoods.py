"""A likelihood is the same number whoever computes it: this process, a server that scores prompts, vLLM.

The loopback server computes in float64 without padding or a cache, from the token ids it is sent.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from refinery.errors import RowError, UserError
from refinery.models import identity, open_model
from refinery.models.base import Likelihood, Reply, Sampling
from refinery.models.transformers import load
from refinery.records import Message
from refinery.spec import ModelSpec

torch = pytest.importorskip("torch")

VLLM = os.environ.get("REFINERY_TEST_VLLM", "vllm")
"""The program; it may lie in another environment."""

CHATS: list[list[Message]] = [
    [{"role": "user", "content": "What is 2 plus 3?"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "When does the clinic open?"}],
    [{"role": "user", "content": "What is 2 plus 3?"}, {"role": "assistant", "content": "2 + 3 ="}],
]
ENDS = ["5", " The clinic opens at nine.\n", "2 + 3 = 5, so the answer is 5. é"]


async def score(model: Any) -> list[Likelihood]:
    return await asyncio.gather(*(model.loglikelihood(chat, end) for chat in CHATS for end in ENDS))


def run(entry: ModelSpec, work: Any) -> Any:
    async def all_of_it() -> Any:
        model = open_model(entry, "scorer")
        try:
            return await work(model)
        finally:
            await model.close()

    return asyncio.run(all_of_it())


def transformers(**more: Any) -> ModelSpec:
    return ModelSpec(model="lab", device="cpu", dtype="float32", **more)


def agree(one: list[Likelihood], other: list[Likelihood], within: float) -> None:
    assert [each.tokens for each in one] == [each.tokens for each in other]
    for first, second in zip(one, other, strict=True):
        assert first.logprobs == pytest.approx(second.logprobs, abs=within)


@contextlib.contextmanager
def scoring_server(offers: str) -> Iterator[str]:
    """Its base_url; `offers` is prompt_logprobs, echo or nothing."""
    model = load("lab", device="cpu")[0].double()

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        ids = body["prompt"]
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found = [None, *(logprobs[i, token].item() for i, token in enumerate(ids[1:]))]
        choice: dict[str, Any] = {"index": 0, "text": "x", "finish_reason": "length"}
        if offers == "prompt_logprobs" and body.get("prompt_logprobs") == 0:
            each = [{str(t): {"logprob": p, "rank": 1}} for t, p in zip(ids[1:], found[1:], strict=True)]
            choice["prompt_logprobs"] = [None, *each]
        if offers == "echo" and body.get("echo") and body["logprobs"]:
            choice["logprobs"] = {"token_logprobs": found}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}})

    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.append(runner.addresses[0][1])
        ready.set()

    def serve() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{port[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.parametrize("how", ["prompt_logprobs", "echo"])
def test_a_server_that_scores_prompts_gives_the_same_numbers(how: str) -> None:
    here = run(transformers(), score)
    with scoring_server(how) as url:
        entry = ModelSpec(backend="openai", model="served", base_url=url, tokenizer="lab", likelihood=how)
        there = run(entry, score)
        assert run(entry, lambda model: model.loglikelihood(CHATS[0], "")).tokens == 0
    agree(here, there, 1e-4)
    assert max(each.sum for each in here) < -0.1


def test_a_server_that_does_not_after_all_is_one_line() -> None:
    with scoring_server("nothing") as url:
        entry = ModelSpec(backend="openai", model="m", base_url=url, tokenizer="lab", likelihood="echo")
        with pytest.raises(UserError, match=r"models.scorer: the server's answer holds no log-probabilities"):
            run(entry, score)


def test_a_tokenizer_that_is_not_there_is_one_line() -> None:
    entry = ModelSpec(backend="openai", model="./m", base_url="http://127.0.0.1:9/v1", likelihood="echo")
    with pytest.raises(UserError, match=r"models.scorer: no tokenizer './m' \(name it with tokenizer:\)"):
        run(entry, score)


# ---- adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the lab model with weights that are not zero."""
    peft = pytest.importorskip("peft")
    model, _ = load("lab", device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05)
    path = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(path)
    return path


def test_an_adapter_is_part_of_the_model_and_of_its_identity(adapter: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, tokenizer = load("lab", device="cpu")
    adapted = peft.PeftModel.from_pretrained(base, str(adapter)).eval().double()
    entry = transformers(adapter=str(adapter))
    found = run(entry, lambda model: model.loglikelihood(CHATS[0], ENDS[0]))
    prompt = tokenizer.apply_chat_template(CHATS[0], add_generation_prompt=True, return_dict=False)
    target = tokenizer(ENDS[0], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logprobs = adapted(torch.tensor([[*prompt, *target]])).logits[0].log_softmax(-1)
    wanted = [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(target)]
    assert found.logprobs == pytest.approx(wanted, abs=1e-4)
    plain = run(transformers(), lambda model: model.loglikelihood(CHATS[0], ENDS[0]))
    assert abs(found.sum - plain.sum) > 0.01
    moved = shutil.copytree(adapter, tmp_path / "moved")
    assert identity(entry) == identity(transformers(adapter=str(moved))) != identity(transformers())
    weights = bytearray((moved / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "adapter_model.safetensors").write_bytes(bytes(weights))
    assert identity(entry) != identity(transformers(adapter=str(moved)))


def test_a_folder_that_is_no_adapter_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapter .*: no adapter_config.json there"):
        open_model(transformers(adapter=str(tmp_path)), "scorer")


# ---- vLLM


def vllm(**more: Any) -> ModelSpec:
    args = ["--enforce-eager", *more.pop("args", [])]
    return ModelSpec(backend="vllm", model="lab", dtype="float32", command=VLLM, args=args, **more)


@pytest.fixture
def small_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which(VLLM):
        pytest.skip("needs vllm (REFINERY_TEST_VLLM names its program)")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


async def talk(model: Any) -> list[Reply | RowError]:
    calls = [model.generate(chat, Sampling(max_tokens=24)) for chat in CHATS]
    return [await model.user_slot(), *await asyncio.gather(*calls, return_exceptions=True)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_says_and_scores_as_transformers_does(small_vllm: None) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }

    async def work(model: Any) -> Any:
        structured = await model.generate(CHATS[0], Sampling(max_tokens=24, schema=schema))
        return await talk(model), await score(model), structured.text

    said, scored, structured = run(vllm(), work)
    here = run(transformers(), talk)
    assert [getattr(each, "text", each) for each in said] == [getattr(each, "text", each) for each in here]
    agree(scored, run(transformers(), score), 1e-3)
    assert structured.replace(" ", "").startswith('{"n"')
    assert identity(vllm()) == identity(transformers()) != identity(vllm(args=["--quantization", "fp8"]))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_takes_an_adapter(small_vllm: None, adapter: Path) -> None:
    said = run(vllm(adapter=str(adapter)), talk)
    here = run(transformers(adapter=str(adapter)), talk)
    assert [getattr(each, "text", each) for each in said] == [getattr(each, "text", each) for each in here]
    plain = run(transformers(), talk)
    assert [getattr(each, "text", each) for each in said] != [getattr(each, "text", each) for each in plain]


def test_scoring_with_an_adapter_on_vllm_is_refused(adapter: Path) -> None:
    with pytest.raises(UserError, match="fails at scoring text with an adapter"):
        run(vllm(adapter=str(adapter)), score)
    assert not vllm(adapter=str(adapter)).scores_text and vllm().scores_text
