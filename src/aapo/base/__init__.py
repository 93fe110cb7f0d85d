"""Small base models made here: a real Qwen3 model, taught just enough that reinforcement learning has a start."""

from aapo.base.cache import base_path, build_base
from aapo.base.model import BaseModelConfig
from aapo.base.warmup import WarmupState
from aapo.base.worked import WORKED, worked_solution

__all__ = ["WORKED", "BaseModelConfig", "WarmupState", "base_path", "build_base", "worked_solution"]
