"""Suites: a name under `evaluate` that stands for several benchmarks.

`general` is what SDFT (arXiv:2601.19897) watches for forgetting: six tasks of lm-eval without shots, without the chat
template but for IFEval. The published scores of its base model, Qwen2.5-7B-Instruct, agree with that and with no other
common setting: HellaSwag 62.0 is `acc` and not `acc_norm`, TruthfulQA 47.9 is mc1 and not mc2, MMLU 71.7 and Winogrande
71.1 are without shots.
"""

SUITES: dict[str, tuple[str, ...]] = {
    "general": ("hellaswag", "truthfulqa_mc1", "mmlu", "ifeval", "winogrande", "humaneval"),
    "science": ("sciknoweval_chemistry",),
    "tool_use": ("toolalpaca_simulated", "toolalpaca_real", "openfunctions"),
    "medical": ("medmcqa",),
    "knowledge": ("knowledge_direct", "knowledge_indirect", "knowledge_oracle"),
    "math": ("gsm8k", "math500"),
    "code": ("humaneval", "mbpp"),
    "dialogue": ("dialogue_judged", "dialogue_likelihood"),
}
