"""Recipes from the configurations and scripts of published code: AAPO, GPG, open-rs, open-r1 and TRL's GRPO."""

from aapo.recipe.importing.sources import FORMATS, Source, read_sources, recognise
from aapo.recipe.importing.translate import Fate, Imported, import_config

__all__ = ["FORMATS", "Fate", "Imported", "Source", "import_config", "read_sources", "recognise"]
