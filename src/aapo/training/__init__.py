"""Running a recipe: its model, its prompts, its bank, a backend that trains, an evaluation."""

from aapo.training.banks import build_bank
from aapo.training.run import TrainingResult, train

__all__ = ["TrainingResult", "build_bank", "train"]
