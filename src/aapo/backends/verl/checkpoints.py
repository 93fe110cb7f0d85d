"""The newest of verl's checkpoints as a folder that Transformers or PEFT read."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from aapo.errors import AapoError
from aapo.files import write_folder, write_json
from aapo.recipe.model import ModelSettings

# Names in a folder of verl's checkpoints, and in a checkpoint.
NEWEST, WEIGHTS = "latest_checkpointed_iteration.txt", "actor/huggingface"
ADAPTER_MARK, ADAPTER_NAME = ".lora_", ".default."


def newest_step(checkpoints: Path) -> int:
    """The step, in verl's count, of the newest whole checkpoint; 0 without any. It is written last."""
    file = checkpoints / NEWEST
    return int(file.read_text(encoding="utf-8")) if file.exists() else 0


def save_model(checkpoints: Path, target: Path, model: ModelSettings, base: str, tokenizer: Any) -> None:
    """Make a model folder, or that of an adapter, out of the newest checkpoint.

    Args:
        checkpoints: Folder of verl's checkpoints.
        target: The folder; one that is there is replaced.
        model: Says whether adapters were trained, and of which kind.
        base: Folder or Hub name of the model that training started from.
        tokenizer: Its tokenizer, which is saved beside the weights.

    Raises:
        AapoError: There is no checkpoint with a model.
    """
    saved = checkpoints / f"global_step_{newest_step(checkpoints)}" / WEIGHTS
    if not saved.exists():
        raise AapoError(f"verl has saved no model in {saved}; the run's verl.log says why")

    def fill(folder: Path) -> None:
        if model.use_peft:
            write_adapter(saved, folder, model, base)
        else:
            shutil.copytree(saved, folder, dirs_exist_ok=True)
            _say_precision(folder)
        tokenizer.save_pretrained(folder)

    write_folder(target, fill, replace=True)


def write_adapter(saved: Path, folder: Path, model: ModelSettings, base: str) -> None:
    """Write the adapter that is among the weights of a checkpoint, as PEFT does.

    Raises:
        AapoError: There is none.
    """
    found = {}
    for file in sorted(saved.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names = [name for name in weights.keys() if ADAPTER_MARK in name]  # noqa: SIM118  no mapping
            found |= {name.replace(ADAPTER_NAME, "."): weights.get_tensor(name) for name in names}
    if not found:
        raise AapoError(f"verl has saved no adapter in {saved}")
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    modules = sorted({name.split(ADAPTER_MARK)[0].rpartition(".")[2] for name in found})
    settings = {
        "peft_type": "LORA", "task_type": model.lora_task_type, "base_model_name_or_path": base, "r": model.lora_r,
        "lora_alpha": model.lora_alpha, "lora_dropout": model.lora_dropout, "target_modules": modules, "bias": "none",
        "inference_mode": True,
    }  # fmt: skip
    write_json(folder / "adapter_config.json", settings)


def _say_precision(folder: Path) -> None:
    """Let the configuration say in which precision the weights are, where verl writes that of the model it loaded."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="pt") as weights:
        dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})
