"""Finished weights on disk, loadable like any model; gathered first where they are split over processes. Light."""

from pathlib import Path
from typing import Any

from trainers.job import Run


def gathered(trainer: Any) -> dict[str, Any] | None:
    """The weights gathered from all processes, where they are split over them (FSDP, ZeRO); all must take part."""
    split = trainer.accelerator.distributed_type.name in ("FSDP", "DEEPSPEED")
    return trainer.accelerator.get_state_dict(trainer.model) if split else None


def save(trainer: Any, run: Run, folder: Path, whole: dict[str, Any] | None) -> None:
    """Weights and tokenizer, in the type of the arithmetic; an adapter on its own too, and merged."""
    model = trainer.accelerator.unwrap_model(trainer.model) if whole is None else _filled(run, whole)
    if run.adapter is not None:
        model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    write_weights(model, run.tokenizer, folder, bfloat16=run.arguments["bf16"])


def _filled(run: Run, whole: dict[str, Any]) -> Any:
    """A model of its own with these weights, on the CPU; with adapters where those were trained. A weight that is tied
    to another may be missing."""
    from refinery.models.transformers import load

    job = run.job
    options: dict[str, Any] = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    model = load(job.model, "float32", device="cpu", **options)[0]
    if run.adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, run.adapter)
    missing, unexpected = model.load_state_dict(whole, strict=False)
    named = dict(model.named_parameters(remove_duplicate=False))
    there = {weight.data_ptr() for name, weight in named.items() if name not in missing}
    lost = [name for name in missing if name not in named or named[name].data_ptr() not in there]
    if lost or unexpected:
        raise RuntimeError(f"gathered weights do not fit: missing {lost[:3]}, unexpected {unexpected[:3]}")
    return model


def write_weights(model: Any, tokenizer: Any, folder: Path, *, bfloat16: bool) -> None:
    import torch

    model.to(torch.bfloat16 if bfloat16 else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
