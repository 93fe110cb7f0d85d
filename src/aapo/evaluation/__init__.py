"""Models on held-out prompts, every number with its interval."""

from aapo.evaluation.estimates import Estimate, average_accuracy
from aapo.evaluation.evaluate import Evaluation, evaluate, save_evaluations

__all__ = ["Estimate", "Evaluation", "average_accuracy", "evaluate", "save_evaluations"]
