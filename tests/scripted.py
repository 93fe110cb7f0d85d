"""A recipe with a bank whose samples are written here, so that its faults are known."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from aapo.bank import ReferenceBank
from aapo.recipe import load_recipe
from aapo.records import Completion
from aapo.training.banks import identity_of_bank
from aapo.training.models import model_spec
from aapo.training.prompts import checked_prompts

NUM_PROMPTS, NUM_SAMPLES = 12, 4
SMALL = {
    "dataset_name": "problems.jsonl", "num_eval_prompts": 0, "reward_funcs": ["accuracy"], "num_reference_samples": 4,
    "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8, "max_steps": 1,
    "save_strategy": "no", "activation_checkpointing": False, "bf16": False, "use_cpu": True, "reference_bank": "bank",
}  # fmt: skip


def right(place: int, k: int) -> str:
    return rf"\boxed{{{2 * place}}}"


def wrong(place: int, k: int) -> str:
    return r"\boxed{-1}"


def mixed(place: int, k: int) -> str:
    return right(place, k) if (place + k) % 2 else wrong(place, k)


class ScriptedEngine:
    """Samples `text(place, k)`, place the number in the prompt's row."""

    batch_size = 64

    def __init__(self, tokenizer, text, cut):
        self.tokenizer, self.text, self.cut, self.done = tokenizer, text, cut, 0

    def generate(self, prompt_ids, seeds, on_batch=lambda done: None):
        answers = []
        for ids in prompt_ids:
            place = int(self.tokenizer.decode(ids).split("#")[1])
            k = self.done % NUM_SAMPLES
            reason = "length" if self.cut(place, k) else "stop"
            answers.append(Completion(self.text(place, k), list(range(1, 5)), reason))
            self.done += 1
        return answers


def never(place: int, k: int) -> bool:
    return False


def write_recipe(
    folder: Path, model: Path, text: Callable[[int, int], str], cut: Callable[[int, int], bool] = never, **fields
) -> Path:
    """A recipe in `folder`, beside its data and its bank; the working directory must be `folder`."""
    rows = [
        {"question": f"What is {n} + {n}? #{n}#", "answer": str(2 * n), "source": f"book-{n}"}
        for n in range(1, NUM_PROMPTS + 1)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "scripted.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "model_name_or_path": str(model), **fields}))
    recipe = load_recipe(str(path))
    if recipe.uses_bank:
        tokenizer = model_spec(recipe, str(model)).load_tokenizer()
        engine = ScriptedEngine(tokenizer, text, cut)
        prompts = checked_prompts(recipe, tokenizer).prompts
        identity = identity_of_bank(recipe, tokenizer)
        ReferenceBank.build("bank", prompts, engine, recipe.reward_funcs, identity, num_samples=NUM_SAMPLES)
    return path
