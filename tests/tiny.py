"""A random Llama of about 100k parameters with its own tokenizer and chat template, for tests that need weights.

`tiny_model()` returns its folder, made once a machine; `make_tiny_model(path)` makes one where it is told.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

CONTEXT = 512

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

CORPUS = [
    "the clinic opens at nine and closes at five on every day but sunday",
    "which answer is right, and why is the other answer wrong?",
    "Answer with one word. Repeat the answer. Add 12 to 34 and say what you get: 46.",
    "a rewrite keeps the meaning of the reference and says it in its own words",
]


def make_tiny_model(path: Path | str, *, seed: int = 0, template: bool = True, spread: float = 0.25) -> Path:
    """Write the model to the folder `path`. `spread` is the deviation of its random weights: more means surer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = Path(path)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    if template:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=spread,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.lm_head.weight.data[tokenizer.eos_token_id] *= 0.5  # else some prompts end at once
    model.save_pretrained(path)
    return path


def tiny_model() -> Path:
    """The folder of the tiny model, made on first use and kept in the temporary folder."""
    name = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"refinery-tiny-{name}"
    if not path.exists():
        made = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
        make_tiny_model(made)
        try:
            made.rename(path)
        except OSError:  # another process was first
            shutil.rmtree(made)
    return path
