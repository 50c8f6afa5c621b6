"""Evaluation against lm-eval's own command, on likelihood tasks of lab-sized checkpoints, whole processes.

    python tests/bench/eval_speed.py [--passes 3] [--checkpoints 12]

One checkpoint: `refinery run --stage evaluate` against `lm_eval`, in turn. Several checkpoints of one base: one
`refinery` process against as many `lm_eval` commands. Ours also scores the base and measures no movement; both log
every sample, with the same batch size. The scores must be equal. Writes tests/bench/results/eval_speed.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from refinery.lab import BASE
from refinery.store import Store

ROOT = Path(__file__).parent.parent.parent
OUT = Path(__file__).parent / "results" / "eval_speed.json"
TASKS = ["lab_choice"]
BATCH = 32


def variants(folder: Path, count: int) -> list[Path]:
    """The base with a little noise in it, so many times."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(BASE)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += 0.02 * torch.randn_like(tensor)
        found.append(folder / f"w{seed}")
        model.save_pretrained(found[-1])
        AutoTokenizer.from_pretrained(BASE).save_pretrained(found[-1])
    return found


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def theirs(weights: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", ",".join(TASKS)]
    command += [
        "--model_args",
        f"pretrained={weights},dtype=float32",
        "--batch_size",
        str(BATCH),
        "--device",
        "cpu",
        "--apply_chat_template",
    ]
    command += ["--include_path", "evals/benchmarks/lab_tasks", "--log_samples", "--output_path", str(out)]
    return command


def ours(weights: list[Path], folder: Path) -> list[str]:
    spec: dict[str, Any] = {"name": "speed", "model": "lab", "store": f"{folder}/s.duckdb"}
    spec["checkpoints"] = {each.name: [str(each)] for each in weights}
    spec["evaluate"] = {"general": TASKS, "batch_size": BATCH, "dtype": "float32", "movement": 0}
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return [sys.executable, "-m", "refinery", "run", f"{folder}/spec.yaml", "--stage", "evaluate"]


def same(weights: list[Path], store: Path, results: Path) -> None:
    """Equal scores on equal items."""
    stored = Store(store, read_only=True)
    names = {row["name"]: row["fingerprint"] for row in stored.checkpoints()}
    for each in weights:
        found = next((results / each.name).rglob("results_*.json"))
        alone = json.loads(found.read_text())["results"]
        for score in stored.scores(names[each.name]):
            cell = score.metric if "," in score.metric else f"{score.metric},none"
            assert abs(alone[score.benchmark][cell] - score.value) < 1e-9, (each.name, score)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = variants(folder, args.checkpoints)
        one: list[tuple[float, float]] = []
        for number in range(args.passes):
            alone = timed(theirs(weights[0], folder / f"alone{number}" / "w0"))
            one.append((timed(ours(weights[:1], folder / f"ours{number}")), alone))
            print(f"one checkpoint: ours {one[-1][0]:.1f} s, lm_eval {alone:.1f} s", flush=True)
        same(weights[:1], folder / "ours0" / "s.duckdb", folder / "alone0")
        many = timed(ours(weights, folder / "many"))
        separate = [timed(theirs(each, folder / "separate" / each.name)) for each in weights]
        same(weights, folder / "many" / "s.duckdb", folder / "separate")
        print(f"{len(weights)} checkpoints: ours {many:.1f} s, lm_eval {sum(separate):.1f} s")
        ratio = statistics.median(ours / alone for ours, alone in one)
        result = {"one": one, "one_ratio": ratio, "many": many, "separate": separate}
        result |= {"many_ratio": many / sum(separate), "tasks": TASKS, "load": os.getloadavg()[0]}
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"ratios: one {ratio:.2f} (at most 1.1), {len(weights)} {many / sum(separate):.2f} (at most 0.7)")


if __name__ == "__main__":
    main()
