"""Whether TRL's trainer, with the engine, the rewards and the data of a run, can do what its settings ask for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch.nn import Module

from aapo.backends.trl.config import AAPOConfig
from aapo.backends.trl.guards import check_trainable
from aapo.engines.vllm import OWN_PROCESS, kept_environment
from aapo.errors import InputError
from aapo.grading import GRADED, GROUPWISE, reward_name
from aapo.learning.order import check_number
from aapo.ranks import launched_spread
from aapo.scoring import check_columns, check_names
from aapo.tasks.checks import check_rows


@contextmanager
def kept_from_trl(args: AAPOConfig) -> Iterator[None]:
    """Settings with a meaning of our own, at their defaults while TRL judges them by what they mean to it.

    TRL takes a sequence's ratio for a mistake with the loss types that we set, and a reference model that follows the
    policy for unused where there is no KL term. A vLLM that it starts in this process says to all later ones that they
    stay in it, too; that is taken back.
    """
    level, follows = args.importance_sampling_level, args.sync_ref_model
    args.importance_sampling_level, args.sync_ref_model = None, follows and args.beta != 0
    try:
        with kept_environment(OWN_PROCESS):
            yield
    finally:
        args.importance_sampling_level, args.sync_ref_model = level, follows


def check_setup(trainer: Any) -> None:
    """Raise where the launch, the batch, the engine, the data or the model does not go with the settings."""
    check_launch(trainer)
    check_groups(trainer)
    check_refill(trainer)
    trainer.engine()  # raises where the one that is asked for cannot draw
    check_text(trainer)
    check_trainable(trainer.model)


def check_launch(trainer: Any) -> None:
    """Check that the weights are spread as the launcher asks; where it cannot, accelerate leaves it out without a word.

    Raises:
        InputError: They are not.
    """
    asked, runs = launched_spread(), trainer.accelerator.distributed_type.value
    if asked is not None and asked != runs:
        raise InputError(
            f"accelerate launch was asked for {asked} and runs {runs}, where weights in 16 bits have no float32 "
            "masters; it spreads models over accelerators only: on CPUs launch with torchrun"
        )


def check_groups(trainer: Any) -> None:
    """Check that each process has whole groups where a reward function compares the completions of one.

    Raises:
        InputError: It has not.
    """
    args = trainer.args
    assert args.generation_batch_size
    rows = args.generation_batch_size // trainer.accelerator.num_processes
    for name in GROUPWISE.intersection(trainer.reward_func_names):
        if rows % trainer.num_generations:
            raise InputError(
                f"reward function {name!r} compares the completions of a group, and a process has {rows} rows, which "
                f"is no multiple of num_generations {trainer.num_generations}; raise per_device_train_batch_size or "
                "gradient_accumulation_steps, or use fewer processes"
            )


def check_data(dataset: Any, reward_funcs: Sequence[Any], num_prompts: int = 1) -> None:
    """Check a data set that is not streamed: its columns, its prompts, and that they fill a batch.

    Args:
        dataset: Or a dictionary of such; anything else is left to TRL.
        reward_funcs: Read its columns.
        num_prompts: Of a generation batch.

    Raises:
        InputError: A column is missing or has a name that is taken, prompts or the gold answers that our reward
            functions grade by are missing or no text, or there are fewer prompts than a batch takes.
    """
    for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
        if not isinstance(part, Dataset):
            continue
        if "prompt" not in part.column_names:
            raise InputError(f"the data set has no column 'prompt'; it has {', '.join(part.column_names)}; rename one")
        own: list[Any] = [each for each in reward_funcs if callable(each) and not isinstance(each, Module)]
        check_names(part.column_names)
        check_columns(own, part.column_names)
        graded = "answer" in part.column_names and any(reward_name(function) in GRADED for function in own)
        check_rows(part, "prompt", "answer" if graded else None)
        check_number(len(part), num_prompts)


def keep_masters(trainer: Any) -> None:
    """Make the adapters beside quantized weights, which TRL makes 16 bits, float32; DeepSpeed keeps masters itself."""
    if trainer.is_deepspeed_enabled or not isinstance(trainer.model, PeftModel):
        return
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def check_text(trainer: Any) -> None:
    """Check that rollouts are text, which is all of them that steps learn from.

    Raises:
        InputError: The model reads images, and prompts, tools or environments may bring some.
    """
    columns = set(trainer.train_dataset.column_names or ())
    sources = {
        "the data set has images": columns & {"image", "images"},
        "tools may return images": trainer.tools,
        "environments may show images": trainer.environment_factories is not None,
    }
    for source, there in sources.items():
        if trainer._is_vlm and there:
            raise InputError(
                f"{source}, and steps learn from text only; leave them out, or train with TRL's own trainer"
            )


def check_refill(trainer: Any) -> None:
    """Check that groups can be drawn again where the algorithm asks for it.

    Raises:
        InputError: Completions are more than one turn of text, which is drawn here ahead of TRL.
    """
    collection = trainer.args.collection
    if not collection.draws_rounds:
        return
    name, off = ("redraw", "none") if collection.redraws else ("min_live_frac", 0)
    reasons = {
        "tools": trainer.tools,
        "environments": trainer.environment_factories is not None,
        "a rollout_func": trainer.rollout_func is not None,
        "images": trainer._is_vlm,
        "a streamed data set": not collection.redraws and not isinstance(trainer.train_dataset, Dataset),
    }
    for reason, there in reasons.items():
        if there:
            raise InputError(
                f"{name} is {getattr(collection, name)}, and groups cannot be drawn again with {reason}; set {name} "
                f"to {off}"
            )
