"""From rows to a checkpoint: the flow every method shares. The manifest is written last, so that it means complete.

A checkpoint's folder is named by its fingerprint and holds

    configuration.json   what shapes the weights; written first, and compared when a training resumes
    state/               the trainer's own checkpoints while it works; gone when it is done
    model.safetensors …  the weights, loadable like any model; `adapter/` beside them where LoRA was trained
    manifest.json        what was done, and with what; last
"""

import contextlib
import json
import platform
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refinery.catalog import METHODS, module
from refinery.errors import UserError
from trainers import processes
from trainers.energy import Meter
from trainers.errors import Diverged
from trainers.job import Progress, Run, TrainJob, configuration, directory, fingerprint, parent
from trainers.saving import gathered, save, write_weights
from trainers.trackers import tracked, tracking

__all__ = ["Progress", "TrainJob", "fingerprint", "train"]

PACKAGES = ("refinery", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
MANIFEST, CONFIGURATION, STATE = "manifest.json", "configuration.json", "state"


def train(job: TrainJob, progress: Progress | None = None) -> Path:
    """The folder of the job's weights, trained unless they stand already.

    An interrupted training goes on from its last checkpoint and, on a CPU, ends with the weights it would have had.
    `progress` is called after each optimiser step. UserError where the model, its chat template or the rows are of no
    use, or where the folder holds another configuration.
    """
    folder = directory(job)
    job = job if processes.first() else replace(job, store=None)
    manifest = processes.shared(lambda: _read(folder / MANIFEST))
    if manifest is not None:
        shutil.rmtree(folder / STATE, ignore_errors=True)
        _record(job, folder, manifest)
        return folder
    method = module(METHODS, job.method)
    if hasattr(method, "change"):
        return _change(job, folder, train(parent(job, method.AFTER), progress))
    processes.shared(lambda: _claim(job, folder))
    if job.store is not None:
        _start(job, folder)
    started = time.time()
    with _quiet(), tracked(job, folder), _failing(job, folder):
        run = _prepare(job, folder)
        trainer, watch, resumed = _trainer(run, folder, progress)
        try:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        except Diverged as error:
            raise _stopped(run, folder, error) from None
        finally:
            watch.flush()
        whole = gathered(trainer)
        if trainer.accelerator.is_main_process:
            save(trainer, run, folder, whole)
            manifest = _manifest(run, trainer, watch, resumed, started)
            _write(folder / MANIFEST, manifest)
            shutil.rmtree(folder / STATE, ignore_errors=True)
            _record(job, folder, manifest)
        trainer.accelerator.wait_for_everyone()  # another stage may begin with these weights
    return folder


def stands(folder: Path) -> bool:
    """Whether the folder's weights are done."""
    return _read(folder / MANIFEST) is not None


def _change(job: TrainJob, folder: Path, tuned: Path) -> Path:
    """Weights that a method makes of finished ones, without training."""
    import torch
    from accelerate import PartialState

    processes = PartialState(cpu=not torch.cuda.is_available())
    if not processes.is_main_process:
        processes.wait_for_everyone()
        return folder
    _claim(job, folder)
    if job.store is not None:
        _start(job, folder)
    started = time.time()
    trained = _read(tuned / MANIFEST) or {}
    with _quiet(), _failing(job, folder):
        model, tokenizer = module(METHODS, job.method).change(job, tuned)
        write_weights(model, tokenizer, folder, bfloat16=trained["bfloat16"])
    kept = ("rows_trained", "rows_dropped", "steps", "answer_tokens", "prompts", "end_token", "bfloat16", "device")
    manifest = {
        **_head(job),
        **{key: trained[key] for key in kept},
        "made_of": tuned.name,
        **_foot(started),
    }
    _write(folder / MANIFEST, manifest)
    _record(job, folder, manifest)
    processes.wait_for_everyone()
    return folder


class Stopped(UserError):
    """A training that had to stop; `detail` says at which step, with which rows, and what is left of it."""

    def __init__(self, message: str, detail: dict[str, Any]):
        super().__init__(message)
        self.detail = detail


def _stopped(run: Run, folder: Path, error: Diverged) -> Stopped:
    """What to say of it. Checkpoints written since it went wrong are removed, so that the last good one is the last."""
    rows = run.course.batch(error.step)
    found = list((folder / STATE).glob("checkpoint-*"))
    for path in found:
        if _step(path) >= error.since:
            shutil.rmtree(path, ignore_errors=True)  # another process may be at it
    last = max((_step(path) for path in found if path.exists()), default=None)
    shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    left = f"the last good checkpoint is of step {last}" if last else "there is no good checkpoint"
    where = f"at step {error.step} (rows {shown}); {left}; lower learning_rate"
    message = f"{run.job.name} seed {run.job.seed}: {error} {where}"
    detail = {"step": error.step, "since": error.since, "rows": rows, "rows_since": run.course.batch(error.since)}
    return Stopped(message, {**detail, "last_good_step": last})


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


@contextlib.contextmanager
def _failing(job: TrainJob, folder: Path) -> Iterator[None]:
    """Why a training failed stands in the store; memory that runs out is the user's to mend."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            cure = "lower micro_batch_size, or set gradient_checkpointing: true or lora: true"
            error = UserError(f"{job.name} seed {job.seed}: out of memory; {cure}")
        if isinstance(error, UserError):
            detail = {"error": str(error), **getattr(error, "detail", {})}
        else:
            told = "".join(traceback.format_exception(error))
            detail = {"error": f"{type(error).__name__}: {error}", "traceback": told}
        if job.store is not None:
            job.store.fail_checkpoint(folder.name, detail)
        raise error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings (tied weights that a checkpoint rightly lacks, file times that
    it does not trust), which would tear the display of a run."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# ---- before


def _claim(job: TrainJob, folder: Path) -> None:
    """The folder is this configuration's: UserError names the keys in which what it holds differs."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = configuration(job)
    found = _read(folder / CONFIGURATION)
    if found is None:
        _write(folder / CONFIGURATION, wanted)
    elif found != wanted:
        differ = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        raise UserError(f"{folder}: holds a training with another {', '.join(differ)}; remove it or train elsewhere")


def _prepare(job: TrainJob, folder: Path) -> Run:
    from refinery.models.transformers import load
    from trainers.course import course

    params = job.params
    wide = params.lora is None or params.dtype == "float32"
    model, tokenizer = load(
        job.model, "float32" if wide else "auto", revision=job.revision, trust_remote_code=job.trust_remote_code
    )
    found = course(job, tokenizer)
    arguments = _arguments(job, folder, found.steps, on_gpu=model.device.type == "cuda")
    return Run(job, model, tokenizer, found, arguments, _adapter(job), found.notes)


def _arguments(job: TrainJob, folder: Path, total: int, on_gpu: bool) -> dict[str, Any]:
    """transformers.TrainingArguments: the job's parameters, and nothing printed, reported or sent anywhere."""
    from accelerate import PartialState

    params, processes = job.params, PartialState(cpu=not on_gpu).num_processes
    micro = params.micro_batch_size or max(1, params.batch_size // processes)
    if params.batch_size % (micro * processes):
        raise UserError(f"batch_size {params.batch_size} is not a multiple of {processes} processes x {micro} rows")
    return {
        "output_dir": str(folder / STATE),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": params.batch_size // (micro * processes),
        "max_steps": total,
        "learning_rate": params.learning_rate,
        "weight_decay": params.weight_decay,
        "lr_scheduler_type": "constant_with_warmup" if params.schedule == "constant" else params.schedule,
        "warmup_steps": params.warmup_ratio,  # below 1 it is a share
        "max_grad_norm": params.max_grad_norm,
        "optim": "adamw_torch",
        "use_cpu": not on_gpu,
        "bf16": params.dtype == "bfloat16" or (params.dtype == "auto" and on_gpu),
        "gradient_checkpointing": params.gradient_checkpointing,
        "seed": job.seed,
        "save_strategy": "steps",
        "save_steps": params.save_every,
        "save_total_limit": 2,  # the newest may be cut off while it is written
        "logging_steps": 1,
        **tracking(job, folder),
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
    }


def _adapter(job: TrainJob) -> Any:
    lora = job.params.lora
    if lora is None:
        return None
    from peft import LoraConfig

    layers = lora.layers or "all-linear"
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers, task_type="CAUSAL_LM"
    )


def _trainer(run: Run, folder: Path, progress: Progress | None) -> tuple[Any, Any, Path | None]:
    """The method's trainer, its watch, and the checkpoint that it goes on from."""
    from transformers.trainer_callback import PrinterCallback

    from trainers.loop import MARKER, Watch

    probed = None
    if run.job.params.probe_every:
        from trainers.probes import answers_before

        probed = answers_before(run)
    trainer = module(METHODS, run.job.method).build(run)
    trainer.remove_callback(PrinterCallback)
    store = run.job.store if trainer.accelerator.is_main_process else None
    here = trainer.accelerator.is_main_process and processes.on_one_machine()
    meter = Meter(gpus=trainer.accelerator.device.type == "cuda") if here else None
    watch = Watch(store, folder.name, run.course.tokens(), progress, meter, trainer.cross_entropy)
    trainer.add_callback(watch)
    if probed:
        from trainers.probes import Probe

        trainer.add_callback(Probe(run, trainer, *probed, watch.record))
    resumed = last_whole(folder / STATE)
    if resumed:
        trainer.restore(_read(resumed / MARKER))
    return trainer, watch, resumed


def last_whole(state: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the others are removed."""
    from trainers.loop import MARKER

    found = sorted(state.glob("checkpoint-*"), key=_step)
    for path in found:
        if _read(path / MARKER) is None:
            shutil.rmtree(path, ignore_errors=True)
    return next((path for path in reversed(found) if path.exists()), None)


# ---- after


def _manifest(run: Run, trainer: Any, watch: Any, resumed: Path | None, started: float) -> dict[str, Any]:
    job, prepared = run.job, run.prepared
    return {
        **_head(job),
        "rows_trained": len(prepared.rows),
        "rows_dropped": dict(prepared.dropped),
        "steps": run.arguments["max_steps"],
        "answer_tokens": sum(len(prepared.rows[place].answer) for place in run.places),
        "prompts": prepared.prompts,
        "end_token": prepared.ending.token,
        "bfloat16": run.arguments["bf16"],
        "device": str(trainer.accelerator.device),
        "processes": trainer.accelerator.num_processes,
        **run.notes,
        **trainer.extra_state(),
        "final": watch.final(),
        "resumed_at_step": _step(resumed) if resumed else 0,
        **_foot(started),
    }


def _head(job: TrainJob) -> dict[str, Any]:
    """What a manifest says of the job."""
    found = {"fingerprint": fingerprint(job), "name": job.name, "role": job.role}
    return {**found, "model": job.model, "revision": job.revision, **configuration(job)}


def _foot(started: float) -> dict[str, Any]:
    seconds, now = round(time.time() - started, 3), datetime.now(UTC).isoformat(timespec="seconds")
    return {"seconds": seconds, "finished_at": now, "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _start(job: TrainJob, folder: Path) -> None:
    assert job.store is not None
    params = job.params.model_dump(mode="json")
    named = (folder.name, job.run_id, job.name, job.method, params, job.seed, job.data_fingerprint, job.base_identity)
    job.store.start_checkpoint(*named, str(folder), job.role)


def _record(job: TrainJob, folder: Path, manifest: dict[str, Any]) -> None:
    """The store says that these weights stand, also where another run or another store made them. What is final or
    tried already stays so where another training needs it as a part."""
    if job.store is None:
        return
    known = job.store.checkpoint(folder.name)
    if known is not None and known["status"] == "complete" and job.role in ("part", "stage"):
        return
    if known is None or known["role"] != job.role or known["status"] != "complete":
        _start(job, folder)
        job.store.finish_checkpoint(folder.name, manifest)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file, or None where there is none or it was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
    scratch.replace(path)
