"""Where a run's reference rewards come from: columns of its data, or a second model in memory.

Shapes: K reference samples per prompt.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_model, save_model

from aapo.backends.trl.adapters import initial_adapter, keep_adapter
from aapo.backends.trl.config import AAPOConfig
from aapo.bank import COLUMNS, ReferenceBank, bank_identity
from aapo.engines import tokenizer_identity
from aapo.errors import InputError
from aapo.messages import last_question
from aapo.scoring import as_prompts

KEY_COLUMN, REFERENCE_COLUMN, CORRECT_COLUMN = COLUMNS
# In a checkpoint, beside the policy: a reference that follows it is no longer the initial model.
REFERENCE_FILE = "reference.safetensors"


def with_keys(dataset: Dataset, args: AAPOConfig, tokenizer: Any) -> tuple[Dataset, dict[str, str]]:
    """The training data with the column `prompt_key`, and by its key a text of each prompt."""
    if KEY_COLUMN in (dataset.column_names or []):
        return dataset, dict(zip(dataset[KEY_COLUMN], map(last_question, dataset["prompt"]), strict=True))
    prompts = as_prompts(dataset, tokenizer, **args.template_options)
    keyed = dataset.add_column(KEY_COLUMN, [prompt.key for prompt in prompts])  # type: ignore[call-arg]
    return keyed, {prompt.key: prompt.rendered for prompt in prompts}


def check_reference(
    dataset: Dataset, args: AAPOConfig, tokenizer: Any, reward_funcs: Sequence[Any], bank: ReferenceBank | None
) -> None:
    """Check that there are reference rewards if the objective reads any, and that a bank is the run's.

    Raises:
        InputError: They are missing, do not match, or would have no effect.
    """
    needed = args.objective.needs_reference and args.reference == "bank"
    if bank is not None and not (needed or args.chooses_by_bank):
        reason = "reference is live" if args.objective.needs_reference else "the objective has no margin"
        raise InputError(f"reference_bank has no effect, because {reason}; leave it out")
    if bank is not None:
        if not all(callable(function) and not isinstance(function, torch.nn.Module) for function in reward_funcs):
            raise InputError("a bank holds the rewards of functions, not of reward models; set reference to live")
        check_bank(bank, args, tokenizer, reward_funcs)
    elif needed and REFERENCE_COLUMN not in (dataset.column_names or []):
        reader = "has a margin" if args.objective.margin != "none" else "reads the reference"
        raise InputError(
            f"{args.algorithm} {reader} but no reference rewards; pass reference_bank (build one with "
            "`aapo bank build RECIPE`), or set reference to live or margin to none"
        )


def check_bank(bank: ReferenceBank, args: AAPOConfig, tokenizer: Any, reward_funcs: Sequence[Any]) -> None:
    """Check that a bank was sampled and scored as the run does: tokenizer, template, sampling settings, rewards.

    Raises:
        InputError: It was not; the message names each difference.
    """
    run = bank_identity(
        model=bank.identity["model"],
        tokenizer=tokenizer_identity(tokenizer),
        sampling=args.sampling.describe(),
        reward_funcs=reward_funcs,
        seed=bank.identity["seed"],
    )
    bank.require(run)


def live_reference(model: Any, device: torch.device, *, follows: bool, loaded: bool) -> Any:
    """A copy of the initial model without gradients; with LoRA the policy itself, sampled as `as_reference` says.

    Args:
        model: The policy before its first step, unwrapped.
        device: Where the copy goes.
        follows: Whether the copy is to be synchronised with the policy.
        loaded: Whether the policy came with an adapter, of which a frozen copy is put beside it.

    Raises:
        InputError: It is to follow a policy with adapters, whose reference has no weights of its own.
    """
    if isinstance(model, PeftModel):
        if follows:
            raise InputError(
                "sync_ref_model does not go with adapters, whose reference is the model that training starts from; "
                "train all weights, or leave it out"
            )
        if loaded:
            keep_adapter(model)
        return model
    reference = copy.deepcopy(model).eval().requires_grad_(False).to(device)
    # TRL patches `forward` on the instance with a closure over the policy, which a copy would go on calling.
    del reference.forward
    return reference


@contextmanager
def as_reference(model: Any) -> Iterator[Any]:
    """The model as it is sampled from as the reference, in evaluation mode.

    Of adapters the copy of those that training started from, if it is there; else they are off.
    """
    was_training = model.training
    model.eval()
    with initial_adapter(model) if isinstance(model, PeftModel) else nullcontext():
        yield model
    model.train(was_training)


def save_reference(model: Any, checkpoint: Path) -> None:
    """Write the reference's weights into a checkpoint."""
    save_model(model, str(checkpoint / REFERENCE_FILE))


def load_reference(model: Any, checkpoint: Path) -> None:
    """Give the reference the weights that it had at a checkpoint."""
    load_model(model, str(checkpoint / REFERENCE_FILE))
