"""AAPO on TRL's GRPOTrainer.

TRL generates and scores; this trainer replaces its advantages by the objective's, takes the steps itself (`update`) and
draws rollouts with noise that belongs to the sample.

Shapes: P prompts, G rollouts per prompt, K reference samples, F reward functions, B = P * G completions of a generation
batch over all processes, b those of this process.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import RepeatSampler

from aapo.backends.trl.adapters import policy_of
from aapo.backends.trl.checks import check_data, check_setup, keep_masters, kept_from_trl
from aapo.backends.trl.config import AAPOConfig, by_step
from aapo.backends.trl.guards import MovedWeights
from aapo.backends.trl.order import EpochOrder, EpochSampler
from aapo.backends.trl.references import ReferenceTrainer, check_reference, with_keys
from aapo.backends.trl.scoring import gathered
from aapo.backends.trl.update import window_rows
from aapo.bank import ReferenceBank
from aapo.engines import load_tokenizer
from aapo.errors import InputError
from aapo.learning.bank_cost import BankCost
from aapo.learning.batch import BatchScores, Lesson, Teacher
from aapo.learning.curriculum import PromptChoice, known_records
from aapo.learning.held_out import HeldOutBatch
from aapo.learning.redraw import redraw
from aapo.learning.refill import FreshPrompts, refill
from aapo.learning.rollouts import Rollout, RolloutWriter
from aapo.learning.rounds import Collected, Rollouts
from aapo.learning.window import Window
from aapo.ranks import launched
from aapo.records import Engine, Notes, Prompt

logger = logging.getLogger(__name__)


class AAPOTrainer(ReferenceTrainer):
    """TRL's GRPOTrainer with any objective of `aapo.objective`.

    With a bank the reference costs nothing during training: no second model in memory, no second set of rollouts.

    Example:
        ```python
        trainer = AAPOTrainer(
            model="Qwen/Qwen2.5-0.5B-Instruct",
            reward_funcs=[accuracy],
            args=AAPOConfig(output_dir="out", num_generations=8),
            train_dataset=dataset,
            reference_bank=ReferenceBank.open("bank"),
        )
        trainer.train()
        ```
    """

    _tag_names: ClassVar = ["trl", "aapo"]

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: Any,
        args: AAPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        reference_bank: ReferenceBank | None = None,
        grow_bank: Callable[[Sequence[Prompt], Engine | None], ReferenceBank] | None = None,
        whole_bank: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Take what GRPOTrainer takes, and a bank.

        Args:
            model: Name, or model. An adapter, also by the name of its folder, is trained on as it is; the reference is
                then the model with the adapter as it was.
            reward_funcs: As in TRL; the bank's, in the same order.
            args: Configuration.
            train_dataset: Columns `prompt`, `answer` and what the reward functions read. A column
                `reference_rewards` (K floats a row) is used as it is when no bank is given, and a column `prompt_key`
                as the keys by which a bank has the prompts.
            eval_dataset: As in TRL; needs no bank, since a margin only matters to training.
            processing_class: Tokenizer; the model's own by default.
            reference_bank: Reference rewards of the training prompts. Tokenizer, template, sampling settings and
                rewards must be the run's; which model was sampled is the caller's choice, any frozen one can be the
                reference.
            grow_bank: Gives the bank with further prompts; without it the bank must have all from the start. It is
                called by all processes alike, with the prompts that are met and not there, and with an engine of the
                policy as training began, where new adapters, once off, leave that.
            whole_bank: Keys of prompts whose reference samples were needed before the first step, for the cost.
            **kwargs: Passed on to GRPOTrainer (`peft_config`, `callbacks`, `optimizers`, ...).

        Raises:
            InputError: The objective needs reference rewards that are not there, the bank does not match, or a setting
                does not go with the model or the engine.
        """
        args = args or AAPOConfig(output_dir="aapo-output")
        name = model if isinstance(model, str) else model.config._name_or_path
        model, args = policy_of(model, args, kwargs.get("peft_config"))
        self._continues_adapter = isinstance(model, PeftModel)
        self.rows_per_pass = args.per_device_train_batch_size
        self.rows_at_once = args.per_device_train_batch_size * (args.steps_per_generation or 1)
        args = by_step(args)
        if processing_class is None:
            processing_class = load_tokenizer(name)
        functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        train_dataset = _required(train_dataset)
        assert args.generation_batch_size
        check_data(train_dataset, functions, args.generation_batch_size // args.num_generations)
        check_data(eval_dataset, functions)
        check_reference(train_dataset, args, processing_class, functions, reference_bank)
        if reference_bank is not None:
            train_dataset, prompts = with_keys(train_dataset, args, processing_class)
            if grow_bank is None:
                reference_bank.require_prompts(prompts)
        with kept_from_trl(args):
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                **kwargs,
            )
        args.check_judge(self.reward_func_names)
        if self.use_vllm:
            self._prepare_sampler()
        check_setup(self)
        self._choose_layout()
        keep_masters(self)
        self.add_callback(MovedWeights(self._metrics["train"]))
        self.objective = args.objective
        self._tell_trl()
        self._take_reference()
        self.teacher = Teacher(
            self.objective,
            list(self.reward_func_names),
            self.reward_weights,
            args.judgement,
            self.num_generations,
            args.sampling.max_completion_length,
        )
        self._scored: tuple[BatchScores, Notes] | None = None
        self._writer = None if args.rollouts_dir is None else RolloutWriter(Path(args.rollouts_dir), self.teacher)
        self._drawn: Rollouts | None = None
        self._epoch_order = EpochOrder()
        self.add_callback(self._epoch_order)
        self._silent_steps = 0
        self._bank, self._grow_bank = reference_bank, grow_bank
        self._bank_cost = BankCost(whole_bank)
        self._choice = self._prompt_choice() if args.chooses_prompts else None
        self._generated_tokens = 0
        self._held_out: list[HeldOutBatch] = []

    def _tell_trl(self) -> None:
        """Set what TRL's own code reads of the objective: for advantages that are replaced, and in evaluations.

        Its loss, of evaluations only, then is the objective's of fresh samples: dapo is the clipped surrogate and cispo
        the cross-entropy with a truncated importance weight, both a mean over tokens.
        """
        point = self.objective
        self.scale_rewards = "none"  # the cheapest
        self.loss_type = "cispo" if point.loss == "cross_entropy" else "dapo"
        self.epsilon_low = point.clip_low
        self.epsilon_high = point.max_importance_weight if point.loss == "cross_entropy" else point.clip_high
        self.importance_sampling_level = point.ratio_level

    # -- data ----------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        plain = super()._get_train_sampler(dataset)
        assert isinstance(plain, RepeatSampler)
        self._epoch_order.sampler = EpochSampler(
            plain.data_source, plain.mini_repeat_count, plain.batch_size, plain.repeat_count, plain.shuffle, plain.seed
        )
        return self._epoch_order.sampler

    def _prompt_choice(self) -> PromptChoice:
        """What draws the prompts, with what the bank knows of them."""
        rows, args = self.train_dataset, self.args
        if not isinstance(rows, Dataset):
            raise InputError("weighted_sample and curriculum need a data set that is not streamed; leave them out")
        keys = [self._key(dict(row)) for row in rows]
        return PromptChoice(
            keys,
            known_records(self._known(rows, keys)),
            strategy=args.sample_strategy or "uniform",
            curriculum=args.curriculum,
            seed=args.seed,
        )

    def _chosen(self, size: int) -> list[dict[str, Any]]:
        """This process's rows of a batch whose prompts are drawn."""
        assert self._choice is not None
        groups = size * self.accelerator.num_processes // self.num_generations
        places = self._choice.draw(groups, self._progress)
        keys = [self._choice.keys[place] for place in places]
        for name, value in self._choice.metrics(keys).items():
            self._metrics["train"][name].append(value)
        assert isinstance(self.train_dataset, Dataset)
        return [dict(self.train_dataset[places[i // self.num_generations]]) for i in self._positions(size)]

    @property
    def _progress(self) -> float:
        """Share of the training that is done."""
        return self.state.global_step / max(self.state.max_steps, 1)

    # -- advantages ----------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            output = super()._generate_and_score_completions(inputs)
            self._keep_held_out()
            return output
        if self._choice is not None:
            inputs = self._chosen(len(inputs))
        collected = self._collected(inputs) if self.args.collection.draws_rounds else None
        if collected is None:
            reference, spare = self._reference(inputs), None
        else:
            inputs, self._drawn = collected.rollouts.rows, collected.rollouts
            reference, spare = collected.rollouts.scores[4:]
        output = super()._generate_and_score_completions(inputs)
        scores, notes = self._take_scored()
        scores = scores._replace(reference=reference, spare=spare)
        if self._choice is not None:
            self._choice.observe(gather_object([self._key(row) for row in inputs]), scores.first_correct_B)
        mask_bT = (
            output["completion_mask"] * output["tool_mask"] if "tool_mask" in output else output["completion_mask"]
        )
        output["tool_mask"] = mask_bT
        loss_tokens_B = gathered(mask_bT.sum(1))
        if "importance_sampling_ratio" in output:
            self._log_lost_tokens(output["importance_sampling_ratio"], mask_bT)
        lessons = self._teach(inputs, scores, loss_tokens_B, notes)
        first = self.accelerator.process_index * len(inputs)
        for name in lessons[0].columns:
            output[name] = torch.cat([lesson.columns[name] for lesson in lessons])[first : first + len(inputs)]
        output["metrics"] = [lesson.metrics for lesson in lessons]
        output["lengths"] = scores.tokens_B[first : first + len(inputs)]
        return output

    def _draw_window(self, generation_batch: Any) -> Window:
        output = self._generate_and_score_completions(generation_batch)
        metrics = output.pop("metrics")
        rows = gather_object(window_rows(output))
        return Window({name: [row[name] for row in rows] for name in rows[0]}, metrics)

    def _teach(
        self, inputs: list[dict[str, Any]], scores: BatchScores, loss_tokens_B: Tensor, notes: Notes
    ) -> list[Lesson]:
        """The lesson of each step of the window, logged and stored."""
        steps, next_step = self.window_steps, self.state.global_step
        size = len(loss_tokens_B) // steps
        rollouts = self._stored(inputs) if self._writer is not None else []
        lessons = []
        for i in range(steps):
            some = slice(i * size, (i + 1) * size)
            part = scores.part(i, steps), loss_tokens_B[some], {name: notes[name][some] for name in notes}
            lessons.append(self.teacher.teach(*part, next_step + i))
            if self._writer is not None and self.accelerator.is_main_process:
                self._writer.write(next_step + i + 1, rollouts[some], part[0], lessons[-1], *part[1:])
        self._log_lessons(lessons)
        return lessons

    def _stored(self, inputs: list[dict[str, Any]]) -> list[Rollout]:
        """The rollouts of all processes as they are stored."""
        rows = gather_object([(str(row.get("answer", "")), self._key(row)) for row in inputs])
        texts = (list(self._logs[name])[-len(rows) :] for name in ("prompt", "completion"))
        return [Rollout(*text, *row) for *text, row in zip(*texts, rows, strict=True)]

    def _collected(self, inputs: list[dict[str, Any]]) -> Collected:
        """The rollouts that are trained on, drawn here; TRL is handed them where it would generate."""
        collect = self._redrawn if self.args.collection.redraws else self._refilled
        result = collect(inputs, self._roll_out(inputs, self._positions(len(inputs))))
        metrics, num_rollouts = self._metrics["train"], len(result.rollouts.scores.correct_B)
        metrics["rollout/refill_rounds"].append(result.num_rounds)
        metrics["rollout/refilled_group_frac"].append(result.num_groups * self.num_generations / num_rollouts)
        return result

    def _refilled(self, inputs: list[dict[str, Any]], rollouts: Rollouts) -> Collected:
        """The batch with fresh prompts in the place of its silent groups."""
        assert self.args.max_refill_rounds and isinstance(self.train_dataset, Dataset)
        keys = gather_object([self._key(row) for row in inputs])
        order = None if self._choice is None else self._choice.order("refill", self._progress)
        fresh = FreshPrompts(self.train_dataset, self._key, keys, self.args.seed, self.state.global_step, order)
        return refill(
            rollouts,
            num_generations=self.num_generations,
            min_live_frac=self.args.collection.min_live_frac,
            max_rounds=self.args.max_refill_rounds,
            silent=lambda scores: self.teacher.silent(scores, self.state.global_step, self.window_steps),
            fresh=fresh.take,
            roll_out=self._roll_out,
            num_steps=self.window_steps,
            ranks=launched(),
        )

    def _redrawn(self, inputs: list[dict[str, Any]], rollouts: Rollouts) -> Collected:
        """The batch with what is kept of each prompt's rollouts."""
        assert self.args.max_refill_rounds
        return redraw(
            rollouts,
            num_generations=self.num_generations,
            until=self.args.collection.redraw,
            max_rounds=self.args.max_refill_rounds,
            roll_out=partial(self._roll_out, refers=False),
            ranks=launched(),
        )

    def _roll_out(self, rows: list[dict[str, Any]], positions: Sequence[int], refers: bool = True) -> Rollouts:
        """Completions of rows that are at these positions in the batch of all processes, and what they are worth.

        Args:
            rows: Of this process.
            positions: A sample is a function of its own; those beyond the batch are of further rounds.
            refers: Whether what the reference is worth is read, or sampled, too.
        """
        self._rows, prompts = rows, copy.deepcopy([row["prompt"] for row in rows])
        prompt_ids, images, fields = self._tokenize_prompts(prompts)
        token_ids, logprobs = self._generate_single_turn(
            prompt_ids, images, fields, self.num_generations, positions=positions
        )
        scored, lengths = self._score(rows, token_ids), self._lengths(token_ids)
        scores = BatchScores(*scored, *lengths, self._reference(rows, positions) if refers else None)
        return Rollouts(rows, token_ids, logprobs, scores)

    def _log_lessons(self, lessons: Sequence[Lesson]) -> None:
        """Log what was drawn, and the advantages in the place of those that TRL has just logged."""
        # Totals, which are not averaged over the batches of a step.
        generated = torch.tensor([self._generated_tokens], device=self.accelerator.device)
        self._metrics["train"]["rollout/generated_tokens"] = [int(gathered(generated).sum())]
        if self._bank is not None:
            for key, value in self._bank_cost.metrics(self._bank).items():
                self._metrics["train"][key] = [value]
        augmented = [value for lesson in lessons for value in lesson.advantages.augmented_PG.flatten().tolist()]
        logged = list(self._logs["advantages"])[: -len(augmented)]
        self._logs["advantages"].clear()
        self._logs["advantages"].extend(logged + augmented)
        for step, lesson in enumerate(lessons, self.state.global_step):
            self._silent_steps = self._silent_steps + 1 if lesson.is_silent else 0
            if self._silent_steps in (1, 10, 100, 1000):
                logger.warning(
                    "step %d: every augmented advantage is zero, so no reward is learnt from (%d in a row). Prompts "
                    "are too easy, too hard or cut off (truncated: %.0f%%).",
                    step,
                    self._silent_steps,
                    100 * lesson.metrics["rollout/truncated_frac"],
                )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._choice is not None and self.args.should_save:
            self._choice.save(self._checkpoint(trial))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self._bank is not None and self._writer is not None:
            last = self.state.global_step + (self._window is not None) * self.window_steps
            met = [key for key in self._writer.keys_until(last) if key in self._bank]
            self._bank_cost.meet(self._bank, met)
        if self._choice is not None:
            self._choice.load(Path(checkpoint))


def _required(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise InputError("train_dataset is missing; pass a datasets.Dataset with the columns prompt and answer")
    return dataset
