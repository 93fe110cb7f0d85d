"""The reference bank of a recipe: which it is, what it lacks, and its growth by the prompts that a run comes to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from aapo.bank import (
    BankIdentity,
    Growth,
    Missing,
    ReferenceBank,
    bank_identity,
    digest,
    missing,
    read_identity,
    sample_identity,
)
from aapo.bank.store import NUM_SAMPLES
from aapo.engines.identity import tokenizer_identity
from aapo.engines.opening import OpenedEngine, open_engine
from aapo.engines.spec import TRANSFORMERS, VLLM, ModelSpec
from aapo.errors import InputError
from aapo.grading import RewardFunction
from aapo.progress import told_progress
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.recipe.training import TrainingSettings
from aapo.records import Engine, Prompt
from aapo.runs import cache_folder
from aapo.training.models import reference_spec, sampler, sampler_options


class RecipeBank:
    """A recipe's bank, which grows by what is asked of it; `close` frees the reference model.

    Attributes:
        path: Its folder: the one that is named, or the cache's place for these samples, however they are scored.
        engine: What samples: what sampled a bank that is named, else what draws the run's rollouts.
        identity: Of its samples and scores.
        num_samples: K.
        grown: What this object has added so far, over all processes.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, output: Path | None = None, engine: str | None = None) -> None:
        """Say which bank it is; nothing is read but its manifest.

        Args:
            recipe: Says what to sample.
            tokenizer: The model's.
            output: Folder to build in; by default the recipe's, else the cache's.
            engine: What samples.

        Raises:
            InputError: The recipe names a bank that is not there.
        """
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.num_samples = recipe.run.num_reference_samples
        self.grown = Growth()
        named = None if recipe.run.reference_bank is None else Path(recipe.run.reference_bank)
        self._is_named = named is not None and output is None
        if self._is_named and not (named / "manifest.json").exists():  # type: ignore[operator]
            raise InputError(f"reference_bank is {named}, and there is no bank; build it with `aapo bank build RECIPE`")
        if self._is_named and engine is None:
            engine = read_identity(named)["model"].get("engine", TRANSFORMERS)  # type: ignore[arg-type]
        self.engine = engine or sampler(recipe)
        self.identity = identity_of_bank(recipe, tokenizer, self.engine)
        self.path = output or named or cache_folder() / "banks" / digest(sample_identity(self.identity))
        self._opened: OpenedEngine | None = None

    def lacks(self, prompts: Sequence[Prompt]) -> Missing:
        """What the bank lacks of these prompts.

        Raises:
            InputError: The bank that is named is another one, or is not scored so.
        """
        if self._is_named:
            ReferenceBank.matching(self.path, self.identity, self.num_samples)
        return missing(self.path, prompts, self.identity["rewards"], self.num_samples)

    def grow(
        self, prompts: Sequence[Prompt], policy: Engine | None = None, *, beside_trainer: bool = False
    ) -> ReferenceBank:
        """The bank with all that it has and these prompts; all processes call it, with the same prompts.

        Args:
            prompts: What is to be there.
            policy: An engine that samples the frozen model that training starts from, if there is one already, such as
                the policy without its adapters; it is used where it is the reference.
            beside_trainer: Whether a trainer is in memory, which vLLM must leave room for.

        Raises:
            InputError: The bank that is named does not match, or it lacks prompts and cannot be written to.
        """
        if self._is_named:
            ReferenceBank.matching(self.path, self.identity, self.num_samples)
        ranks = launched()
        with told_progress("reference bank", visible=ranks.is_main) as tell:
            bank = ReferenceBank.build(
                self.path,
                prompts,
                policy if policy is not None and self._is_policy() else self._reference(beside_trainer),
                self.recipe.reward_funcs,
                self.identity,
                num_samples=self.num_samples,
                on_batch=tell,
                ranks=ranks,
            )
        self.grown += bank.grown
        return bank

    def close(self) -> None:
        """Free the reference model; another growth would load it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _is_policy(self) -> bool:
        """Whether the policy without its adapters is the reference, sampled by the same engine."""
        own = self.recipe.run.reference_model_name_or_path is None
        return own and self.recipe.model.use_peft and self.engine == TRANSFORMERS

    def _reference(self, beside_trainer: bool) -> OpenedEngine:
        if self._opened is None:
            training, options = self.recipe.training, sampler_options(self.recipe, self.engine)
            if self.engine == VLLM and beside_trainer:
                options["gpu_memory_utilization"] = training.vllm_gpu_memory_utilization
            self._opened = open_engine(
                reference_spec(self.recipe),
                training.sampling,
                self.engine,
                tokenizer=self.tokenizer,
                **options,
            )
        return self._opened

    def plan(self, prompts: Sequence[Prompt], num_rollouts: int) -> str:
        """What a run that needs these prompts will add and what it finds, for `--dry-run`.

        Raises:
            InputError: The bank that is named is another one, or is not scored so.
        """
        lacks, wanted = self.lacks(prompts), len({prompt.key for prompt in prompts}) * self.num_samples
        if not prompts:
            most = num_rollouts // (self.recipe.training.num_generations or 1) * self.num_samples
            return f"{self.path}: grows by the prompts that are drawn, by at most {most:,} completions"
        added = lacks.num_samples(self.num_samples)
        limit = self.recipe.training.sampling.max_completion_length
        again = f", {lacks.num_unscored:,} of them to be scored" if lacks.num_unscored else ""
        drawn = f"; at most {added * limit:,} tokens, sampled by {self.engine}" if added else ""
        return f"{self.path}: {cost_line(added, wanted - added, num_rollouts)}{again}{drawn}"


def build_bank(
    path: str | Path,
    model: str | ModelSpec,
    prompts: Dataset,
    reward_funcs: Sequence[RewardFunction],
    args: TrainingSettings,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    engine: str = TRANSFORMERS,
) -> ReferenceBank:
    """A bank for training with `args`, from Python; what is there of it is kept.

    Args:
        path: Its folder.
        model: The frozen reference.
        prompts: Columns `prompt` and `answer`, and what the reward functions read.
        reward_funcs: The training's, in the same order.
        args: The training's; sampling settings and chat template options are read.
        num_samples: K.
        seed: Of the samples.
        engine: As in `aapo.engines.open_engine`.

    Raises:
        InputError: The folder holds another bank, or a model or column is missing.
    """
    spec, ranks = ModelSpec(model) if isinstance(model, str) else model, launched()
    with (
        open_engine(spec, args.sampling, engine) as opened,
        told_progress("reference bank", visible=ranks.is_main) as tell,
    ):
        identity = bank_identity(
            spec.identity(engine), tokenizer_identity(opened.tokenizer), args.sampling.describe(), reward_funcs, seed
        )
        return ReferenceBank.build(
            path,
            prompts,
            opened,
            reward_funcs,
            identity,
            num_samples=num_samples,
            template_options=args.template_options,
            on_batch=tell,
            ranks=ranks,
        )


def cost_line(added: int, found: int | None, num_rollouts: int) -> str:
    """What a bank costs a run, beside its rollouts, which are all that GRPO pays; and what of it was there."""
    share = f" ({added / num_rollouts:.0%} of the run's {num_rollouts:,} rollouts)" if added and num_rollouts else ""
    return f"+{added:,} completions{share}" + ("" if found is None else f", found {found:,}")


def identity_of_bank(recipe: Recipe, tokenizer: Any, engine: str = TRANSFORMERS) -> BankIdentity:
    """The identity of the bank that the recipe needs, sampled by this engine, whose noise is its own."""
    return bank_identity(
        model=reference_spec(recipe).identity(engine),
        tokenizer=tokenizer_identity(tokenizer),
        sampling=recipe.training.sampling.describe(),
        reward_funcs=recipe.reward_funcs,
        seed=recipe.run.reference_seed,
    )
