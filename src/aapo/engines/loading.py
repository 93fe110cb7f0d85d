"""Models, LoRA adapters and tokenizers by name.

An adapter is a folder as PEFT saves it: adapter_config.json, which names the base model, and adapter_model.safetensors.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aapo.engines.folder import ANEW, CONFIG, check_files, pickled
from aapo.errors import InputError
from aapo.stored import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Base(NamedTuple):
    """Name and revision of the model that an adapter was trained on."""

    name: str
    revision: str | None


def is_hub_name(name: str) -> bool:
    """Whether a name is owner/name as the Hub has it, and no folder here."""
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def check_model_folder(name: str) -> None:
    """Check that a local model folder holds weights, a configuration and a tokenizer; Hub names pass.

    An adapter's folder needs no tokenizer where its base model has one.

    Raises:
        InputError: Something is missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            raise InputError(f"model_name_or_path is {name}, and there is no such folder; check the path")
        return
    if (base := adapter_base(name)) is not None:
        _check_adapter(folder, base)
        return
    for pattern, what in ((CONFIG, "configuration"), ("*.safetensors", "weights"), ("tokenizer*", "tokenizer")):
        if not any(folder.glob(pattern)):
            raise InputError(
                f"the model folder {name} has no {what} ({pattern}); a model folder needs a configuration, "
                f"*.safetensors and tokenizer files, as save_pretrained writes them{pickled(folder)}"
            )
    check_files(folder)


def adapter_base(name: str) -> Base | None:
    """The base model of the LoRA adapter in the folder `name`; None where that is no adapter's folder.

    Raises:
        InputError: The adapter is of another type than LoRA, or names no base model.
    """
    file = Path(name) / ADAPTER_CONFIG
    if not file.is_file():
        return None
    config = read_json(file, ANEW, ("peft_type",))
    if config.get("peft_type") != "LORA":
        raise InputError(
            f"the adapter {name} has peft_type {config.get('peft_type')}; only LORA can be merged and used"
        )
    if not config.get("base_model_name_or_path"):
        raise InputError(f"the adapter {name} names no base model; set base_model_name_or_path in {ADAPTER_CONFIG}")
    return Base(config["base_model_name_or_path"], config.get("revision"))


def _check_adapter(folder: Path, base: Base) -> None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"the adapter {folder} has no {ADAPTER_WEIGHTS}; save it with save_pretrained")
    check_files(folder)
    try:
        check_model_folder(base.name)
    except InputError as error:
        raise InputError(_no_base(folder, base, error)) from error


