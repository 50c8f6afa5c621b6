"""LoRA checkpoints are adapters on one base: it is read once, left as it was, and gives the merged model's scores."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.subjects import Shelf, Weights, arithmetic, beside
from refinery.models import transformers
from refinery.spec_models import EvaluateSpec
from refinery.store import Store

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("lm_eval")
sys.path.insert(0, str(Path(__file__).parents[1]))
from cli_tools import call  # noqa: E402

FEW = EvaluateSpec(limit=6, batch_size=4)
ASKED = [
    SimpleNamespace(args=each, task_name="t")
    for each in [("What is 2 plus 3? Answer:", " 5"), ("The clinic opens at", " nine."), ("", "The clinic")]
]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of the lab model, with weights that are not zero, on other layers and of another rank."""
    found = []
    for seed, (rank, targets) in enumerate([(4, ["q_proj", "v_proj"]), (2, ["o_proj", "down_proj"])]):
        model = transformers.load("lab", device="cpu")[0]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=targets))
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.05)
        found.append(tmp_path_factory.mktemp("adapter"))
        adapted.save_pretrained(found[-1])
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read from the disk, in order."""
    read, real = [], transformers.load

    def load(model: str, *args: Any, **options: Any) -> Any:
        read.append(model)
        return real(model, *args, **options)

    monkeypatch.setattr(transformers, "load", load)
    return read


def likelihoods(subject: Weights) -> list[float]:
    return [value for value, _ in subject.lm.loglikelihood(ASKED, disable_tqdm=True)]


def test_adapters_on_one_base_score_as_the_merged_models_do(adapters: list[Path], loads: list[str]) -> None:
    shelf, found = Shelf(), {}
    for path in [None, *adapters, None]:
        subject = Weights(str(path or "lab"), FEW, "lab", shelf)
        found.setdefault(path, []).append(likelihoods(subject))
        subject.close()
    assert len(loads) == 1
    before, after = found[None]
    assert before == after  # to the last bit: nothing of an adapter is left in the base
    for path in adapters:
        merged = likelihoods(Weights(str(path), FEW, "lab"))
        assert found[path][0] == pytest.approx(merged, abs=1e-4)
        assert max(abs(a - b) for a, b in zip(merged, before, strict=True)) > 0.01


def test_weights_of_an_adapter_are_merged_into_a_copy_of_the_base(adapters: list[Path], loads: list[str]) -> None:
    shelf = Shelf()
    base = Weights("lab", FEW, "lab", shelf).weights()[0]
    kept = {name: value.clone() for name, value in base.state_dict().items()}
    merged = Weights(str(adapters[0]), FEW, "lab", shelf).weights()[0].state_dict()
    assert len(loads) == 1 and all(torch.equal(kept[name], value) for name, value in base.state_dict().items())
    wanted = Weights(str(adapters[0]), FEW, "lab").weights()[0].state_dict()
    assert set(merged) == set(wanted) and all(torch.allclose(merged[n], wanted[n], atol=1e-6) for n in wanted)


def test_an_adapter_that_changes_more_of_its_base_is_merged(adapters: list[Path], tmp_path: Path) -> None:
    config = json.loads((adapters[0] / "adapter_config.json").read_text("utf-8"))
    assert beside(adapters[0])
    for change in ({"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}, {"trainable_token_indices": [1]}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change), "utf-8")
        assert not beside(tmp_path)


def test_full_weights_are_read_for_themselves(loads: list[str], tmp_path: Path) -> None:
    model, tokenizer = transformers.load("lab", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loads.clear()
    shelf = Shelf()
    for path in ("lab", str(tmp_path)):
        subject = Weights(path, FEW, "lab", shelf)
        likelihoods(subject)
        subject.close()
    assert [Path(each).name for each in loads] == ["base", tmp_path.name]


def test_what_weights_are_run_in_needs_no_weights() -> None:
    assert arithmetic(EvaluateSpec(dtype="bfloat16"))["dtype"] == "bfloat16"
    assert arithmetic(EvaluateSpec()) in (
        {"dtype": "float32", "device": "cpu"},
        {"dtype": "bfloat16", "device": "cuda"},
    )


def test_one_command_reads_the_base_once_for_all_adapters(
    adapters: list[Path], loads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = [f"{name}={path}" for name, path in zip(("one", "two"), adapters, strict=True)]
    options = ["--base", "lab", "--domain", "lab_facts", "--general", "lab_choice", "--limit", "6", "--out", "out"]
    done = call("eval", *weights, *options, "--set", "evaluate.movement=4")
    assert done.code == 0, done.err
    assert len(loads) == 1
    store = Store(tmp_path / "out" / "refinery.duckdb")
    names = {score.benchmark for score in store.scores()}
    assert {"lab_facts", "lab_choice", "answers/lab_facts", "movement/domain", "movement/weights"} <= names
