"""Where a run's reference rewards come from: a bank, columns of its data, or a second model in memory.

Shapes: K reference samples per prompt, b completions of this process.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_model, save_model
from trl.trainer.callbacks import SyncRefModelCallback

from aapo.backends.trl.adapters import initial_adapter, keep_adapter
from aapo.backends.trl.config import AAPOConfig
from aapo.backends.trl.scoring import ScoringTrainer, gathered
from aapo.bank import COLUMNS, ReferenceBank, bank_identity
from aapo.engines import TransformersEngine, tokenizer_identity
from aapo.errors import InputError
from aapo.learning.bank_cost import BankCost
from aapo.learning.batch import Reference
from aapo.messages import last_question
from aapo.records import Engine, Prompt
from aapo.scoring import as_prompts
from aapo.tasks import prompt_key, render_prompt

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


class ReferenceTrainer(ScoringTrainer):
    """Knows what the reference model is worth on the prompts of a batch: by a bank, by the data, or sampled live."""

    _bank: ReferenceBank | None
    _grow_bank: Callable[[Sequence[Prompt], Engine | None], ReferenceBank] | None
    _bank_cost: BankCost
    _continues_adapter: bool
    _reference_model: Any
    _follows: bool

    def _take_reference(self) -> None:
        """Load the live reference where the settings ask for one."""
        live = self.args.reference == "live"
        self._reference_model = self._live_reference() if live else None
        self._follows = live and self.args.sync_ref_model
        if self._follows:
            self.add_callback(SyncRefModelCallback(self._reference_model, self.accelerator))

    def _reference(self, inputs: list[dict[str, Any]], positions: Sequence[int] | None = None) -> Reference | None:
        """What the reference is worth on the rows' prompts, or None when the objective reads none."""
        if not self.objective.needs_reference:
            return None
        if self._reference_model is not None:
            return self._live(inputs, positions)
        if self._bank is not None:
            columns = self._banked(inputs)
        else:  # data may bring reference rewards of its own, without verdicts
            unknown = [None] * len(inputs[0][REFERENCE_COLUMN])
            columns = (
                [row[REFERENCE_COLUMN] for row in inputs],
                [row.get(CORRECT_COLUMN, unknown) for row in inputs],
            )
        tensors_bK = (self._with_nan(values) for values in columns)
        return Reference(*(gathered(values_bK)[:: self.num_generations] for values_bK in tensors_bK))

    def _banked(self, inputs: list[dict[str, Any]]) -> tuple[list[list[float]], list[list[float | None]]]:
        """Weighted reference rewards of the rows' prompts, and which samples are right; the bank grows if it must."""
        assert self._bank is not None
        keys = [self._key(row) for row in inputs]
        if self._grow_bank is not None:
            lacking = {key: row for key, row in zip(keys, inputs, strict=True) if key not in self._bank}
            if of_all := {self._key(row): row for row in gather_object(list(lacking.values()))}:
                self._bank = self._grown(list(of_all.values()))
        self._bank_cost.meet(self._bank, gather_object(keys))
        names = self.teacher.reward_names
        weights = self._bank.weights(dict(zip(names, self.reward_weights.tolist(), strict=True)))
        return [self._bank.totals(key, weights) for key in keys], [
            self._bank.correct(key, self.args.judgement) for key in keys
        ]

    def _grown(self, rows: list[dict[str, Any]]) -> ReferenceBank:
        """The bank with the prompts of these rows, the same on all processes."""
        assert self._grow_bank is not None
        prompts = as_prompts(rows, self._tokenizer, **self.args.template_options)
        # Under FSDP the processes would have to sample equally many, in step.
        policy_is_other = self._continues_adapter or self.is_fsdp_enabled
        if policy_is_other or not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            return self._grow_bank(prompts, None)
        with self._generating() as model, as_reference(model) as reference:
            return self._grow_bank(prompts, TransformersEngine(reference, self._tokenizer, self.args.sampling))

    def _known(self, rows: Dataset, keys: list[str]) -> Iterable[Sequence[float | None]]:
        """What the reference's samples of each prompt say beforehand, by the bank or by columns that the data bring."""
        if not self.args.chooses_by_bank:
            return [[]] * len(keys)
        if self._bank is not None:
            return [self._bank.correct(key, self.args.judgement) for key in keys]
        return rows[CORRECT_COLUMN] if CORRECT_COLUMN in rows.column_names else [[]] * len(keys)

    def _key(self, row: dict[str, Any]) -> str:
        """The key of a row's prompt, under which a bank has it; a run without a bank stores the same."""
        if row.get(KEY_COLUMN) is not None:
            return row[KEY_COLUMN]
        rendered = render_prompt(row["prompt"], self._tokenizer, **self.args.template_options)
        return prompt_key(rendered, str(row.get("answer", "")))

    def _live_reference(self) -> Any:
        """The model that is sampled at every step as the reference."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise InputError("reference: live does not run under DeepSpeed or FSDP; build a bank, which runs anywhere")
        model = self.accelerator.unwrap_model(self.model)
        return live_reference(
            model, self.accelerator.device, follows=self.args.sync_ref_model, loaded=self._continues_adapter
        )

    def _live(self, inputs: list[dict[str, Any]], positions: Sequence[int] | None = None) -> Reference:
        """One fresh reference completion per rollout, so K is G: the published sampling, done right."""
        self._rows = inputs
        prompt_ids = self._tokenize_prompts(copy.deepcopy([row["prompt"] for row in inputs]))[0]
        with self.accelerator.autocast(), as_reference(self._reference_model) as reference:
            token_ids = self._draw(reference, prompt_ids, "reference", positions)
        rewards_BF, correct_B = self._score(inputs, token_ids)
        groups = (-1, self.num_generations)
        return Reference(self.teacher.total(rewards_BF).view(groups), correct_B.view(groups))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._follows and self.args.should_save:
            save_reference(self._reference_model, self._checkpoint(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._follows:
            load_reference(self._reference_model, Path(resume_from_checkpoint))
