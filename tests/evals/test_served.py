"""A model behind a server scores as the same weights in this process do, or is refused before it is asked."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals import harness
from evals.comparable import judge
from evals.subjects import Weights
from refinery.errors import UserError
from refinery.models import pace
from refinery.spec_models import EvaluateSpec, ModelSpec
from refinery.store import Store

pytest.importorskip("lm_eval")
from evals.served import OF_THE_SERVER, Served

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import model_server
from cli_tools import call
from model_server import ModelServer, serve
from tiny import tiny_model

FEW = EvaluateSpec(limit=6, batch_size=4)
VLLM = os.environ.get("REFINERY_TEST_VLLM", "vllm")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.duckdb")


def entry(server: ModelServer, **more: Any) -> ModelSpec:
    known = {"tokenizer": server.model, "likelihood": server.offers} if server.offers else {}
    return ModelSpec(**{"backend": "openai", "model": "m", "base_url": server.url, "concurrency": 4, **known, **more})


def requests(kind: str, *arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each, task_name="t") for each in arguments]


PAIRS = [
    ("What is 2 plus 3? Answer:", " 5"),
    ("The clinic opens at", " nine. é"),
    ("", "The clinic"),
    ("Say it twice. ", "nine nine"),
    ("one", " two three four five six seven eight nine ten"),
]


@pytest.mark.parametrize("how", ["prompt_logprobs", "echo"])
@pytest.mark.parametrize("model", ["lab", str(tiny_model())], ids=["lab", "random"])
def test_likelihoods_are_those_of_this_process(how: str, model: str) -> None:
    asked = requests("loglikelihood", *PAIRS)
    here = Weights(model, FEW).lm.loglikelihood(asked, disable_tqdm=True)
    with serve(offers=how, model=model) as server:
        subject = Served(entry(server), "m")
        there = subject.lm.loglikelihood(asked, disable_tqdm=True)
        rolling = subject.lm.loglikelihood_rolling(requests("rolling", ("The clinic opens at nine.",)))
        subject.close()
    for (one, greedy), (other, also) in zip(here, there, strict=True):
        assert one == pytest.approx(other, abs=1e-4) and greedy == also
    alone = Weights(model, FEW).lm.loglikelihood_rolling(requests("rolling", ("The clinic opens at nine.",)))
    assert rolling == pytest.approx(alone, abs=1e-3)


def test_scores_and_answers_are_those_of_this_process(store: Store) -> None:
    names = ["lab_choice", "lab_facts", "lab_sums"]
    here = harness.evaluate("here", "lab", names, FEW, store=store)
    with serve() as server:
        there = harness.evaluate("there", Served(entry(server), "m"), names, FEW, store=store)
        asked = len(server.bodies)
        assert harness.evaluate("there", Served(entry(server), "m"), names, FEW, store=store) == there
        assert len(server.bodies) == asked  # what stands is not asked again
    assert [s.value for s in here] == [s.value for s in there] and {s.benchmark for s in there} == set(names)
    for name in names:
        mine, its = ({s.item: (s.response, s.value) for s in store.samples(c, name)} for c in ("here", "there"))
        assert mine == its


def test_the_backend_is_part_of_what_was_measured(store: Store) -> None:
    (here,) = harness.evaluate("here", "lab", ["lab_facts"], FEW, store=store)
    with serve() as server:
        (there,) = harness.evaluate("there", Served(entry(server), "m"), ["lab_facts"], FEW, store=store)
    assert here.fingerprint != there.fingerprint
    assert judge(there, here).refused["backend"] == "backend 'openai' instead of 'hf'"
    assert here.settings["task"] == there.settings["task"]


def test_a_server_whose_tokenizer_is_not_at_hand_is_sent_chats(store: Store) -> None:
    (here,) = harness.evaluate("here", "lab", ["lab_facts"], FEW, store=store)
    with serve(offers="") as server:
        (there,) = harness.evaluate("there", Served(entry(server), "m"), ["lab_facts"], FEW, store=store)
        assert all(body["messages"][-1]["role"] == "user" for body in server.bodies)
    assert there.value == here.value > 0 and there.settings["chat_template"] == OF_THE_SERVER
    answers = [sorted(s.response for s in store.samples(c)) for c in ("here", "there")]
    assert answers[0] == answers[1]


def test_likelihood_tasks_are_refused_before_anything_is_asked(store: Store) -> None:
    with serve(offers="") as server:
        with pytest.raises(UserError, match=r"^models.m: it gives no likelihoods .* lab_choice need: .*likelihood:"):
            harness.evaluate("c", Served(entry(server), "m"), ["lab_facts", "lab_choice"], FEW, store=store)
        assert not server.bodies and not store.scores()


def test_a_request_that_fails_is_no_wrong_answer_and_the_others_are_kept(store: Store) -> None:
    settings = FEW.model_copy(update={"limit": 8})
    with serve(fails_after=4) as server:
        broken = Served(entry(server, retries=0, concurrency=1), "m")
        with pytest.raises(UserError, match=r"^models.m: \d of 8 requests failed .*run the same command again$"):
            harness.evaluate("c", broken, ["lab_facts"], settings, store=store)
        assert not store.scores()
        first, server.fails_after = len(server.bodies), 1 << 30
        (score,) = harness.evaluate("c", Served(entry(server), "m"), ["lab_facts"], settings, store=store)
        assert score.n == 8 and 0 < len(server.bodies) - first < 8


def test_prompts_are_cut_to_the_context_that_was_declared(store: Store) -> None:
    long = " ".join(["nine"] * 300) + " The clinic opens at"
    with serve(context=64) as server:
        subject = Served(entry(server, max_context=64), "m")
        found = subject.lm.loglikelihood(requests("l", (long, " nine")), disable_tqdm=True)
        said = subject.lm.generate_until(requests("g", (long, {"until": [], "max_gen_toks": 8})))
        subject.close()
        assert all(len(body["prompt"]) <= 64 for body in server.bodies) and found[0][0] < 0 and len(said) == 1
        blind = Served(entry(server, tokenizer=None, likelihood=None), "m")
        with pytest.raises(UserError, match=r"prompt_too_long.*say max_context"):
            blind.lm.generate_until(requests("g", (long, {"until": [], "max_gen_toks": 8})))
        blind.close()


def test_the_answer_ends_at_every_stop_and_an_empty_one_is_an_answer() -> None:
    class Model:
        identity, counts = "x", None
        asked: list[Any] = []  # noqa: RUF012

        async def complete_ids(self, ids: list[int], sampling: Any, name: str = "") -> Any:
            from refinery.errors import RowError
            from refinery.models.base import Reply

            self.asked.append((sampling, name))
            if len(self.asked) == 3:
                raise RowError("empty_response", "finish_reason stop")
            return Reply("ab#cd", "stop", 1, 1)

        async def close(self) -> None: ...

    from evals.served import ServedLM

    tokenizer = Weights(str(tiny_model()), FEW).tokenizer
    lm = ServedLM(Model(), tokenizer, None, "models.m", {})
    options = {"until": ["1", "2", "3", "4", "#"], "max_gen_toks": 8}
    drawn = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    assert lm.generate_until(requests("g", ("a", options))) == ["ab"]
    sampling, _ = Model.asked[0]
    assert sampling.stop == ("1", "2", "3", "4") and sampling.temperature == 0
    texts = lm.generate_until(requests("g", ("a", drawn), ("a", drawn), ("a", drawn)))
    assert sorted(texts) == ["", "ab#cd", "ab#cd"]
    assert Model.asked[1][0].temperature == 0.7 and len({name for _, name in Model.asked[1:]}) == 3
    lm.close()


# ---- in a spec


SPEC = """\
name: served
model: lab
models:
  before: {{backend: openai, model: m, base_url: "{url}", tokenizer: lab, likelihood: prompt_logprobs}}
  after: {{backend: openai, model: n, base_url: "{url}", tokenizer: lab, likelihood: prompt_logprobs}}
  mute: {{backend: openai, model: o, base_url: "{url}"}}
