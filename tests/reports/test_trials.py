"""Points of a tuning grid stand beside each other only where they were measured alike."""

from pathlib import Path

from refinery.records import Score
from refinery.spec import SourceSpec, Spec
from refinery.store import Store
from reports.data import VALIDATION
from reports.gather_models import trials
from trainers.methods import sft


def test_points_measured_under_other_settings_are_left_out(tmp_path: Path) -> None:
    methods = {"m": {"method": "sft", "params": sft.Params()}}
    train = {"seeds": [0], "tune": {"learning_rate": [0.1, 0.2, 0.3]}, "methods": methods}
    spec = Spec(name="x", source=SourceSpec(lab="clinic"), train=train)
    store = Store(tmp_path / "s.duckdb")
    for rate, role, batch_sizes in ((0.1, "final", (8,)), (0.2, "tuning", (64,)), (0.3, "tuning", (64, 8))):
        store.start_checkpoint(f"c{rate}", "run", "m", "sft", {"learning_rate": rate}, 0, "d", "b", "", role)
        for size in batch_sizes:
            settings = {"batch_size": size}
            store.add_scores([Score(f"c{rate}", VALIDATION, "acc", size / 100, 0, 1, 9, f"f{size}", True, settings)])
    finals = {"m": [row for row in store.checkpoints() if row["role"] == "final"]}
    found = trials(store, spec, finals)
    assert [(t.params["learning_rate"], t.scores[VALIDATION].value) for t in found] == [(0.1, 0.08), (0.3, 0.08)]
