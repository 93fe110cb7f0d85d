"""Whole model folders: an adapter merged into its base, a model ready for the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from aapo.engines import load_tokenizer
from aapo.engines.folder import check_finite
from aapo.engines.loading import adapter_base, check_model_folder, check_weights, is_hub_name
from aapo.engines.spec import ModelSpec
from aapo.errors import AapoError, InputError
from aapo.files import write_folder, write_json, write_text
from aapo.publishing.card import model_card
from aapo.runs import RunDirectory

# The trainer's own, with paths of this machine.
LEFT_OUT = ("training_args.bin",)


def finished_model(run: RunDirectory) -> Path:
    """The run's final model, whose weights are whole and finite.

    Raises:
        InputError: The run has none yet, or a damaged one.
    """
    resume = f"`aapo train {run.path} --resume`"
    if not run.model.exists():
        raise InputError(f"{run.path} has no final model yet; finish it with {resume}")
    try:
        check_model_folder(str(run.model))
        if adapter_base(str(run.model)) is None:
            trusted = run.recipe()["fields"].get("trust_remote_code", False)
            check_weights(str(run.model), None, {"trust_remote_code": trusted})
        check_finite(run.model)
    except InputError as error:
        raise InputError(f"{error}; or delete {run.model}, and {resume} saves it again") from error
    return run.model


def merge_adapter(source: str, output: Path | None = None) -> Path:
    """A model folder with the weights of a LoRA adapter and its base together, which needs neither afterwards.

    The base is loaded in the precision that it was saved in, also for an adapter that was trained on it quantized.

    Args:
        source: A run directory, or an adapter's folder.
        output: Folder to write; by default `merged` in the run.

    Raises:
        InputError: There is no adapter, or the output is there already.
    """
    run = RunDirectory(source)
    is_run = run.recipe_file.exists()
    adapter = finished_model(run) if is_run else Path(source)
    if not adapter.is_dir():
        raise InputError(f"there is no folder {source}; name a run directory or an adapter's folder")
    if adapter_base(str(adapter)) is None:
        raise InputError(f"{source} has no LoRA adapter; its model is whole as it is")
    if output is None and not is_run:
        raise InputError(f"{source} is not a run directory; say where to write with --output")
    target = output or run.path / "merged"
    _check_new(target)
    write_folder(target, lambda folder: _save_merged(adapter, folder))
    return target


def _check_new(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} exists; choose another --output, or remove it")


def _save_merged(adapter: Path, folder: Path) -> None:
    ModelSpec(str(adapter)).load().save_pretrained(folder)
    load_tokenizer(str(adapter)).save_pretrained(folder)


def publish(source: str, output: Path | None = None, *, repository: str | None = None, adapter: bool = False) -> Path:
    """A folder ready for the Hub: weights, tokenizer, chat template, generation config and model card.

    Args:
        source: A finished run directory.
        output: Folder to write; by default `published` in the run.
        repository: Name that it will have on the Hub.
        adapter: Leave a LoRA adapter by itself, beside the name of its base.

    Raises:
        InputError: The run has no model, the output is there already, or the adapter's base is not on the Hub.
    """
    run = RunDirectory.open(source)
    model = finished_model(run)
    base = adapter_base(str(model))
    target = output or run.path / "published"
    _check_new(target)
    if repository is not None:
        _check_repository(repository)
    if adapter and base is None:
        raise InputError(f"--adapter has no effect, because {source} has no adapter; leave it out")
    if adapter and base is not None and not is_hub_name(base.name):
        raise InputError(f"the adapter's base {base.name} is a folder here, which nobody else has; leave --adapter out")
    card = model_card(run, repository or run.path.resolve().name, merged=base is not None and not adapter)

    def fill(folder: Path) -> None:
        if base is not None and not adapter:
            _save_merged(model, folder)
        else:
            shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        _set_sampling(folder, run.recipe())
        write_text(folder / "README.md", card)

    write_folder(target, fill)
    return target


def _check_repository(name: str) -> None:
    if not is_hub_name(name):
        raise InputError(f"--push is {name!r}; it must be owner/name")


def _set_sampling(folder: Path, recipe: dict[str, Any]) -> None:
    """Give the generation config the settings that the rollouts were drawn with."""
    path, fields = folder / "generation_config.json", recipe["fields"]
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    settings = {name: fields[name] for name in names if fields.get(name) is not None}
    write_json(path, {**config, "do_sample": True, "temperature": 1.0, "top_p": 1.0, **settings})


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a published folder; the address of the repository.

    Raises:
        InputError: The name is no repository's, or nobody is logged in.
        AapoError: The Hub cannot be reached or refuses.
    """
    _check_repository(repository)
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Upload the model")
    except LocalTokenNotFoundError as error:
        raise InputError("nobody is logged in to the Hub; run `hf auth login`") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AapoError(
            f"cannot push to {repository}: {reason}; the folder {folder} is whole, push it again"
        ) from error
    return str(address)
