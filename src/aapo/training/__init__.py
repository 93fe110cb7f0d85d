"""Training on one machine, on TRL."""

from aapo.training.config import AAPOConfig
from aapo.training.recipe import Recipe, load_recipe, shipped_recipes
from aapo.training.run import TrainingResult, train
from aapo.training.trainer import AAPOTrainer

__all__ = ["AAPOConfig", "AAPOTrainer", "Recipe", "TrainingResult", "load_recipe", "shipped_recipes", "train"]
