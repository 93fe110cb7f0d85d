"""The reference bank of a recipe: which it is, where it is, what it lacks, and making it."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from aapo.bank import (
    BankIdentity,
    ReferenceBank,
    bank_identity,
    digest,
    find_score_set,
    missing_prompts,
    num_prompts,
    read_identity,
    sample_files,
    sample_identity,
)
from aapo.engines.identity import tokenizer_identity
from aapo.engines.opening import open_engine
from aapo.engines.spec import TRANSFORMERS
from aapo.errors import InputError
from aapo.progress import told_progress
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.runs import cache_folder
from aapo.training.models import reference_spec


def identity_of_bank(recipe: Recipe, tokenizer: Any, engine: str = TRANSFORMERS) -> BankIdentity:
    """The identity of the bank that the recipe needs, sampled by this engine, whose noise is its own."""
    return bank_identity(
        model=reference_spec(recipe).identity(engine),
        tokenizer=tokenizer_identity(tokenizer),
        sampling=recipe.training.sampling.describe(),
        reward_funcs=recipe.reward_funcs,
        num_samples=recipe.run.num_reference_samples,
        seed=recipe.run.reference_seed,
    )


def bank_path(recipe: Recipe, identity: BankIdentity) -> Path:
    """The bank that the recipe names, or the cache's place for its samples, however they are scored."""
    if recipe.run.reference_bank is not None:
        return Path(recipe.run.reference_bank)
    return cache_folder() / "banks" / digest(sample_identity(identity))


def prepare_bank(
    recipe: Recipe, prompts: Dataset, tokenizer: Any, output: Path | None = None, engine: str = TRANSFORMERS
) -> ReferenceBank:
    """The recipe's bank with all of `prompts`: opened, completed, scored or built.

    A bank that the recipe names is only read: one that lacks prompts is an error when it is attached.

    Args:
        recipe: Says what to sample.
        prompts: Training prompts.
        tokenizer: The model's.
        output: Folder to build in; the cache's by default.
        engine: What samples: transformers or vllm.
    """
    if recipe.run.reference_bank is not None and output is None:
        return _named_bank(recipe, tokenizer)
    identity = identity_of_bank(recipe, tokenizer, engine)
    path, ranks = output or bank_path(recipe, identity), launched()

    opened = open_engine(
        reference_spec(recipe),
        recipe.training.sampling,
        engine,
        tokenizer=tokenizer,
        batch_size=recipe.run.generation_batch_limit if engine == TRANSFORMERS else None,
    )
    with opened, told_progress("reference bank", visible=ranks.is_main) as tell:
        return ReferenceBank.build(
            path,
            prompts,
            opened,
            recipe.reward_funcs,
            identity,
            template_options=recipe.training.template_options,
            on_batch=tell,
            ranks=ranks,
        )


def _named_bank(recipe: Recipe, tokenizer: Any) -> ReferenceBank:
    """The bank that the recipe names, whichever engine it was sampled by: all draw from the same distribution."""
    path = Path(recipe.run.reference_bank or "")
    engine = read_identity(path)["model"].get("engine", TRANSFORMERS)
    return ReferenceBank.matching(path, identity_of_bank(recipe, tokenizer, engine))


def bank_plan(recipe: Recipe, prompts: Dataset, tokenizer: Any) -> str:
    """Where the recipe's bank is, and whether it is reused, will be rescored or will be built.

    Raises:
        InputError: The recipe names a bank that is not there or does not match.
    """
    if (named := recipe.run.reference_bank) is not None:
        if not Path(named).exists():
            raise InputError(f"reference_bank is {named}, and there is no bank; build it with `aapo bank build RECIPE`")
        return f"{named} (reused: {len(_named_bank(recipe, tokenizer))} prompts)"
    identity = identity_of_bank(recipe, tokenizer)
    path = bank_path(recipe, identity)
    samples = sample_files(path)
    scores = find_score_set(path, identity["rewards"])
    missing = missing_prompts(path, prompts, tokenizer, **recipe.training.template_options)
    unscored = scores.unscored(samples) if scores else samples
    if missing:
        return f"{path} (will be built: {len(missing) * identity['num_samples']} samples)"
    if unscored:
        return f"{path} (will be rescored: {num_prompts(unscored) * identity['num_samples']} samples)"
    return f"{path} (reused: {num_prompts(samples)} prompts)"
