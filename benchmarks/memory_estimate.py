"""The memory estimate against the peaks of real training steps.

    python benchmarks/memory_estimate.py [--output benchmarks/results/memory_estimate.json]

Each case trains three steps of a from-scratch model in a process of its own, by the recipe's own trainer, after a far
smaller one that loads what has to be loaded. On a GPU the peak is what the allocator had handed out; on a CPU it is the
resident set's growth, which also counts the allocator's slack, temporaries and everything that is not a tensor.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import ModelConfig, get_peft_config

from aapo.backends.trl import AAPOTrainer
from aapo.backends.trl.config import trainer_config
from aapo.base.model import train_tokenizer
from aapo.files import write_json
from aapo.progress import console
from aapo.recipe import resolve
from aapo.runs import environment
from aapo.training.memory import MemoryEstimate, ModelShape, estimate

PROMPT = "one two three " * 8
MODEL = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_key_value_heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "few long layers": {"layers": 6, "vocab": 8192, "batch": 4, "completion": 448, "checkpointing": False},
    "the same, checkpointed": {"layers": 6, "vocab": 8192, "batch": 4, "completion": 448, "checkpointing": True},
    "large vocabulary": {"layers": 2, "vocab": 65536, "batch": 4, "completion": 192, "checkpointing": False},
    "LoRA": {"layers": 6, "vocab": 8192, "batch": 4, "completion": 448, "checkpointing": False, "lora": True},
}


def main() -> None:
    """Run every case and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "memory_estimate.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(_measure(CASES[arguments.case])))
        return
    report: dict[str, Any] = {"environment": environment(), "cases": {}}
    for name, case in CASES.items():
        command = [sys.executable, __file__, "--case", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        report["cases"][name] = {**case, **found}
        console.print(f"{name}: estimate {found['estimate_mib']:.0f} MiB, peak {found['peak_mib']:.0f} MiB, "
                      f"ratio {found['peak_mib'] / found['estimate_mib']:.2f}")  # fmt: skip
    write_json(arguments.output, report)


def _measure(case: dict[str, Any]) -> dict[str, float]:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    _train({**case, "layers": 1, "vocab": 300, "completion": 8}, small)
    before = _peak()
    found = _train(case, MODEL)
    parts = {f"{name}_mib": value / 2**20 for name, value in vars(found).items()}
    return {"peak_mib": (_peak() - before) / 2**20, "estimate_mib": found.total / 2**20, **parts}


def _train(case: dict[str, Any], shape: dict[str, Any]) -> MemoryEstimate:
    """Train a model of that shape for three steps; what the estimate says of it."""
    folder = Path(tempfile.mkdtemp())
    lora = {"use_peft": True, "lora_r": 8, "lora_target_modules": "all-linear"} if case.get("lora") else {}
    recipe = resolve(
        "memory",
        {
            "model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "algorithm": "grpo",
            "num_generations": case["batch"], "per_device_train_batch_size": case["batch"], "max_steps": 3,
            "max_completion_length": case["completion"], "bf16": False, "save_strategy": "no", **lora,
            "activation_checkpointing": case["checkpointing"], "output_dir": str(folder),
        },
    )  # fmt: skip
    tokenizer: Any = train_tokenizer(["one two three"] * 5, 300)
    config = Qwen2Config(
        vocab_size=case["vocab"], num_hidden_layers=case["layers"], tie_word_embeddings=False, **shape,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AAPOTrainer(
        model=Qwen2ForCausalLM(config), args=trainer_config(recipe), processing_class=tokenizer,
        reward_funcs=lambda completions, **columns: [float(i % 2) for i in range(len(completions))],
        train_dataset=Dataset.from_list([{"prompt": PROMPT, "answer": "1"}] * 4),
        peft_config=get_peft_config(ModelConfig(**asdict(recipe.model))),
    ).train()  # fmt: skip
    return estimate(recipe, ModelShape.of(config), len(tokenizer(PROMPT)["input_ids"]))


def _peak() -> float:
    """Bytes at most so far."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
