"""A recipe's model: engine and attention that would be taken, context, memory, disk."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from aapo.recipe import Recipe
from aapo.training.doctor.engine import engine_finding
from aapo.training.doctor.environment import ram
from aapo.training.findings import Finding
from aapo.training.memory import GIB, device_memory, estimate, model_shape
from aapo.training.models import check_adapter, check_packages, loaded_weights, model_path
from aapo.training.run import free_space, space_needed


def model_findings(recipe: Recipe, longest: int) -> Iterator[Finding]:
    """What the recipe's model takes, and whether it is here.

    Args:
        recipe: Says which model, and how it is loaded.
        longest: Tokens of the longest prompt; 0 where it is not known.

    Raises:
        InputError: A package that the settings need is missing.
    """
    check_packages(recipe)
    check_adapter(recipe)
    path = model_path(recipe)
    if recipe.base_model is not None and not Path(path).exists():
        yield engine_finding(recipe)
        return
    name, revision = loaded_weights(recipe)
    try:
        config = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=recipe.training.trust_remote_code
        )
    except (OSError, ValueError) as error:
        yield engine_finding(recipe)
        text = f"the configuration of {name} is not here: {' '.join(str(error).split())[:100]}"
        yield Finding("warning", "model", text, "check the name, or download the model first", "docs/launch.md")
        return
    yield from _engine_and_attention(recipe, config)
    yield from _context(recipe, config, longest)
    yield from _memory(recipe, longest)
    yield _disk(recipe, path)


def _engine_and_attention(recipe: Recipe, config: object) -> Iterator[Finding]:
    """The engine and the attention that are taken for this model with these settings."""
    given = recipe.model.attn_implementation or (recipe.training.model_init_kwargs or {}).get("attn_implementation")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=given, trust_remote_code=recipe.training.trust_remote_code
            )
    except (ImportError, ValueError) as error:
        yield engine_finding(recipe)
        text = f"no model can be made with attn_implementation {given}: {' '.join(str(error).split())}"
        yield Finding("error", "attention", text, "install what it needs, or set it to sdpa", "docs/launch.md")
        return
    with suppress(OSError, ValueError):  # a model without one has that of its configuration
        name, revision = loaded_weights(recipe)
        model.generation_config = GenerationConfig.from_pretrained(name, revision=revision or "main")
    yield engine_finding(recipe, model)
    taken, name = model.config._attn_implementation, type(model).__name__
    why = f"attn_implementation is {given}" if given else f"it is Transformers' choice for {name} here"
    yield Finding("ok", "attention", f"attention is {taken}, because {why}")


def _context(recipe: Recipe, config: object, longest: int) -> Iterator[Finding]:
    context, length = getattr(config, "max_position_embeddings", None), recipe.training.sampling.max_completion_length
    if context is not None and longest + length > context:
        text = (
            f"the longest prompt and completion, {longest} + {length} tokens, are over the model's context of {context}"
        )
        advice = "lower max_completion_length, or drop long prompts by max_prompt_length"
        yield Finding("warning", "context", text, advice, "docs/data.md")


def _memory(recipe: Recipe, longest: int) -> Iterator[Finding]:
    shape = model_shape(*loaded_weights(recipe), trust_remote_code=recipe.training.trust_remote_code)
    if shape is None:
        return
    needed, gpu = estimate(recipe, shape, longest).total, device_memory()
    there, where = (ram(), "this machine") if gpu is None or recipe.trainer.get("use_cpu") else (gpu, "this GPU")
    text = f"training takes about {needed / GIB:.1f} GiB in one process; {where} has {there / GIB:.1f}"
    if needed > there:
        advice = "use LoRA, a smaller batch, activation_checkpointing or more GPUs"
        yield Finding("warning", "memory", text, advice, "docs/memory.md")
    else:
        yield Finding("ok", "memory", text)


def _disk(recipe: Recipe, path: str) -> Finding:
    folder = Path(recipe.given.get("output_dir") or "runs")
    free, needed = free_space(folder), space_needed(recipe, path)
    text = f"a run writes about {needed / GIB:.2f} GiB; {os.fspath(folder)} has {free / GIB:.1f} free"
    if free < needed:
        return Finding("error", "disk", text, "free some, or choose another --output_dir")
    return Finding("ok", "disk", text)
