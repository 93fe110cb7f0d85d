"""Teach language models to reason with Advantage-Augmented Policy Optimization (arXiv 2505.14264)."""

import os
from typing import TYPE_CHECKING

# OpenMP threads that spin while they wait cost several-fold on shared cores; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from aapo.named import lazily

if TYPE_CHECKING:
    from aapo.backends.trl import AAPOConfig, AAPOTrainer
    from aapo.bank import ReferenceBank
    from aapo.engines import ModelSpec, open_engine
    from aapo.evaluation import Protocol, Task, evaluate, load_protocol
    from aapo.grading import accuracy, grade, reward_function
    from aapo.objective import Algorithm, Collection, Margin, Objective, augmented_advantages, register
    from aapo.recipe import load_recipe
    from aapo.tasks import DataConfig, load_prompts
    from aapo.training import build_bank, train

__version__ = "0.1.0"

__getattr__ = lazily(
    __name__,
    {
        "AAPOConfig": "aapo.backends.trl",
        "AAPOTrainer": "aapo.backends.trl",
        "Algorithm": "aapo.objective",
        "Collection": "aapo.objective",
        "DataConfig": "aapo.tasks",
        "Margin": "aapo.objective",
        "ModelSpec": "aapo.engines",
        "Objective": "aapo.objective",
        "Protocol": "aapo.evaluation",
        "ReferenceBank": "aapo.bank",
        "Task": "aapo.evaluation",
        "accuracy": "aapo.grading",
        "augmented_advantages": "aapo.objective",
        "build_bank": "aapo.training",
        "evaluate": "aapo.evaluation",
        "grade": "aapo.grading",
        "load_prompts": "aapo.tasks",
        "load_protocol": "aapo.evaluation",
        "load_recipe": "aapo.recipe",
        "open_engine": "aapo.engines",
        "register": "aapo.objective",
        "reward_function": "aapo.grading",
        "train": "aapo.training",
    },
)

__all__ = [
    "AAPOConfig",
    "AAPOTrainer",
    "Algorithm",
    "Collection",
    "DataConfig",
    "Margin",
    "ModelSpec",
    "Objective",
    "Protocol",
    "ReferenceBank",
    "Task",
    "accuracy",
    "augmented_advantages",
    "build_bank",
    "evaluate",
    "grade",
    "load_prompts",
    "load_protocol",
    "load_recipe",
    "open_engine",
    "register",
    "reward_function",
    "train",
]
