"""Energy from counters as Linux lists them, and from a stand-in for NVML, which needs a GPU."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from refinery.store import Store
from tests.trainers.conftest import JobMaker
from trainers import energy
from trainers.energy import Meter
from trainers.job import directory
from trainers.train import train


def zone(folder: Path, number: str, name: str, microjoules: int, span: int = 10_000_000) -> Path:
    found = folder / f"intel-rapl:{number}"
    found.mkdir(parents=True, exist_ok=True)
    (found / "name").write_text(f"{name}\n")
    (found / "energy_uj").write_text(f"{microjoules}\n")
    (found / "max_energy_range_uj").write_text(f"{span}\n")
    return found / "energy_uj"


def test_packages_are_summed_and_parts_of_them_left_out(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 1_000_000), zone(tmp_path, "1", "package-1", 9_000_000)
    core, whole = zone(tmp_path, "0:0", "core", 500_000), zone(tmp_path, "2", "psys", 0)
    meter = Meter(tmp_path)
    first.write_text("3500000")
    core.write_text("1500000")
    whole.write_text("7000000")
    assert meter.taken() == pytest.approx(2.5)
    assert meter.taken() == 0.0
    second.write_text("250000")  # 9 to 10, and anew to 0.25
    assert meter.taken() == pytest.approx(1.25)


def test_what_cannot_be_read_is_not_nothing(tmp_path: Path) -> None:
    assert Meter(tmp_path / "none").taken() is None
    broken = zone(tmp_path, "0", "package-0", 0)
    broken.write_text("")
    assert Meter(tmp_path).taken() is None
    zone(tmp_path, "0", "package-0", 0)
    lost = zone(tmp_path, "1", "package-1", 0)
    meter = Meter(tmp_path)
    assert meter.taken() == 0.0
    lost.unlink()
    assert meter.taken() is None
    zone(tmp_path, "1", "package-1", 5_000_000)
    assert meter.taken() is None  # what it drew meanwhile is not known


def test_gpus_that_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = ModuleType("pynvml")
    drawn = {"GPU-a": 5_000, "GPU-b": 0}

    class NVMLError(Exception):
        pass

    def read(handle: str) -> int:
        if drawn[handle] is None:
            raise NVMLError
        return drawn[handle]

    nvml.NVMLError, nvml.nvmlInit = NVMLError, lambda: None  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: uuid  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetTotalEnergyConsumption = read  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy, "find_spec", lambda name: nvml)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid="ab"[n]))
    meter = Meter(tmp_path)
    drawn.update({"GPU-a": 6_500, "GPU-b": 500})
    assert meter.taken() == pytest.approx(2.0)
    assert Meter(tmp_path, gpus=False).taken() is None
    drawn.update({"GPU-a": None, "GPU-b": 700})  # type: ignore[dict-item]
    assert meter.taken() is None


def test_a_training_notes_what_each_step_took(job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Growing(Meter):
        """Over a counter that rises by 1.5 J whenever it is read."""

        def __init__(self, gpus: bool) -> None:
            counter, self.joules = zone(tmp_path / "powercap", "0", "package-0", 0), 0.0
            self.counter = counter
            super().__init__(tmp_path / "powercap", gpus=gpus)

        def taken(self) -> float | None:
            self.joules += 1.5
            self.counter.write_text(str(int(self.joules * 1e6)))
            return super().taken()

    monkeypatch.setattr("trainers.train.Meter", Growing)
    store = Store(tmp_path / "s.duckdb")
    one = job("sft", _store=store)
    train(one)
    logged = store.query(
        "SELECT step, value FROM training_metrics WHERE checkpoint = ? AND name = 'energy_joules' ORDER BY step",
        [directory(one).name],
    )
    assert [(row["step"], row["value"]) for row in logged] == [(1, 1.5), (2, 1.5), (3, 1.5)]
