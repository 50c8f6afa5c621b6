"""A base training that was interrupted goes on to the very weights of one that was not."""

from argparse import Namespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file

from refinery.lab import train_base


def settings(size, out, **changed):
    made = {"size": size, "out": out, "seed": 3, "steps": 8, "budget": 256, "bf16": False, "save_every": -1.0}
    return Namespace(**made | changed)


@pytest.mark.parametrize("size", train_base.SIZES)
def test_resuming_changes_nothing_and_refuses_other_settings(tmp_path, monkeypatch, size):
    monkeypatch.setattr(train_base, "POOL", 4)
    train_base.train(settings(size, tmp_path / "whole"))

    batches = train_base.batches

    def broken(seed, pool, *rest):
        if pool % 2:  # the second
            raise KeyboardInterrupt
        return batches(seed, pool, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train_base, "batches", broken)
        train_base.train(settings(size, tmp_path / "broken"))
    assert (tmp_path / "broken" / "checkpoint.pt").exists()
    with pytest.raises(SystemExit, match="remove it or use the same settings"):
        train_base.train(settings(size, tmp_path / "broken", seed=4))
    train_base.train(settings(size, tmp_path / "broken"))
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()

    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
