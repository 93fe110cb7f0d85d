"""What `aapo cluster --dry-run` prints: what each field of the recipe became in verl, and the command."""

import shlex
from itertools import zip_longest
from pathlib import Path

from aapo.backends.verl.launch import EXTERNAL, command, external_modules
from aapo.backends.verl.mapping import Became, arguments, mapped
from aapo.backends.verl.run import num_batches
from aapo.backends.verl.values import Facts
from aapo.progress import console
from aapo.recipe import Recipe
from aapo.training.schedule import planned_steps

UNKNOWN = "DATA_DECIDE"
FIELD_WIDTH = 36


def print_mapping(recipe: Recipe, model: str, output: Path, num_prompts: int | None, prompt_tokens: int) -> None:
    """The table and the command line.

    Args:
        recipe: What is run.
        model: Folder or Hub name of the model that training starts from.
        output: The run directory.
        num_prompts: Training prompts; None where the data set is not here.
        prompt_tokens: Tokens of the longest.

    Raises:
        InputError: A field has no equivalent.
    """
    known = num_prompts is not None or recipe.training.max_steps > 0
    batches = num_batches(recipe, planned_steps(recipe, num_prompts or 0)) if known else UNKNOWN
    held_out = recipe.training.eval_strategy != "no"
    found = mapped(recipe, Facts(model, str(output.absolute()), batches, prompt_tokens, held_out))
    console.print("what each field becomes in verl:")
    for item in found:
        for line in _lines(item):
            console.print(f"  {line}")
    console.print("command:")
    console.print(f"{EXTERNAL}={external_modules()} {shlex.join(command(recipe, arguments(found)))}")


def _lines(item: Became) -> list[str]:
    """Fields of a row, each with what it became beside it, and the note."""
    fields = [field for field in item.fields if " " in field] or item.fields[:1]
    settings = [f"{name.lstrip('+')}={value}" for name, value in item.settings.items()]
    pairs = zip_longest(fields, [*settings, *([f"({item.note})"] if item.note else [])], fillvalue="")
    return [f"{field:{FIELD_WIDTH}}  {setting}".rstrip() for field, setting in pairs]
