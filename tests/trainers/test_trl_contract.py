"""The parts of TRL and transformers that trainers/ overrides or calls. A new version that moves one fails here."""

import inspect
from importlib.metadata import version

import pytest
from transformers import Trainer
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer

HOOKS = {
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "has_tool_images"],
    "_compute_loss": ["self", "unwrapped_student", "inputs", "num_items_in_batch"],
    "_get_train_sampler": ["self", "dataset"],
}
SHARED = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_clip_grad_norm": ["self", "model"],
    "_send_telemetry": ["self"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
}


def parameters(owner: type, name: str) -> list[str]:
    return list(inspect.signature(getattr(owner, name)).parameters)


def test_versions() -> None:
    assert version("trl").startswith("1.16.")
    assert version("transformers").split(".")[:2] in (["5", "16"], ["5", "17"])


@pytest.mark.parametrize("name", HOOKS)
def test_distillation_hooks(name: str) -> None:
    assert parameters(DistillationTrainer, name) == HOOKS[name]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("owner", [SFTTrainer, DistillationTrainer])
def test_shared_hooks(owner: type, name: str) -> None:
    assert parameters(owner, name) == SHARED[name]


def test_generation_hands_over_the_whole_window() -> None:
    """`_prepare_inputs` makes the completions of all micro-batches at once, shuffles them and splits them."""
    text = inspect.getsource(DistillationTrainer._prepare_inputs)
    steps = ["_generate_and_score_completions(", "shuffle_sequence_dict(", "split_tensor_dict("]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_loss_is_used_as_it_is_returned() -> None:
    """No division by the accumulation steps, and three values from `_compute_loss`."""
    assert DistillationTrainer.loss_is_scaled_for_ga is True
    assert "loss, entropy_sum, num_valid_tokens = " in inspect.getsource(DistillationTrainer.compute_loss)
    made = inspect.getsource(DistillationTrainer._generate_and_score_completions)
    assert all(f'"{key}"' in made for key in ("completion_ids", "completion_mask", "num_items_in_batch"))


def test_attributes_that_are_read() -> None:
    text = inspect.getsource(DistillationTrainer.__init__)
    read = "_forward_redirection teacher_model eos_token_ids generation_config _tokenizer _metrics"
    assert all(f"self.{name} = " in text for name in read.split())


def test_configurations_have_the_fields() -> None:
    fields = set(inspect.signature(DistillationConfig).parameters)
    assert {"temperature", "top_p", "top_k", "max_completion_length", "warmup_steps"} <= fields
    assert {"max_length", "dataset_kwargs"} <= set(inspect.signature(SFTConfig).parameters)


def test_checkpoints_are_rotated_after_they_are_whole() -> None:
    """The marker is written after `Trainer._save_checkpoint`; a limit of two keeps the one before until then."""
    text = inspect.getsource(Trainer._save_checkpoint)
    assert text.index("save_to_json") < text.index("rotate_checkpoints(")


def test_kernel_signature() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    names = parameters(ChunkedDivergenceFunction, "forward")
    assert names[1:9] == ["student_hidden", "student_weight", "student_bias", "teacher_hidden", "teacher_weight",
                          "teacher_bias", "beta", "temperature"]  # fmt: skip


def test_supervised_hooks() -> None:
    """What trainers/supervised.py, anchors.py, lwf.py and replay.py override or call."""
    from trl.models.utils import _ForwardRedirection

    loss = ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    assert parameters(SFTTrainer, "compute_loss") == loss
    assert parameters(SFTTrainer, "get_batch_samples") == ["self", "epoch_iterator", "num_batches", "device"]
    assert parameters(SFTTrainer, "_get_num_items_in_batch") == ["self", "batch_samples", "device"]
    assert parameters(_ForwardRedirection, "__call__")[1:4] == ["wrapper_module", "original_module", "method"]
    text = inspect.getsource(SFTTrainer.compute_loss)
    assert "fused_lm_head=True" in text and "outputs.log_probs" in text and "outputs.label_mask" in text
    assert 'self.args.loss_type == "dft"' in text


def test_a_step_ends_with_its_last_micro_batch() -> None:
    """Penalties are added when gradients are about to be used, and replayed rows join before they are taken."""
    text = inspect.getsource(Trainer._run_epoch if hasattr(Trainer, "_run_epoch") else Trainer._inner_training_loop)
    steps = ["get_batch_samples(", "_set_sync_gradients(", "training_step(", "_clip_grad_norm("]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    logged = inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert logged.index("self.log(") < logged.index("self.control.should_save")
