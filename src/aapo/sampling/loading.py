"""Models and tokenizers by name, and what identifies them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aapo.errors import InputError

Identity = dict[str, Any]


def check_model_folder(name: str) -> None:
    """Check that a local model folder holds weights, a configuration and a tokenizer; Hub names pass.

    Raises:
        InputError: Something is missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            raise InputError(f"model_name_or_path is {name}, and there is no such folder; check the path")
        return
    for pattern, what in (("*config.json", "configuration"), ("*.safetensors", "weights"), ("tokenizer*", "tokenizer")):
        if not any(folder.glob(pattern)):
            raise InputError(
                f"the model folder {name} has no {what} ({pattern}); a model folder needs a configuration, "
                "*.safetensors and tokenizer files, as save_pretrained writes them"
            )


def load_tokenizer(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a local folder or Hub model, padding on the left.

    Raises:
        InputError: It is missing or cannot be loaded.
    """
    check_model_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, padding_side="left", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(_cannot_load("tokenizer", name, error)) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """The causal language model of a local folder or Hub name, from safetensors only.

    Raises:
        InputError: It is missing or cannot be loaded.
    """
    check_model_folder(name)
    try:
        return AutoModelForCausalLM.from_pretrained(name, revision=revision, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise InputError(_cannot_load("model", name, error)) from error


def _cannot_load(what: str, name: str, error: Exception) -> str:
    return (
        f"cannot load the {what} of {name!r}: {str(error).strip().splitlines()[0]}; give a local folder or the name of "
        "a Hub model that this machine can reach"
    )


def model_identity(name: str, revision: str | None = None) -> Identity:
    """What identifies a model: the hash of its weights for a local folder, name and revision for a Hub model."""
    folder = Path(name)
    if not folder.is_dir():
        return {"name": name, "revision": revision or "main"}
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return {"weights": digest.hexdigest()[:32]}


def tokenizer_identity(tokenizer: Any) -> Identity:
    """What identifies a tokenizer: hashes of its vocabulary and of its chat template."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    template = json.dumps(tokenizer.chat_template).encode()
    return {
        "vocabulary": hashlib.sha256(vocabulary).hexdigest()[:16],
        "chat_template": hashlib.sha256(template).hexdigest()[:16],
    }
