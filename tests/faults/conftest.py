import os

import pytest
import yaml

from faulty import Workplace

REWARD = """
import os, time

def letters(completions, **columns):
    time.sleep(float(os.environ.get("AAPO_SLOW", "0")))
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]
"""


@pytest.fixture(scope="session")
def recipe(tiny_folder):
    """A recipe that trains a random tiny model, by a reward of which it has something to learn, in seconds."""
    return {
        "model_name_or_path": str(tiny_folder), "dataset_name": "reasoning_gym:basic_arithmetic",
        "num_train_prompts": 24, "num_eval_prompts": 4, "eval_num_samples": 2, "num_generations": 4,
        "per_device_train_batch_size": 8, "max_completion_length": 8, "max_steps": 6, "save_steps": 2,
        "reward_funcs": ["letters.py:letters", "accuracy"], "judge": "accuracy", "learning_rate": 1.0e-2,
        "num_reference_samples": 2, "activation_checkpointing": False, "bf16": False, "use_cpu": True,
        "preflight": "warn", "eval_strategy": "steps", "eval_steps": 3,
    }  # fmt: skip


@pytest.fixture
def make_workplace(tmp_path, recipe):
    """A function that makes a folder with the recipe in it."""
    os.environ["OMP_NUM_THREADS"] = "1"

    def make(name, **changes):
        folder = tmp_path / name
        folder.mkdir()
        given = {key: value for key, value in {**recipe, **changes}.items() if value is not None}
        (folder / "mine.yaml").write_text(yaml.safe_dump(given))
        (folder / "letters.py").write_text(REWARD)
        return Workplace(folder)

    return make
