"""The models of a recipe: where they are, how they are loaded, and engines that sample them."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import BitsAndBytesConfig

from aapo.base.cache import base_path, build_base
from aapo.base.warmup import WarmupState
from aapo.engines import TransformersEngine, load_model, load_tokenizer
from aapo.engines.vllm import VLLMEngine
from aapo.errors import InputError
from aapo.progress import progress
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.recipe.model import ModelSettings
from aapo.records import Engine
from aapo.sampling import SamplingSettings

# Set by `accelerate launch` where DeepSpeed or FSDP spreads the weights and keeps float32 ones.
LAUNCHED_SPREAD = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")


def model_path(recipe: Recipe) -> str:
    """Folder or Hub name of the model that training starts from; a base model's folder may not exist yet."""
    if recipe.base_model is None:
        assert recipe.model.model_name_or_path is not None
        return recipe.model.model_name_or_path
    return str(base_path(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length))


def prepare_model(recipe: Recipe) -> str:
    """`model_path`, after making the base model if the recipe asks for one and the cache lacks it."""
    check_packages(recipe)
    path, ranks = model_path(recipe), launched()
    if recipe.base_model is not None and not Path(path).exists() and ranks.is_main:
        steps = recipe.base_model.warmup_max_steps
        with progress("base model", steps) as update:

            def show(warmup: WarmupState) -> None:
                update(warmup.step, f"loss {warmup.loss:.2f}  sampled accuracy {warmup.accuracy:.2f}")

            build_base(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length, show)
    ranks.wait()
    return path


def check_packages(recipe: Recipe) -> None:
    """Check that what quantization and 8-bit optimizers need is installed.

    Raises:
        InputError: It is not, or quantized weights would have to be trained.
    """
    quantized = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(recipe.model, name)), None)
    if quantized is not None and not recipe.model.use_peft:
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


def model_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `from_pretrained` that the recipe sets."""
    options: dict[str, Any] = {
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        "trust_remote_code": recipe.training.trust_remote_code,
    }
    if (quantization := quantization_config(recipe.model)) is not None:
        options["quantization_config"] = quantization
    return {**options, **(recipe.training.model_init_kwargs or {})}


def quantization_config(model: ModelSettings) -> BitsAndBytesConfig | None:
    """How bitsandbytes quantizes the weights as they are loaded; None where they are not quantized."""
    if model.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    if not model.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=model.dtype,
        bnb_4bit_quant_type=model.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model.bnb_4bit_quant_storage,
    )


def training_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `from_pretrained` for the model that is trained: `model_options`, with float32 master weights.

    An update of 1e-6 is smaller than the spacing of most weights in 16 bits, which would stay what they are. So weights
    that are trained are loaded in float32 and computed with in 16 bits by autocast, unless the launcher keeps float32
    masters by itself (DeepSpeed, FSDP2 in mixed precision) or `model_init_kwargs` say the dtype.
    """
    options = model_options(recipe)
    given = (recipe.training.model_init_kwargs or {}).get("dtype")
    spread = recipe.training.deepspeed or recipe.training.fsdp or any(map(os.environ.get, LAUNCHED_SPREAD))
    if given is None and not recipe.model.use_peft and not spread:
        options["dtype"] = "float32"
    return options


def precision(recipe: Recipe) -> str:
    """Number format of the weights, which changes what is sampled."""
    quantized = "4bit" if recipe.model.load_in_4bit else "8bit" if recipe.model.load_in_8bit else None
    return quantized or str(recipe.model.dtype or "auto")


def load_recipe_tokenizer(recipe: Recipe, path: str, revision: str | None = None) -> Any:
    """The tokenizer at `path`, with remote code only where the recipe asks for it."""
    return load_tokenizer(path, revision, trust_remote_code=recipe.training.trust_remote_code)


def reference_model(recipe: Recipe) -> tuple[str, str | None]:
    """Name and revision of the frozen reference model."""
    if recipe.run.reference_model_name_or_path is not None:
        return recipe.run.reference_model_name_or_path, recipe.run.reference_model_revision
    return model_path(recipe), recipe.model.model_revision


def make_engine(
    recipe: Recipe,
    source: str,
    revision: str | None,
    tokenizer: Any,
    settings: SamplingSettings,
    engine: str = "transformers",
) -> Engine:
    """A sampling engine for the model at `source`, loaded as the trainer loads it, on this process's device.

    Raises:
        InputError: The engine is vllm, and it is not installed or has no equivalent of a setting.
    """
    if engine == "vllm":
        return VLLMEngine(
            source,
            tokenizer,
            settings,
            revision=revision,
            dtype=recipe.model.dtype or "auto",
            trust_remote_code=recipe.training.trust_remote_code,
        )
    model: Any = load_model(source, revision, **model_options(recipe))
    if quantization_config(recipe.model) is None:  # a quantized model is placed as it is loaded
        model = model.to(PartialState().device)
    return TransformersEngine(model, tokenizer, settings, recipe.run.generation_batch_limit)
