"""What identifies a model and a tokenizer: everything that changes what is sampled, and nothing of where it lies."""

import hashlib
import json
from pathlib import Path
from typing import Any

from aapo.engines.folder import ANEW, CONFIG, GENERATION_CONFIG
from aapo.engines.loading import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_base, cannot_load
from aapo.errors import InputError
from aapo.stored import read_json

Identity = dict[str, Any]
# What configurations say of where they come from, and by which version.
_SAYS_NOTHING = (
    "_name_or_path", "transformers_version", "_from_model_config", "base_model_name_or_path", "revision",
    "peft_version",
)  # fmt: skip


def model_identity(name: str, revision: str | None = None) -> Identity:
    """What identifies a model: hashes of what a local folder computes with, name and commit of a Hub model.

    A folder is its weights, its configuration, which shapes the forward pass, and its generation configuration, which
    has the end tokens. An adapter is its weights, its configuration, which scales them, and its base model.

    Raises:
        InputError: A Hub model is neither in the cache nor to be reached.
    """
    folder = Path(name)
    if not folder.is_dir():
        return {"name": name, "commit": hub_commit(name, revision)}
    if (base := adapter_base(name)) is None:
        return {
            "weights": _hash_files(sorted(folder.glob("*.safetensors"))),
            "config": _hash_json(folder / CONFIG),
            "generation_config": _hash_json(folder / GENERATION_CONFIG),
        }
    return {
        "weights": _hash_files([folder / ADAPTER_WEIGHTS]),
        "adapter_config": _hash_json(folder / ADAPTER_CONFIG),
        "base": model_identity(*base),
    }


def hub_commit(name: str, revision: str | None = None) -> str:
    """The commit that a revision of a Hub model, by default main, is now: of the Hub, offline of the cache.

    Raises:
        InputError: The model is neither there nor here.
    """
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        file = cached_file(name, CONFIG, revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(cannot_load("model", name, error)) from error
    commit = extract_commit_hash(file, None)
    assert commit is not None, f"{file} is not in a snapshot"
    return commit


def _hash_json(file: Path) -> str | None:
    """The hash of what a configuration says, but not of where from and by which version; None without the file."""
    if not file.exists():
        return None
    said = read_json(file, ANEW)
    return _hash({key: value for key, value in said.items() if key not in _SAYS_NOTHING})


def _hash_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def tokenizer_identity(tokenizer: Any) -> Identity:
    """What identifies a tokenizer: hashes of all that turns text into tokens, special tokens and chat template.

    Of a fast tokenizer that is its normaliser, its pre-tokenizer, its vocabulary with the merges and its
    post-processor, of a slow one its class and its vocabulary.
    """
    if tokenizer.is_fast:
        steps = json.loads(tokenizer.backend_tokenizer.to_str())
        encoding = {key: value for key, value in steps.items() if key not in ("truncation", "padding")}
    else:
        encoding = {"class": type(tokenizer).__name__, "vocabulary": sorted(tokenizer.get_vocab().items())}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return {
        "encoding": _hash(encoding),
        "special_tokens": _hash(special),
        "chat_template": _hash(tokenizer.chat_template),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
