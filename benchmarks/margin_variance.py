"""Variance of the gradient with the paired and with the expected margin, on the real trainer and equal data.

    python benchmarks/margin_variance.py RUN [--batches 48] [--output benchmarks/results/margin_variance.json]

RUN is a finished AAPO run with a bank. At the model that it started from, and at the one that it ended with, the
trainer draws batches of rollouts from the run's training prompts. Each batch is back-propagated with the expected
margin, and with the paired margin by a random shift, on the same completions and the same reference samples. With
d-dimensional gradients g:

    total(expected)  = sum over d of the variance over batches of g_expected
    between pairings = mean over batches of |g_paired - g_expected|^2
    total(paired)    = total(expected) + between pairings        (law of total variance; docs/algorithm.md)

That the paired gradient averaged over all shifts is the expected one is checked on the first batch. Reported are the
ratio total(paired) / total(expected) with a 95% jackknife interval over batches, and the same for the margin's own part
of the gradient, advantage set to zero, where the effect is not hidden behind the rollouts' noise.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from aapo.backends.trl import AAPOTrainer
from aapo.backends.trl.config import trainer_config
from aapo.files import write_json
from aapo.objective import Objective, augmented_advantages
from aapo.progress import progress
from aapo.recipe import load_recipe
from aapo.runs import RunDirectory, environment
from aapo.sampling import sample_seed
from aapo.training.banks import RecipeBank
from aapo.training.models import model_spec, prepare_model
from aapo.training.prompts import checked_prompts

PARTS = ("whole", "margin")


class Moments(NamedTuple):
    """Of one batch: the expected margin's gradient, and the squared distance of the paired one's."""

    gradient_D: Tensor
    between: float


def main() -> None:
    """Measure both models and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "margin_variance.json")
    arguments = parser.parse_args()
    run = RunDirectory.open(arguments.run)
    recipe = load_recipe(str(run.path))
    base = prepare_model(recipe)
    report: dict[str, Any] = {"environment": environment(), "batches": arguments.batches, "models": {}}
    for name, path in (("base", base), ("trained", str(run.model))):
        trainer = _trainer(recipe, path, base)
        with progress(f"batches of {name}", arguments.batches) as update:
            moments = _measure(trainer, arguments.batches, update)
        report["models"][name] = {part: _ratios(moments[part]) for part in PARTS}
        for part, numbers in report["models"][name].items():
            ends = f"[{numbers['low']:.4f}, {numbers['high']:.4f}]"
            print(f"{name}, {part}: paired / expected {numbers['ratio']:.4f} {ends}")
    write_json(arguments.output, report)


def _trainer(recipe: Any, path: str, base: str) -> AAPOTrainer:
    tokenizer = model_spec(recipe, base, recipe.model.model_revision).load_tokenizer()
    checked = checked_prompts(recipe, tokenizer)
    options = {**model_spec(recipe, path).from_pretrained(), "revision": recipe.model.model_revision}
    args = trainer_config(recipe, output_dir=tempfile.mkdtemp(), eval_strategy="no", model_init_kwargs=options)
    bank = RecipeBank(recipe, tokenizer).grow(checked.prompts)
    trainer = AAPOTrainer(
        model=path, reward_funcs=recipe.reward_funcs, args=args, train_dataset=checked.rows, processing_class=tokenizer,
        reference_bank=bank,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not run here
    return trainer


def _measure(trainer: AAPOTrainer, num_batches: int, update: Any) -> dict[str, list[Moments]]:
    """The moments of each batch's gradients: of the whole advantage, and of the margin alone."""
    trainer.model.train()
    batches, taken, take = iter(trainer.get_train_dataloader()), [], trainer._take_scored

    def remember() -> Any:
        scores, notes = take()
        taken.append(scores)
        return scores, notes

    trainer._take_scored = remember
    moments: dict[str, list[Moments]] = {part: [] for part in PARTS}
    for place in range(num_batches):
        trainer.state.global_step = place  # other noise for every batch
        inputs = next(batches, None)
        if inputs is None:
            batches = iter(trainer.get_train_dataloader())
            inputs = next(batches)
        taken.clear()
        output = trainer._generate_and_score_completions(inputs)
        rewards_PG = trainer.teacher.total(taken[0].rewards_BF).view(-1, trainer.num_generations)
        reference = trainer._reference(inputs)
        assert reference is not None
        for part in PARTS:
            moments[part].append(_of_batch(trainer, output, rewards_PG, reference.rewards_PK, part))
        update(place + 1, "")
    return moments


def _of_batch(trainer: AAPOTrainer, output: Any, rewards_PG: Tensor, reference_PK: Tensor, part: str) -> Moments:
    point = trainer.objective

    def gradient(margin: str, shift: int = 0) -> Tensor:
        objective = Objective(**{**vars(point), "margin": margin})
        found = augmented_advantages(objective, rewards_PG, reference_PK, shift=shift)
        advantages_PG = found.augmented_PG if part == "whole" else found.margin_PG
        trainer.model.zero_grad(set_to_none=True)
        loss = trainer.compute_loss(trainer.model, {**output, "advantages": advantages_PG.flatten()})
        loss.backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    expected_D, num_shifts = gradient("expected"), reference_PK.shape[1]
    if trainer.state.global_step == 0:
        mean_D = torch.stack([gradient("paired", shift) for shift in range(num_shifts)]).mean(0)
        gap = (mean_D - expected_D).norm() / expected_D.norm()
        assert gap < 1e-3, f"the mean over shifts is off by {gap:.2g}"  # float32 sums in another order
    paired_D = gradient("paired", sample_seed(trainer.state.global_step) % num_shifts)
    return Moments(expected_D, float((paired_D - expected_D).square().sum()))


def _ratios(moments: list[Moments]) -> dict[str, float]:
    """Total variances and their ratio, with its jackknife interval over batches."""
    gradients_MD = torch.stack([item.gradient_D for item in moments]).double()
    between_M = np.array([item.between for item in moments])
    products_MM, count = (gradients_MD @ gradients_MD.T).numpy(), len(moments)

    def variances(rows: np.ndarray) -> tuple[float, float]:
        """Sum over d of the variance of g_expected, (sum |g|^2 - |sum g|^2 / M) / (M - 1), and the paired excess."""
        size, chosen = len(rows), products_MM[np.ix_(rows, rows)]
        return float((np.trace(chosen) - chosen.sum() / size) / (size - 1)), float(between_M[rows].mean())

    everything = np.arange(count)
    total, between = variances(everything)
    without = [variances(np.delete(everything, place)) for place in everything]
    ratios_M = np.array([excess / whole for whole, excess in without])
    error = np.sqrt((count - 1) * ratios_M.var())
    reach, ratio = stats.t.ppf(0.975, count - 1) * error, 1 + between / total
    return {
        "expected_variance": total, "paired_variance": total + between, "ratio": ratio, "low": float(ratio - reach),
        "high": float(ratio + reach),
    }  # fmt: skip


if __name__ == "__main__":
    main()
