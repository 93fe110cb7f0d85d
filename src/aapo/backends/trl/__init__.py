"""Training on one machine, on TRL; the only place that imports it."""

from aapo.backends.trl.config import AAPOConfig
from aapo.backends.trl.trainer import AAPOTrainer

__all__ = ["AAPOConfig", "AAPOTrainer"]
