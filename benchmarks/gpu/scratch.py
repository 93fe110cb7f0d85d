"""Part three: the comparison from scratch of docs/log.md with ten times the model."""

import copy
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.bank import ReferenceBank, bank_identity
from aapo.base.warmup import WarmBase, warm_up
from aapo.engines import TransformersEngine, tokenizer_identity
from aapo.grading import reward_function
from aapo.sampling import SamplingSettings
from aapo.scoring import as_prompts, sample_and_score
from aapo.tasks import DataConfig, load_prompts
from step_cost import StepTimer

from .cases import Case
from .device import Peak
from .scale import Scale

ALGORITHMS = ("aapo", "grpo", "dapo")
TOKENS, GROUP, REFERENCE_SAMPLES, EVAL_SAMPLES = 64, 8, 4, 4


class Comparison:
    """A base model, its bank, and runs of algorithms from it."""

    def __init__(self, scale: Scale, device: str, folder: Path) -> None:
        """Take the sizes and where files go; nothing is made."""
        self.scale, self.device, self.folder = scale, device, folder
        self.rewards = [reward_function("accuracy"), reward_function("format")]
        self.data = DataConfig(
            dataset_name="reasoning_gym:basic_arithmetic",
            dataset_settings={
                "min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3, "operators": ["+"],
                "allow_parentheses": False,
            },
            system_prompt="Think in <think></think>, then answer in <answer></answer>.",
            num_train_prompts=scale.train_prompts,
            num_eval_prompts=scale.eval_prompts,
        )  # fmt: skip
        self.made: WarmBase | None = None

    @property
    def base(self) -> WarmBase:
        """The base model; an error where its case failed."""
        if self.made is None:
            raise RuntimeError("there is no base model")
        return self.made

    def make_base(self) -> dict[str, Any]:
        """Warm up the base model and score it."""
        base = self.made = warm_up(self.scale.base, self.data, TOKENS, device=self.device)
        weights = sum(parameter.numel() for parameter in base.model.parameters())
        return {"weights": weights, "sampled_accuracy": base.accuracy, **self.score(base.model)}

    def score(self, model: Any) -> dict[str, Any]:
        """Held-out accuracy at temperature 1, with its standard error over problems."""
        prompts = as_prompts(load_prompts(self.data, "test"), self.base.tokenizer)
        engine = TransformersEngine(model, self.base.tokenizer, SamplingSettings(max_completion_length=TOKENS))
        scored = sample_and_score(
            prompts, engine, self.rewards[:1], num_samples=EVAL_SAMPLES, seed=0, purpose="evaluation"
        )
        means = [statistics.mean(value or 0.0 for value in item.rewards["accuracy"]) for item in scored]
        return {
            "accuracy": statistics.mean(means),
            "standard_error": statistics.stdev(means) / len(means) ** 0.5,
            "problems": len(means),
        }

    def run(self, algorithm: str, seed: int) -> dict[str, Any]:
        """Train by an algorithm, and score."""
        folder = self.folder / f"{algorithm}-{seed}"
        config = AAPOConfig(
            output_dir=str(folder), algorithm=algorithm, num_generations=GROUP, max_completion_length=TOKENS,
            per_device_train_batch_size=self.scale.train_rows, max_steps=self.scale.train_steps, learning_rate=2e-4,
            lr_scheduler_type="constant", reward_weights=[1.0, 0.2], seed=seed, bf16=True, use_cpu=self.device == "cpu",
            activation_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        prompts, timer = load_prompts(self.data, "train"), StepTimer()
        bank = self.bank(prompts, config) if config.objective.needs_reference else None
        trainer = AAPOTrainer(
            model=copy.deepcopy(self.base.model), reward_funcs=self.rewards, args=config, train_dataset=prompts,
            processing_class=self.base.tokenizer, callbacks=[timer], reference_bank=bank,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        rows = [row for row in trainer.state.log_history if "rollout/generated_tokens" in row]
        score = self.score(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
        trainer.accelerator.free_memory()
        return {
            **score,
            "generated_tokens": sum(row["rollout/generated_tokens"] for row in rows),
            "step_seconds": statistics.median(timer.seconds) if timer.seconds else None,
            "steps": self.scale.train_steps,
        }

    def bank(self, prompts: Any, config: AAPOConfig) -> ReferenceBank:
        """The base model's, in the folder; sampled where it is not there yet."""
        engine = TransformersEngine(self.base.model, self.base.tokenizer, config.sampling)
        identity = bank_identity(
            model={"name": "base"}, tokenizer=tokenizer_identity(self.base.tokenizer),
            sampling=config.sampling.describe(), reward_funcs=self.rewards, seed=0,
        )  # fmt: skip
        return ReferenceBank.build(
            self.folder / "bank", prompts, engine, self.rewards, identity, num_samples=REFERENCE_SAMPLES
        )


def cases(scale: Scale, device: str, peak: Peak) -> Iterator[Case]:
    """The base model, then all algorithms of a seed before the next seed."""
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(scale, device, Path(folder))
        yield Case("base", comparison.make_base)
        for seed in range(scale.seeds):
            for algorithm in ALGORITHMS:
                yield Case(f"{algorithm}/{seed}", partial(comparison.run, algorithm, seed))
