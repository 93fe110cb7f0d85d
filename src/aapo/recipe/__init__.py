"""What to run: recipes of YAML, resolved and checked."""

from aapo.recipe.recipe import Recipe, load_recipe, read_recipe, recipe_flags, resolve, set_field, shipped_recipes

__all__ = ["Recipe", "load_recipe", "read_recipe", "recipe_flags", "resolve", "set_field", "shipped_recipes"]
