"""A policy that starts from a LoRA adapter, and that adapter as it was, which is the reference."""

import copy
from contextlib import AbstractContextManager
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from trl.trainer.utils import use_adapter

from aapo.backends.trl.config import AAPOConfig
from aapo.engines.loading import adapter_base, load_adapted
from aapo.errors import InputError

# TRL's name for a frozen copy of the adapter that training starts from.
REFERENCE_ADAPTER = "ref"


def policy_of(model: Any, args: AAPOConfig, peft_config: Any) -> tuple[Any, AAPOConfig]:
    """The model for TRL, and its settings: of the name of an adapter's folder the adapter, to be trained on.

    Args:
        model: Name, or model.
        args: Of the trainer; `model_init_kwargs` load the adapter's base model.
        peft_config: Of new adapters; None for none.

    Raises:
        InputError: New adapters are to stand beside the one of the folder, or it cannot be loaded.
    """
    if not isinstance(model, str) or adapter_base(model) is None:
        return model, args
    if peft_config is not None:
        raise InputError(f"the adapter {model} is trained on as it is, and peft_config would add another; leave it out")
    options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key != "revision"}
    args = copy.copy(args)
    args.model_init_kwargs = None  # or TRL would say that a model which is loaded ignores them
    return load_adapted(model, is_trainable=True, **options), args


def keep_adapter(model: PeftModel) -> None:
    """Put a frozen copy of the adapter beside it; TRL has done so where it has a KL term."""
    if REFERENCE_ADAPTER not in model.peft_config:
        name = str(model.active_adapter)  # one, since it is trained
        weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        model.add_adapter(REFERENCE_ADAPTER, model.active_peft_config)
        set_peft_model_state_dict(model, weights, REFERENCE_ADAPTER)


def initial_adapter(model: PeftModel) -> AbstractContextManager[None]:
    """The model as training started: with the copy of its adapter, if there is one, else with its adapters off."""
    return use_adapter(model, REFERENCE_ADAPTER if REFERENCE_ADAPTER in model.peft_config else None)
