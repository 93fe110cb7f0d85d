"""TRL's trainer with rollouts whose noise belongs to the sample, not to the moment it is drawn."""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from transformers import set_seed
from trl.models.utils import unwrap_model_for_generation

from aapo.backends.trl.update import UpdateTrainer
from aapo.engines import generate_ids
from aapo.engines.transformers import check_context
from aapo.engines.vllm import generation_fields
from aapo.engines.ways import asked_way, choose_way
from aapo.grading import grade_ahead
from aapo.grading.rewards.completions import whole_turns
from aapo.learning.rounds import Rollouts
from aapo.sampling import sample_seed
from aapo.tasks import encode_prompt, prompt_opening

# What draws rollouts where a field of TRL's is true.
TRL_ENGINES = {"use_vllm": "vllm", "use_transformers_continuous_batching": "continuous"}


class RolloutTrainer(UpdateTrainer):
    """Draws a completion that is a function of seed, step, prompt and place in the batch of all processes."""

    num_generations: int
    rows_at_once: int
    _tokenizer: Any
    reward_funcs: list[Any]
    _drawn: Rollouts | None
    _rows: Sequence[dict[str, Any]] = ()  # those whose completions are drawn next
    _generated_tokens: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """As TRL does."""
        self._rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(
        self,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
        *,
        positions: Sequence[int] | None = None,
    ) -> tuple[list[list[int]], Any]:
        """TRL's static generation with keyed noise, its other engines as they are, or what is drawn already."""
        if self._drawn is not None:
            drawn, self._drawn = self._drawn, None
            return drawn.token_ids, drawn.logprobs
        if self.use_vllm or self.use_transformers_continuous_batching or images is not None or self.tools:
            token_ids, extra = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            self._generated_tokens += sum(map(len, token_ids)) if self.model.training else 0
            return token_ids, extra
        purpose = "rollout" if self.model.training else "eval-rollout"
        with self._generating() as model:
            return self._draw(model, prompt_ids, purpose, positions), None

    def _prepare_sampler(self) -> None:
        """Tell vLLM what TRL does not: settings by its own names for them, and the run's seed."""
        self.vllm_generation.generation_kwargs = generation_fields(self.args.sampling)
        if self.vllm_mode == "colocate":
            # Its noise is this process's, which TRL starts from the number of the process alone; those that share a
            # model draw the same.
            set_seed(self.args.seed + self.accelerator.process_index // self.vllm_tensor_parallel_size)

    def stop_sampler(self) -> None:
        """Free what vLLM holds in this process; the process group, which it shares with the trainer, stays."""
        if self.use_vllm and self.vllm_mode == "colocate":
            self.vllm_generation.llm.llm_engine.model_executor.shutdown()
            gc.unfreeze()  # vLLM has hidden all that was there at its start from the collector

    @contextmanager
    def _generating(self) -> Iterator[Any]:
        """The policy as it is sampled from, whatever it is spread over; its weights are rounded once for all tokens."""
        with (
            self.accelerator.autocast(),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,  # type: ignore[reportArgumentType]
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            yield model

    def _tokenize_prompts(self, prompts: list) -> tuple[Any, Any, dict[str, Any]]:
        """Text prompts as bank and evaluation encode them; TRL encodes what has images or tools."""
        if self._is_vlm or self.tools or self.environment_factories is not None:
            return super()._tokenize_prompts(prompts)
        options = self.args.template_options
        return [encode_prompt(prompt, self._tokenizer, **options) for prompt in prompts], None, {}

    def _draw(
        self,
        model: Any,
        prompt_ids: Sequence[Sequence[int]],
        purpose: str,
        positions: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Completions of this process's rows; a row's seed does not depend on the number of processes.

        Args:
            model: The policy or the reference.
            prompt_ids: The prompts of `_rows`.
            purpose: What they are for.
            positions: Where the rows are in the batch of all processes; by default this process's share of it.
        """
        check_context(prompt_ids, self.args.sampling, getattr(model.config, "max_position_embeddings", None))
        positions = self._positions(len(prompt_ids)) if positions is None else positions
        seeds = [
            sample_seed(self.args.seed, purpose, self.state.global_step, _digest(ids), position)
            for ids, position in zip(prompt_ids, positions, strict=True)
        ]
        token_ids = generate_ids(
            model,
            prompt_ids,
            seeds,
            self.args.sampling,
            eos_token_ids=self.eos_token_ids,
            pad_token_id=self._tokenizer.pad_token_id,
            cache_implementation=self.args.cache_implementation,
            way=asked_way(self.args.engine),
            num_places=self.rows_at_once,
            on_end=self._grade_ahead,
        )
        if purpose != "eval-rollout":  # an evaluation is no part of the training's cost
            self._generated_tokens += sum(map(len, token_ids))
        return token_ids

    def _grade_ahead(self, place: int, token_ids: list[int]) -> None:
        """Let workers begin to grade the completion of a row while others are drawn.

        Nothing depends on it: what goes wrong goes wrong again, and is told, when the completion is graded.
        """
        with suppress(Exception):
            row = self._rows[place]
            grade_ahead(self.reward_funcs, row["answer"], lambda: self._turn(row, token_ids))

    def _turn(self, row: dict[str, Any], token_ids: list[int]) -> str:
        """The text that shipped reward functions read in a completion."""
        texts = self._tokenizer.batch_decode([token_ids], skip_special_tokens=True)
        return whole_turns(texts, [self._with_opening(row).get("prompt_opening", "")])[0]

    def _with_opening(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what its rendered prompt holds of the assistant's turn, where there is a chat template."""
        if self._is_vlm or self._tokenizer.chat_template is None:
            return row
        return {**row, "prompt_opening": prompt_opening(row["prompt"], self._tokenizer, **self.args.template_options)}

    def engine(self) -> dict[str, str]:
        """What draws rollouts, and why.

        Raises:
            InputError: It is asked for and cannot.
        """
        for field, name in TRL_ENGINES.items():
            if getattr(self.args, field):
                return {"engine": name, "why": f"{field} is true"}
        model = self.accelerator.unwrap_model(self.model)
        choice = choose_way(model, self.args.sampling, self.args.cache_implementation, asked_way(self.args.engine))
        return {"engine": choice.way, "why": choice.why}

    def _positions(self, size: int) -> range:
        """Where this process's rows are in the batch of all processes."""
        return range(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)


def _digest(token_ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(token_ids)).encode()).hexdigest()