checkpoints:
  tuned: [models.after]
evaluate: {{backend: before, domain: [lab_facts], general: [lab_choice], limit: 6}}
store: "{folder}/s.duckdb"
"""


def written(tmp_path: Path, url: str, *changes: tuple[str, str]) -> Path:
    text = SPEC.format(url=url, folder=tmp_path)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "served.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_served_base_and_a_served_model_are_compared(tmp_path: Path) -> None:
    with serve() as server:
        done = call("run", str(written(tmp_path, server.url)))
        assert done.code == 0, done.err
        names = {body["model"] for body in server.bodies}
    assert names == {"m", "n"}
    store = Store(tmp_path / "s.duckdb")
    base, tuned = sorted(store.checkpoints(), key=lambda row: row["role"])
    assert (base["role"], tuned["role"], tuned["name"]) == ("base", "final", "tuned")
    scores = {c: {s.benchmark: s for s in store.scores(c)} for c in (base["fingerprint"], tuned["fingerprint"])}
    for name in ("lab_facts", "lab_choice"):
        one, other = (found[name] for found in scores.values())
        assert one.fingerprint == other.fingerprint and one.settings["backend"] == "openai"
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "tuned" in report and "lab_choice" in report


def test_a_base_in_this_process_is_not_compared_with_a_served_model(tmp_path: Path) -> None:
    with serve() as server:
        path = written(tmp_path, server.url, ("backend: before, ", ""))
        done = call("run", str(path))
        assert done.code == 2 and "nothing could be compared" in done.err
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "backend 'openai' instead of 'hf'" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("backend: before", "backend: mute"), "lab_choice need likelihoods of a prompt"),
        (("models.after", "models.mute"), "lab_choice need likelihoods of a prompt"),
        (("backend: before", "backend: befor"), 'there is no served model "befor" (did you mean "before"?)'),
        (("models.after", "models.self"), "models.self is no server"),
        (("[models.after]", "[some/weights]"), "models.before is a server with a model of its own"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_anything_is_asked(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    done = call("run", str(written(tmp_path, "http://127.0.0.1:9/v1", change)))
    assert done.code == 2 and message in " ".join(done.err.split()), done.err
    assert not (tmp_path / "s.duckdb").exists()


def test_a_file_s_likelihood_task_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    task = Path("evals/benchmarks/lab_tasks/lab_choice.yaml").resolve()
    with serve(offers="") as server:
        changes = (("backend: before", "backend: mute, allow_code: true"), ("[lab_choice]", f"[{{task: {task}}}]"))
        path = written(tmp_path, server.url, *changes, ("models.after", "models.mute"))
        done = call("run", str(path))
        assert done.code == 2 and "it gives no likelihoods" in " ".join(done.err.split()), done.err
        assert not server.bodies


# ---- vLLM


def test_every_checkpoint_is_served_in_its_turn(tmp_path: Path) -> None:
    """By a program that stands in for vLLM's; the adapter is merged into the base that is served."""
    peft = pytest.importorskip("peft")
    from refinery.models.transformers import load

    adapted = peft.get_peft_model(
        load("lab", device="cpu")[0], peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    command = tmp_path / "vllm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {model_server.__file__} "$@"\n')
    command.chmod(0o755)
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"model: lab\nmodels: {{engine: {{backend: vllm, dtype: float32, command: {command}}}}}\n"
        f"checkpoints: {{tuned: [{tmp_path}/adapter]}}\nstore: {tmp_path}/s.duckdb\n"
        "evaluate: {backend: engine, general: [lab_choice, lab_facts], limit: 4, movement: 0}\n"
    )
    done = call("run", str(path), "--stage", "evaluate")
    assert done.code == 0, done.err
    store = Store(tmp_path / "s.duckdb")
    rows = {row["role"]: row["fingerprint"] for row in store.checkpoints()}
    names, settings = ["lab_choice", "lab_facts"], FEW.model_copy(update={"limit": 4})
    for role, weights in (("base", "lab"), ("final", str(tmp_path / "adapter"))):
        here = harness.evaluate(role, Weights(weights, settings, "lab"), names, settings, store=store)
        for score in here:
            (served,) = store.scores(rows[role], score.benchmark)
            assert served.value == score.value and served.settings["backend"] == "vllm"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vllm_serves_a_checkpoint_and_an_adapter(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which(VLLM):
        pytest.skip("needs vllm (REFINERY_TEST_VLLM names its program)")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    served = ModelSpec(backend="vllm", model="lab", dtype="float32", command=VLLM, args=["--enforce-eager"])
    names = ["lab_choice", "lab_facts"]
    settings = FEW.model_copy(update={"limit": 20})
    here = harness.evaluate("here", "lab", names, settings, store=store)
    there = harness.evaluate("there", Served(served), names, settings, store=store)
    assert [(s.benchmark, s.value) for s in here] == [(s.benchmark, s.value) for s in there]
    asked = requests("loglikelihood", *PAIRS)
    subject = Served(served)
    found = subject.lm.loglikelihood(asked, disable_tqdm=True)
    subject.close()
    wanted = Weights("lab", FEW).lm.loglikelihood(asked, disable_tqdm=True)
    for (one, greedy), (other, also) in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-3 * 12) and greedy == also
