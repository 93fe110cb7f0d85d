"""What a recipe says of learning: the algorithm, the rollouts, the batch, the prompts that are chosen, the reference.

The fields have TRL's and Transformers' names and defaults where they have them; a trainer may read many more.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from math import gcd
from typing import Any

from aapo.errors import InputError
from aapo.grading import GROUPWISE, Judge
from aapo.learning.curriculum import check_strategy
from aapo.objective import COLLECTION_FIELDS, Algorithm, Collection, Objective, algorithm
from aapo.ranks import num_launched
from aapo.sampling import SamplingSettings

# TRL's names for axes of the objective.
TRL_NAMES = {
    "scale_rewards": "scale", "epsilon": "clip_low", "epsilon_high": "clip_high",
    "importance_sampling_level": "ratio_level",
}  # fmt: skip
OWN_NAMES = (
    "baseline", "margin", "margin_low", "margin_high", "rescale_dead_groups", "loss", "aggregation",
    "max_importance_weight", "overlong_buffer",
)  # fmt: skip
# The field that names each axis of the objective.
AXIS_FIELDS = {**{name: name for name in OWN_NAMES}, **{own: trl for trl, own in TRL_NAMES.items()}}
MAX_REFILL_ROUNDS = 3
# Held-out accuracy, by which the best model is chosen unless `metric_for_best_model` says otherwise.
BEST_BY = "eval_rollout/accuracy"


@dataclass
class TrainingSettings:
    r"""The algorithm as a name and orthogonal axes, and what it learns from.

    An axis that is None is the algorithm's; `objective` is the resulting point. With `load_best_model_at_end` the best
    model is the one with the highest held-out accuracy, unless `metric_for_best_model` names another metric of the
    evaluation.

    Where the algorithm multiplies the rollouts per prompt (`generations_factor`), `num_generations`,
    `gradient_accumulation_steps` and, where given, `generation_batch_size` or `steps_per_generation` are multiplied
    here, once; evaluation during training keeps its number.

    Attributes:
        algorithm: A key of `aapo.objective.ALGORITHMS`, or your own as path/to/file.py:NAME or package.module:NAME.
        baseline: group_mean, leave_one_out, batch_mean or none.
        scale_rewards: group, batch or none, as in TRL.
        margin: none, expected, paired, scaled, centred, surprise, demanding, or your own as path/to/file.py:NAME.
        margin_low: Lower clip bound of the margin, <= 0.
        margin_high: Upper clip bound of the margin, >= 0.
        rescale_dead_groups: GPG's alpha.
        loss: cross_entropy or clipped_surrogate.
        importance_sampling_level: token or sequence, as in TRL.
        aggregation: token_mean, sequence_mean or constant.
        epsilon: Lower clip range of the surrogate, as in TRL.
        epsilon_high: Upper clip range of the surrogate, as in TRL.
        max_importance_weight: Truncation of the cross-entropy's importance weight on stale samples.
        overlong_buffer: Share of max_completion_length over which a reward falls by up to 1.
        min_live_frac: Share of groups that must have a gradient; the others are drawn again with fresh prompts.
        redraw: Until when a prompt is drawn again: a rollout is right (right), or enough are right and wrong to keep
            half a group of each (balanced); or never (none).
        max_refill_rounds: How often at most either is done, for one batch; by default 3.
        generations_factor: What num_generations and the batch are multiplied by.
        weighted_sample: Draw each batch's prompts by weight, not in the order of the data.
        sample_strategy: The weight by a prompt's running mean of right answers m: `hard` 1 - m, `soft` the same but 0
            at 0 and 1, `medium` 1 in between and 0 at 0 and 1, `uniform` 1.
        sample_prior: `bank` starts each prompt's running mean with its reference samples, for which all prompts are
            sampled first; by default nothing is known of a prompt before its first rollouts.
        curriculum: `easy_to_hard` begins with the prompts that the reference model solves most often.
        reference: Where reference rewards come from: `bank`, data sampled once; or `live`, a frozen model sampled at
            every step, at twice the rollout cost, as the published code means to. With `sync_ref_model` the live
            reference follows the policy: every `ref_model_sync_steps` optimizer steps it becomes
            `ref_model_mixup_alpha` times the policy plus the rest of itself, as TRL's reference model does.
        judge: The reward function whose verdicts say what is right; by default the first that logs verdicts.
        judge_threshold: Of a judge that logs none: a completion is right where its reward is at least this.
        num_processes: Processes that the batch is meant for, by default those that were launched. On another number of
            them, as a resumed run may be, `gradient_accumulation_steps`, `steps_per_generation` and where it must
            `per_device_train_batch_size` change so that a step has as many completions.
        rollouts_dir: Folder that every step's rollouts are written to as Parquet; None writes none.
        engine: How Transformers draws rollouts: `places`, `shedding` or `static`; `auto` takes the first of them that
            the model and the settings allow (`aapo.engines.ways`). None changes what is drawn.
        max_tokens_per_microbatch: Tokens of prompts and completions that go through the model at once in the training
            phase; by default what `per_device_train_batch_size` rows padded to the longest would be. Halved when memory
            is short.
        padding_free: Lay rows one after another, each attending to itself, where the model's layers allow it.
        share_prompts: Compute the tokens of a prompt once for its completions in a micro-batch.
        skip_zero_advantages: Leave out the completions that have no gradient; their tokens count in the loss's divisor.

    The other fields are TRL's.
    """

    algorithm: str = "aapo"
    baseline: str | None = None
    margin: str | None = None
    margin_low: float | None = None
    margin_high: float | None = None
    rescale_dead_groups: bool | None = None
    loss: str | None = None
    aggregation: str | None = None
    max_importance_weight: float | None = None
    overlong_buffer: float | None = None
    min_live_frac: float | None = None
    redraw: str | None = None
    max_refill_rounds: int | None = None
    generations_factor: int | None = None
    weighted_sample: bool = False
    sample_strategy: str | None = None
    sample_prior: str | None = None
    curriculum: str | None = None
    reference: str = "bank"
    judge: str | None = None
    judge_threshold: float | None = None
    num_processes: int | None = None
    rollouts_dir: str | None = None
    engine: str = "auto"
    max_tokens_per_microbatch: int | None = None
    padding_free: bool = True
    share_prompts: bool = True
    skip_zero_advantages: bool = True
    # TRL's, of which None is the algorithm's value
    scale_rewards: str | bool | None = None
    epsilon: float | None = None
    epsilon_high: float | None = None
    importance_sampling_level: str | None = None
    # TRL's, whose values the objective decides
    loss_type: str = "dapo"
    multi_objective_aggregation: str = "sum_then_normalize"
    delta: float | None = None
    # TRL's and Transformers', as they are there
    reward_weights: list[float] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_completion_length: int | None = 512
    generation_kwargs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    num_generations: int = 8
    num_generations_eval: int | None = None
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    generation_batch_size: int | None = None
    steps_per_generation: int | None = None
    num_iterations: int = 1
    num_train_epochs: float = 3.0
    max_steps: int = -1
    seed: int = 42
    beta: float = 0.0
    sync_ref_model: bool = False
    ref_model_sync_steps: int = 512
    ref_model_mixup_alpha: float = 0.6
    bf16: bool | None = None
    fp16: bool = False
    optim: str = "adamw_torch_fused"
    activation_checkpointing: bool | None = None
    gradient_checkpointing: bool = True  # the earlier name
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False
    use_vllm: bool = False
    vllm_mode: str = "colocate"
    vllm_gpu_memory_utilization: float = 0.3
    use_liger_kernel: bool = False
    deepspeed: dict[str, Any] | str | None = None
    fsdp: list[str] | str | bool | None = None
    eval_strategy: str = "no"
    save_strategy: str = "steps"
    save_total_limit: int | None = None
    save_only_model: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    output_dir: str | None = None
    # no field of a recipe
    processes: InitVar[int | None] = None

    def __post_init__(self, processes: int | None) -> None:
        """Check the settings and derive the batch as TRL does.

        Args:
            processes: How many will train; by default as many as were launched.

        Raises:
            InputError: A value is invalid.
        """
        self.check(processes)
        self.bf16 = not self.fp16 if self.bf16 is None else self.bf16
        if self.activation_checkpointing is None:
            self.activation_checkpointing = self.gradient_checkpointing
        per_pass = self.per_device_train_batch_size * self.launched
        if self.generation_batch_size is not None and self.steps_per_generation is not None:
            raise InputError("generation_batch_size and steps_per_generation are both set; set one, the other follows")
        if self.generation_batch_size is not None:
            if self.generation_batch_size % per_pass:
                raise InputError(
                    f"generation_batch_size is {self.generation_batch_size}; it must be a multiple of the "
                    f"{per_pass} completions of a pass (per_device_train_batch_size {self.per_device_train_batch_size} "
                    f"x {self.launched} processes)"
                )
            self.steps_per_generation = self.generation_batch_size // per_pass
        self.steps_per_generation = self.steps_per_generation or self.gradient_accumulation_steps
        self.generation_batch_size = per_pass * self.steps_per_generation
        if self.generation_batch_size % self.num_generations:
            raise InputError(
                f"the {self.generation_batch_size} completions that are generated at once are not divisible by "
                f"num_generations {self.num_generations}; change one of them"
            )
        self.window_steps  # noqa: B018  raises where steps and rollouts do not divide

    @property
    def step_size(self) -> int:
        """Completions of an optimizer step, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.launched

    @property
    def window_steps(self) -> int:
        """Optimizer steps that learn from rollouts drawn at once, each from its own.

        Where fewer completions are generated at once than a step has, that only bounds memory: a step's rollouts are
        then drawn in turns, and judged together.

        Raises:
            InputError: They are no whole steps.
        """
        generated, step = (
            self.steps_per_generation or self.gradient_accumulation_steps,
            self.gradient_accumulation_steps,
        )
        if generated > step and generated % step:
            raise InputError(
                f"steps_per_generation is {generated}; above gradient_accumulation_steps {step} it must be a multiple "
                "of it, so that whole optimizer steps learn from rollouts drawn at once"
            )
        return max(1, generated // step)

    def check(self, processes: int | None = None) -> None:
        """Check what is ours, and fill in what an algorithm decides; run once, before the trainer's own checks.

        Args:
            processes: As in `__post_init__`.

        Raises:
            InputError: A value is invalid.
        """
        self.launched = processes or num_launched()
        self.objective  # noqa: B018  raises on an invalid point
        self.sampling  # noqa: B018  raises on an invalid setting
        if self.reference not in ("bank", "live"):
            raise InputError(f"reference is {self.reference!r}; it must be bank or live")
        check_strategy(self.weighted_sample, self.sample_strategy, self.sample_prior, self.curriculum)
        if self.temperature == 0:
            raise InputError(
                "temperature is 0; it must be > 0 in training, since greedy rollouts of a prompt are all the same and "
                "teach nothing (eval_temperature may be 0)"
            )
        if self.collection.draws_rounds and self.max_refill_rounds is None:
            self.max_refill_rounds = MAX_REFILL_ROUNDS
        self._keep_batch()
        self._check_batch()
        self._multiply(self.collection.generations_factor)
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            # Transformers' own choice is the loss, which says nothing about a policy.
            self.metric_for_best_model, self.greater_is_better = BEST_BY, True

    def _keep_batch(self) -> None:
        """Cut the batch of the processes that it is meant for into equal parts for those that were launched."""
        launched = self.launched
        meant = self.num_processes = self.num_processes or launched
        if meant == launched:
            return
        step = self.per_device_train_batch_size * self.gradient_accumulation_steps * meant
        passes = self.steps_per_generation or self.gradient_accumulation_steps
        drawn = self.generation_batch_size or self.per_device_train_batch_size * passes * meant
        if step % launched or drawn % launched:
            raise InputError(
                f"the batch is that of {meant} processes, {step} completions a step and {drawn} drawn at once, which "
                f"{launched} processes cannot share equally; launch a number of processes that divides both"
            )
        most, part = self.per_device_train_batch_size, gcd(step, drawn) // launched
        self.per_device_train_batch_size = next(size for size in range(most, 0, -1) if part % size == 0)
        a_pass = self.per_device_train_batch_size * launched
        self.gradient_accumulation_steps = step // a_pass
        self.steps_per_generation = self.steps_per_generation and drawn // a_pass

    def _multiply(self, factor: int) -> None:
        """Multiply the rollouts per prompt and, so that a step sees as many prompts, the batch."""
        if factor == 1 or self.num_generations is None:
            return
        self.num_generations_eval = self.num_generations_eval or self.num_generations
        self.num_generations *= factor
        self.gradient_accumulation_steps *= factor
        if self.generation_batch_size is not None:
            self.generation_batch_size *= factor
        if self.steps_per_generation is not None:
            self.steps_per_generation *= factor

    def _check_batch(self) -> None:
        if self.num_generations is not None and self.step_size % self.num_generations:
            raise InputError(
                f"the batch of {self.step_size} completions (per_device_train_batch_size "
                f"{self.per_device_train_batch_size} x gradient_accumulation_steps {self.gradient_accumulation_steps} "
                f"x {self.launched} processes) is not divisible by num_generations {self.num_generations}; change one "
                "of them"
            )

    @property
    def named(self) -> Algorithm:
        """The algorithm that the fields name, with the changes that they make."""
        changes = {own: getattr(self, name) for own, name in AXIS_FIELDS.items()}
        if isinstance(self.scale_rewards, bool):
            changes["scale"] = "group" if self.scale_rewards else "none"
        try:
            return algorithm(self.algorithm).changed(
                {**changes, **{name: getattr(self, name) for name in COLLECTION_FIELDS}}
            )
        except InputError as error:
            raise InputError(_in_trl_names(str(error))) from error

    @property
    def objective(self) -> Objective:
        """The point in the space of objectives that the fields name."""
        return self.named.objective

    @property
    def collection(self) -> Collection:
        """How the rollouts of a batch are collected."""
        return self.named.collection

    def check_judge(self, names: Sequence[str], *, filters: bool = False) -> None:
        """Check that these reward functions can be judged by as the settings say.

        Args:
            names: The reward functions, in their order.
            filters: Whether prompts are chosen by how often the reference model solves them.

        Raises:
            InputError: They cannot, nothing says which completions are right where prompts are chosen or drawn again by
                it or the algorithm reads it, or they compare completions that are drawn together where others are
                trained on together.
        """
        self.judgement.check(names)
        chooses = filters or self.curriculum is not None or self.sample_strategy not in (None, "uniform")
        redraws = self.collection.redraws
        if (chooses or redraws or self.objective.reads_verdicts) and not self.judgement.known(names):
            what = "prompts are chosen by how often they are solved" if chooses else "the algorithm reads what is right"
            raise InputError(
                f"{what}, and none of the reward functions, {', '.join(names)}, is known to say so; set judge to the "
                "one that logs verdicts, or judge and judge_threshold"
            )
        if redraws and (compares := GROUPWISE.intersection(names)):
            raise InputError(
                f"redraw is {self.collection.redraw}, and reward function {min(compares)!r} compares completions that "
                "are drawn together, which are not those that are kept; remove it, or set redraw to none"
            )

    @property
    def sampling(self) -> SamplingSettings:
        """The sampling settings of rollouts, which a bank must share."""
        return SamplingSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_completion_length=self.max_completion_length or 256,
            generation_kwargs=self.generation_kwargs if isinstance(self.generation_kwargs, dict) else None,
        )

    @property
    def judgement(self) -> Judge:
        """What says which completions are right."""
        return Judge(self.judge, self.judge_threshold)

    @property
    def chooses_prompts(self) -> bool:
        """Whether prompts are drawn by weight or curriculum."""
        return self.weighted_sample or self.curriculum is not None

    @property
    def chooses_by_bank(self) -> bool:
        """Whether the reference's pass rates say which prompts are drawn."""
        return self.sample_prior == "bank" or self.curriculum is not None

    @property
    def template_options(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return self.chat_template_kwargs if isinstance(self.chat_template_kwargs, dict) else {}


def _in_trl_names(message: str) -> str:
    """An objective's error with the names that the user wrote."""
    for trl, own in TRL_NAMES.items():
        if message.startswith(f"{own} "):
            return trl + message.removeprefix(own)
    return message
