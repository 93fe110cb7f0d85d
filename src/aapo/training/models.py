"""The models of a recipe: where they are, and how they are loaded."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aapo.base.cache import base_path, build_base
from aapo.engines.folder import check_finite
from aapo.engines.loading import Base, adapter_base, cannot_load, check_model_folder, check_weights
from aapo.engines.spec import TRANSFORMERS, VLLM, ModelSpec
from aapo.errors import InputError
from aapo.files import check_folder
from aapo.progress import progress
from aapo.ranks import launched, launched_spread
from aapo.recipe import Recipe
from aapo.recipe.model import ModelSettings
from aapo.records import Prompt
from aapo.runs import cache_folder
from aapo.tasks import render_prompt


def model_path(recipe: Recipe) -> str:
    """Folder or Hub name of the model that training starts from; a base model's folder may not exist yet."""
    if recipe.base_model is None:
        assert recipe.model.model_name_or_path is not None
        return recipe.model.model_name_or_path
    return str(base_path(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length))


def loaded_weights(recipe: Recipe) -> Base:
    """Name and revision of the model whose weights are loaded: of an adapter its base model."""
    path = model_path(recipe)
    return adapter_base(path) or Base(path, recipe.model.model_revision)


def check_room(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Check that the prompts leave room for a completion in the context of the model that is trained, or of vLLM.

    Raises:
        InputError: Some do not, or the model's configuration cannot be loaded.
    """
    from transformers import AutoConfig

    from aapo.engines.transformers import check_context

    name, revision = loaded_weights(recipe)
    try:
        config = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=recipe.training.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(cannot_load("configuration", name, error)) from error
    limits = [getattr(config, "max_position_embeddings", None)]
    if recipe.training.use_vllm:
        limits.append(recipe.trainer.get("vllm_max_model_length"))
    limit = min((limit for limit in limits if limit is not None), default=None)
    check_context([prompt.ids for prompt in prompts], recipe.training.sampling, limit)


def trains_adapter(recipe: Recipe) -> bool:
    """Whether adapters are trained, new ones or the one that `model_name_or_path` names, and the base is frozen."""
    return recipe.model.use_peft or adapter_base(model_path(recipe)) is not None


def prepare_model(recipe: Recipe) -> str:
    """`model_path`, after making the base model if the recipe asks for one and the cache lacks it."""
    check_packages(recipe)
    check_adapter(recipe)
    path, ranks = model_path(recipe), launched()
    if recipe.base_model is not None and not Path(path).exists() and ranks.is_main:
        steps = recipe.base_model.warmup_max_steps
        with progress("base model", steps) as update:

            def show(warmup: Any) -> None:
                update(warmup.step, f"loss {warmup.loss:.2f}  sampled accuracy {warmup.accuracy:.2f}")

            build_base(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length, show)
    ranks.wait()
    check_model(recipe)
    return path


def check_model(recipe: Recipe) -> None:
    """Check the model that is trained before anything is sampled; TRL loads it much later.

    Of a base model that was made here, which is small, all is read.

    Raises:
        InputError: It is damaged or foreign.
    """
    path = model_path(recipe)
    try:
        check_model_folder(path)
        if adapter_base(path) is None:
            check_weights(path, recipe.model.model_revision, model_spec(recipe, path).from_pretrained())
        if recipe.base_model is not None:
            check_finite(Path(path))
            render_prompt([{"role": "user", "content": "1"}], model_spec(recipe, path).load_tokenizer())
    except InputError as error:
        if recipe.base_model is None:
            raise
        reason = str(error).rpartition("; ")[0] or str(error)  # a copy of it is nowhere to be had
        raise InputError(f"{reason}; delete {path}, and it is made again") from error


def check_cache(recipe: Recipe) -> None:
    """Check that evaluations, which end a run, can be written to the cache.

    Raises:
        InputError: They cannot.
    """
    if recipe.data.num_eval_prompts:
        check_folder(cache_folder() / "evaluations", "the cache (AAPO_CACHE)")


def check_packages(recipe: Recipe) -> None:
    """Check that what quantization and 8-bit optimizers need is installed.

    Raises:
        InputError: It is not, or quantized weights would have to be trained.
    """
    quantized = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(recipe.model, name)), None)
    if quantized is not None and not trains_adapter(recipe):
        raise InputError(f"{quantized} quantizes weights, which then cannot be trained; set use_peft to true")
    optimizer = str(getattr(recipe.training.optim, "value", recipe.training.optim))
    asked = {
        "load_in_4bit": recipe.model.load_in_4bit,
        "load_in_8bit": recipe.model.load_in_8bit,
        "optim": any(part in optimizer for part in ("8bit", "bnb", "paged")) and optimizer,
    }
    field, value = next(((name, value) for name, value in asked.items() if value), (None, None))
    if field is not None and not importlib.util.find_spec("bitsandbytes"):
        raise InputError(f"{field} is {value} and needs bitsandbytes; pip install 'aapo[quantization]'")


def check_adapter(recipe: Recipe) -> None:
    """Check that an adapter's folder is trained on as it is.

    Raises:
        InputError: New adapters are to stand beside it, or the reference is to follow it.
    """
    if adapter_base(path := model_path(recipe)) is None:
        return
    if recipe.model.use_peft:
        raise InputError(
            f"use_peft is true and would add new adapters to model_name_or_path {path}, an adapter, which is trained "
            f"on as it is; leave out use_peft and lora_*, or merge it first: `aapo merge {path}`"
        )
    if recipe.training.sync_ref_model:
        raise InputError(
            f"sync_ref_model does not go with model_name_or_path {path}, an adapter, whose reference is the adapter as "
            "it was; remove it"
        )


def model_spec(recipe: Recipe, path: str, revision: str | None = None, name: str = "") -> ModelSpec:
    """A model as the recipe loads models.

    Args:
        recipe: Says how.
        path: Folder or Hub name.
        revision: Of a Hub model.
        name: What it is called in results.
    """
    return ModelSpec(
        path,
        revision,
        name,
        recipe.model.dtype or "auto",
        quantization(recipe.model),
        recipe.training.trust_remote_code,
        {"attn_implementation": recipe.model.attn_implementation, **(recipe.training.model_init_kwargs or {})},
    )


def quantization(model: ModelSettings) -> dict[str, Any] | None:
    """How bitsandbytes quantizes the weights as they are loaded; None where they are not quantized."""
    if model.load_in_8bit:
        return {"load_in_8bit": True}
    if not model.load_in_4bit:
        return None
    return {
        "load_in_4bit": True,
        "bnb_4bit_compute_dtype": model.dtype,
        "bnb_4bit_quant_type": model.bnb_4bit_quant_type,
        "bnb_4bit_use_double_quant": model.use_bnb_nested_quant,
        "bnb_4bit_quant_storage": model.bnb_4bit_quant_storage,
    }


def trained_dtype(recipe: Recipe) -> str:
    """Number format in which the weights that are trained are loaded: that of the recipe, or float32 master weights.

    An update of 1e-6 is smaller than the spacing of most weights in 16 bits, which would stay what they are. So weights
    that are trained are loaded in float32 and computed with in 16 bits by autocast, unless the launcher keeps float32
    masters by itself (DeepSpeed, FSDP2 in mixed precision) or `model_init_kwargs` say the dtype.
    """
    given = (recipe.training.model_init_kwargs or {}).get("dtype")
    spread = recipe.training.deepspeed or recipe.training.fsdp or launched_spread()
    if given is None and not trains_adapter(recipe) and not spread:
        return "float32"
    return str(given or recipe.model.dtype)


def training_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `from_pretrained` for the model that is trained."""
    options = model_spec(recipe, model_path(recipe)).from_pretrained()
    return {**options, "dtype": trained_dtype(recipe), "revision": recipe.model.model_revision}


def sampler(recipe: Recipe) -> str:
    """The engine that samples bank and evaluations: that of the rollouts, where it can load the weights."""
    return VLLM if recipe.training.use_vllm and quantization(recipe.model) is None else TRANSFORMERS


def sampler_options(recipe: Recipe, engine: str) -> dict[str, Any]:
    """What the recipe says of an engine: arguments of its own, and how many sequences it is handed at once."""
    if engine == VLLM:
        return {"batch_size": None, "max_model_len": recipe.trainer.get("vllm_max_model_length")}
    return {"batch_size": recipe.run.generation_batch_limit if engine == TRANSFORMERS else None}


def reference_spec(recipe: Recipe) -> ModelSpec:
    """The frozen reference model."""
    if recipe.run.reference_model_name_or_path is not None:
        return model_spec(recipe, recipe.run.reference_model_name_or_path, recipe.run.reference_model_revision)
    return model_spec(recipe, model_path(recipe), recipe.model.model_revision)
