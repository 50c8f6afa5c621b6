"""Energy by the machine's own counters: GPUs over NVML, processor packages over RAPL, where they may be read.

A counter says what its device drew for everybody who used it. RAPL's is usually readable by root alone.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")

Counter = tuple[Callable[[], float], float]
"""Joules so far (OSError where it cannot be read), and at how many it starts anew."""


class Meter:
    """Joules since it was made or last asked."""

    def __init__(self, powercap: Path | None = None, *, gpus: bool = True):
        self._counters = [*(_gpus() if gpus else ()), *_packages(powercap or POWERCAP)]
        self._before: list[float] | None = None
        self.taken()

    def taken(self) -> float | None:
        """None where no counter can be read, and from the time when one of them cannot be any more. Ask often: a
        package's counter starts anew after some 260 kJ, minutes to an hour, and two rounds look like one."""
        try:
            now = [read() for read, _ in self._counters]
        except (OSError, ValueError):
            self._counters = []
        if not self._counters:
            return None
        steps = [new - old for new, old in zip(now, self._before or now, strict=True)]
        self._before = now
        return sum(step + span if step < 0 else step for step, (_, span) in zip(steps, self._counters, strict=True))


def _packages(powercap: Path) -> list[Counter]:
    """Whole packages; the cores and memory listed below them are parts of these."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):
                found.append(_package(zone))
    return found


def _package(zone: Path) -> Counter:
    def read(name: str = "energy_uj") -> float:
        return int((zone / name).read_text()) / 1e6

    return read, read("max_energy_range_uj")


def _gpus() -> list[Counter]:
    """Those that this process may use."""
    if not torch.cuda.is_available() or find_spec("pynvml") is None:
        return []
    import pynvml

    def counter(number: int) -> Counter:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(number).uuid}")

        def read() -> float:
            try:
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
            except pynvml.NVMLError as error:  # older devices do not count
                raise OSError(str(error)) from error

        return read, 0.0

    try:
        pynvml.nvmlInit()
        return [counter(number) for number in range(torch.cuda.device_count())]
    except pynvml.NVMLError:
        return []
