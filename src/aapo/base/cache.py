"""Base models in the cache, by the hash of everything that makes them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from aapo.base.config import BaseModelConfig
from aapo.files import check_folder, write_folder, write_json
from aapo.runs import cache_folder
from aapo.tasks import DataConfig

if TYPE_CHECKING:
    from aapo.base.warmup import WarmupState

FORMAT = 1
# What of the data changes a base model; the numbers of prompts do not.
DATA_FIELDS = ("dataset_name", "dataset_settings", "dataset_seed", "system_prompt", "prompt_template", "conversational")


def base_path(config: BaseModelConfig, data: DataConfig, max_completion_length: int) -> Path:
    """The folder of the base model that these settings make, whether it exists or not."""
    settings = {
        "format": FORMAT,
        "torch": version("torch"),
        "model": asdict(config),
        "data": {name: getattr(data, name) for name in DATA_FIELDS},
        "max_completion_length": max_completion_length,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "base" / digest


def build_base(
    config: BaseModelConfig,
    data: DataConfig,
    max_completion_length: int,
    on_step: Callable[["WarmupState"], None] = lambda state: None,
) -> Path:
    """The folder of the base model, made if the cache does not have it.

    The folder is a Transformers model (safetensors, tokenizer, chat template) that `AutoModelForCausalLM` loads, whole
    or absent.

    Raises:
        InputError: The cache cannot be written to.
    """
    path = base_path(config, data, max_completion_length)
    if path.exists():
        return path
    check_folder(path, "the cache (AAPO_CACHE)")
    from aapo.base.warmup import warm_up

    base = warm_up(config, data, max_completion_length, on_step)

    def fill(folder: Path) -> None:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        write_json(folder / "warmup.json", {"accuracy": base.accuracy, **asdict(config)})

    write_folder(path, fill)
    return path
