"""Context.map and models shared by two names."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from refinery import models
from refinery.context import Context
from refinery.errors import RowError, UserError
from refinery.journal import Journal
from refinery.services import Services
from refinery.spec import ModelSpec
from refinery.store import Store

DTYPES = {"self": "auto", "judge": "auto", "half": "bfloat16"}


def context(window: int = 8) -> Context:
    return Context("step", 0, None, window)  # type: ignore[arg-type]


def test_map_keeps_the_order_and_the_window_and_puts_row_errors_in_their_place() -> None:
    now = most = 0

    async def work(item: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001 * (item % 7))
        now -= 1
        if item % 10 == 3:
            raise RowError("odd", str(item))
        return item * item

    found = asyncio.run(context().map(work, (number for number in range(100))))
    assert most == 8 and len(found) == 100
    for number, each in enumerate(found):
        if number % 10 == 3:
            assert isinstance(each, RowError) and each.detail == str(number)
        else:
            assert each == number * number
    assert asyncio.run(context().map(work, [])) == []


def test_map_stops_the_rest_on_any_other_error() -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        if item == 5:
            raise UserError("no server")
        await asyncio.sleep(0.2)
        done.append(item)

    with pytest.raises(UserError, match="no server"):
        asyncio.run(context().map(work, range(100)))
    assert done == []


def test_two_names_for_one_model_open_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Model:
        identity = "m"

        def __init__(self, name: str):
            self.name = name

        async def close(self) -> None:
            closed.append(self.name)

    def open_model(_: ModelSpec, name: str, known: str = "") -> Any:
        opened.append(name)
        return Model(name)

    monkeypatch.setattr(models, "open_model", open_model)
    specs = {name: ModelSpec(model="lab", dtype=dtype) for name, dtype in DTYPES.items()}

    async def work() -> None:
        services = Services(specs, store, journal)
        found = await asyncio.gather(*(services.model(name) for name in ("judge", "self", "half", "judge")))
        assert found[0] is found[1] is found[3] is not found[2]
        found[0].counts.sent = 3
        assert services.counts().sent == 3
        await services.close()

    store = Store(tmp_path / "s.duckdb")
    with Journal(store) as journal:
        asyncio.run(work())
    assert sorted(opened) == sorted(closed) == ["half", "self"]