def load_tokenizer(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a local folder or Hub model, padding on the left; an adapter may leave it to its base model.

    Raises:
        InputError: It is missing or cannot be loaded.
    """
    from transformers import AutoTokenizer

    check_model_folder(name)
    if (base := adapter_base(name)) is not None and not any(Path(name).glob("tokenizer*")):
        name, revision = base
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, padding_side="left", trust_remote_code=trust_remote_code
        )
    except Exception as error:  # as in `check_weights`
        raise InputError(cannot_load("tokenizer", name, error)) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str | None = None, **options: Any) -> "PreTrainedModel":
    """The causal language model of a local folder or Hub name, from safetensors only.

    An adapter is merged into its base, or stands beside it where `options` quantize that.

    Raises:
        InputError: It, or the base model of an adapter, is missing or cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    check_model_folder(name)
    if adapter_base(name) is not None:
        return _load_merged(name, options)
    check_weights(name, revision, options)
    try:
        return AutoModelForCausalLM.from_pretrained(name, revision=revision, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise InputError(cannot_load("model", name, error)) from error


def check_weights(name: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """Check, without reading them, that a model's weights are those that its configuration describes.

    Transformers gives a model whose weights lack a tensor random ones in its place.

    Args:
        name: Folder or Hub name of a whole model.
        revision: Of a Hub model.
        options: Arguments of `from_pretrained`; a quantized model, or one with code of its own, is left unchecked.

    Raises:
        InputError: They are not, or the model cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    if options.get("trust_remote_code") or options.get("quantization_config") is not None:
        return
    known = {key: value for key, value in options.items() if key not in ("device_map", "attn_implementation")}
    try:
        with _silent_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name, revision=revision, use_safetensors=True, device_map="meta", output_loading_info=True, **known
            )
    except Exception as error:  # on a damaged or foreign folder Transformers raises anything, from KeyError on
        raise InputError(cannot_load("model", name, error)) from error
    if lacking := sorted(loaded[1]["missing_keys"]):
        raise InputError(
            f"the weights of {name} have no {lacking[0]} ({len(lacking)} tensors are missing), which its {CONFIG} asks "
            f"for; they belong to another model, or to a part of this one: {ANEW}"
        )


def not_finite(model: Any) -> str | None:
    """The first tensor of a model's weights, as far as this process holds them, that has an infinity or a NaN."""
    for name, parameter in model.named_parameters():
        held = parameter.detach()
        held = held.to_local() if hasattr(held, "to_local") else held
        if held.is_floating_point() and not held.isfinite().all():
            return name
    return None


@contextmanager
def _silent_transformers() -> Iterator[None]:
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def load_adapted(name: str, *, is_trainable: bool = False, **options: Any) -> Any:
    """The base model of the adapter in the folder `name`, the adapter standing beside it.

    Args:
        name: The folder.
        is_trainable: Whether the adapter is to be trained on, rather than only sampled.
        **options: Arguments of `from_pretrained` for the base model.

    Raises:
        InputError: The adapter or its base model is missing, cannot be loaded, or the two do not fit.
    """
    from peft import PeftModel

    check_model_folder(name)
    base = adapter_base(name)
    assert base is not None, f"{name} is no adapter's folder"
    try:
        model = load_model(base.name, base.revision, **options)
    except InputError as error:
        raise InputError(_no_base(name, base, error)) from error
    try:
        return PeftModel.from_pretrained(model, name, is_trainable=is_trainable)
    except (ValueError, RuntimeError) as error:  # as PyTorch says that shapes differ
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the adapter {name} does not fit its base model {base.name!r}: {reason}") from error


def _load_merged(name: str, options: dict[str, Any]) -> "PreTrainedModel":
    adapted = load_adapted(name, **options)
    if options.get("quantization_config") is not None:
        return adapted  # merged, the sum would be rounded to the base's few bits, another model than was trained
    merged = adapted.merge_and_unload()
    # PEFT freezes what it adapts; a plain model can be trained.
    for parameter in merged.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return merged


@contextmanager
def whole_weights() -> Iterator[None]:
    """Models that are loaded and sampled here are whole on every process.

    A trainer under DeepSpeed's ZeRO-3 leaves Transformers told to split all that it loads, and to generate in step with
    the other processes; models that are only sampled have no DeepSpeed engine that would put them together.
    """
    from transformers.integrations import deepspeed

    told = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = told


def _no_base(adapter: str | Path, base: Base, error: Exception) -> str:
    return (
        f"the adapter {adapter} needs its base model {base.name!r}: {error}, or correct base_model_name_or_path in "
        f"its {ADAPTER_CONFIG}"
    )


def cannot_load(what: str, name: str, error: Exception) -> str:
    """One line of why `what` of the model `name` is not there, and what to do."""
    reason = " ".join(str(error).split()).partition(". This could be")[0][:200]
    reason = reason if isinstance(error, (OSError, ValueError)) and reason else f"{type(error).__name__} {reason}"
    fix = ANEW if Path(name).is_dir() else "give a local folder or the name of a Hub model that this machine can reach"
    if "trust_remote_code" in str(error):
        reason = "it needs code that comes with it"
        fix = "read that code, and to let it run set trust_remote_code to true (aapo eval: --trust-remote-code)"
    elif "does not recognize this architecture" in str(error):
        fix = "upgrade transformers, or choose a model that it knows"
    elif "mismatched" in str(error):
        reason, fix = f"the shapes of its weights are not those of its {CONFIG}", ANEW
    return f"cannot load the {what} of {name!r}: {reason.removesuffix('.')}; {fix}"
