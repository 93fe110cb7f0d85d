"""Part one: the training phase without and with padding, and whole steps of AAPO and GRPO."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.bank import ReferenceBank, bank_identity
from aapo.base.config import BaseModelConfig
from aapo.base.model import train_tokenizer
from aapo.engines import tokenizer_identity
from aapo.engines.attention import Segment, Segments
from aapo.engines.varlen import varlen_for
from aapo.records import Completion
from step_cost import StepTimer
from train_phase import GROUP, NUM_ROWS, Phases, Rollouts, drawn, ideal
from train_phase import Case as Lengths

from .cases import Case, peak_memory
from .device import Peak, Shape, model_of, seconds_of
from .scale import Scale

METHODS: dict[str, dict[str, Any]] = {
    "aapo_bank": {"algorithm": "aapo"},
    "grpo": {"algorithm": "grpo"},
    "aapo_live": {"algorithm": "aapo", "reference": "live"},
}


def cases(scale: Scale, device: str, peak: Peak) -> Iterator[Case]:
    """Attention first, for all else stands on it; then model by model the phase and the steps."""
    yield Case("attention", partial(attention, device))
    for name, shape in scale.shapes.items():
        yield Case(f"phase/{name}", partial(phase, shape, scale, device, peak))
        for method in METHODS:
            yield Case(f"step/{name}/{method}", partial(step, method, shape, scale, device))


# -- attention ---------------------------------------------------------------------------------------------------------


def attention(device: str) -> dict[str, Any]:
    """Errors of bf16 attention by segments, some with a prefix, and of its gradients, against float32."""
    segments = [Segment(0, 96), Segment(96, 40, 0, 96), Segment(136, 7, 0, 96), Segment(143, 130), Segment(273, 1)]
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 14, 274, 64), (1, 2, 274, 64), (1, 2, 274, 64))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]

    def computed(target: str, dtype: torch.dtype) -> list[Tensor]:
        mine = [tensor.to(target, dtype).requires_grad_() for tensor in tensors]
        output = Segments(segments, target).attend(0, *mine, scaling=64**-0.5)
        output.float().square().sum().backward()
        return [
            tensor.detach().double().cpu() for tensor in (output, *(one.grad for one in mine if one.grad is not None))
        ]

    pairs = zip(computed(device, torch.bfloat16), computed("cpu", torch.float32), strict=True)
    errors = [float((one - exact).norm() / exact.norm()) for one, exact in pairs]
    kernel = varlen_for(torch.empty(0, device=device, dtype=torch.bfloat16))
    return {
        "kernel": "scaled_dot_product_attention" if kernel is None else "varlen_attn",
        **dict(zip(("output_error", "query_error", "key_error", "value_error"), errors, strict=True)),
    }


# -- the training phase ------------------------------------------------------------------------------------------------


def phase(shape: Shape, scale: Scale, device: str, peak: Peak) -> dict[str, Any]:
    """Seconds, memory and model FLOP/s of the gradients of given rollouts, packed and padded in turn."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of("grpo", shape, scale, device, Path(folder))
        trainer._compared = True  # here, by their gradients
        for name in ("spread", "equal"):
            lengths = Lengths(scale.prompt_tokens, scale.phase_limit, spread=name == "spread")
            results[name] = _compared(trainer, lengths, shape, scale, device, peak)
    return results


def _compared(
    trainer: AAPOTrainer, lengths: Lengths, shape: Shape, scale: Scale, device: str, peak: Peak
) -> dict[str, Any]:
    rollouts = drawn(lengths, 0, shape.vocab)
    layouts: dict[str, dict[str, Any]] = {"packed": {}, "padded": {}}
    gradients = {}
    for name, found in layouts.items():
        trainer.model.zero_grad()
        with peak_memory(device, found):
            _update(trainer, name, rollouts)
        gradients[name] = [p.grad.cpu() for p in trainer.model.parameters() if p.grad is not None]
    times: dict[str, list[float]] = {name: [] for name in layouts}
    for turn in range(scale.rounds):
        for name in list(layouts)[:: 1 if turn % 2 else -1]:
            trainer.model.zero_grad()
            times[name].append(seconds_of(partial(_update, trainer, name, rollouts), device))
    flops = shape.training_flops(*_by_group(rollouts))
    for name, found in layouts.items():
        seconds = statistics.median(times[name])
        found |= {
            "seconds": seconds, "all_seconds": times[name], "mfu": flops / seconds / peak.flops,
            "completion_tokens_per_second": sum(map(len, rollouts.completions)) / seconds,
        }  # fmt: skip
    ratios = [padded / packed for packed, padded in zip(times["packed"], times["padded"], strict=True)]
    return {
        **layouts,
        "padded_to_packed": statistics.median(ratios),
        "ideal_to_trl": ideal(lengths, rollouts),
        "gradient_error": _error(gradients["packed"], gradients["padded"]),
        "model_flops": flops,
        "workload": {**lengths._asdict(), "rows": NUM_ROWS, "group": GROUP, "micro_batch": scale.microbatch_tokens},
    }


def _update(trainer: AAPOTrainer, layout: str, rollouts: Rollouts) -> None:
    trainer._lays_out = layout == "packed"
    Phases.our_step(trainer, rollouts)


def _by_group(rollouts: Rollouts) -> tuple[list[int], list[list[int]]]:
    starts = range(0, NUM_ROWS, GROUP)
    prompts = [len(rollouts.prompts[start]) for start in starts]
    return prompts, [[len(ids) for ids in rollouts.completions[start : start + GROUP]] for start in starts]


def _error(ours: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Norm of the difference over the norm."""
    difference = sum(float((one - other).square().sum()) for one, other in zip(ours, others, strict=True))
    return (difference / sum(float(other.square().sum()) for other in others)) ** 0.5


# -- whole steps -------------------------------------------------------------------------------------------------------


def step(method: str, shape: Shape, scale: Scale, device: str) -> dict[str, Any]:
    """Seconds of whole steps after the first, rollouts, rewards and optimizer included, and peak memory."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, peak_memory(device, results):
        trainer = trainer_of(method, shape, scale, device, Path(folder))
        timer = StepTimer()
        trainer.add_callback(timer)
        trainer.train()
    logged = [row for row in trainer.state.log_history if "completions/mean_length" in row]
    trainer.accelerator.free_memory()
    return {
        **results,
        "step_seconds": statistics.median(timer.seconds),
        "all_step_seconds": timer.seconds,
        "completions": scale.groups * GROUP,
        "mean_tokens": statistics.mean(row["completions/mean_length"] for row in logged),
    }


def trainer_of(method: str, shape: Shape, scale: Scale, device: str, folder: Path) -> AAPOTrainer:
    """The trainer of a method: float32 weights, bf16 in their products."""
    tokenizer = train_tokenizer(["Read 0123456789."] * 5, BaseModelConfig().vocab_size)
    prompts = _prompts(scale)
    config = AAPOConfig(
        output_dir=str(folder), num_generations=GROUP, per_device_train_batch_size=scale.groups * GROUP,
        max_completion_length=scale.completion_tokens, max_tokens_per_microbatch=scale.microbatch_tokens,
        max_steps=1 + scale.steps, learning_rate=1e-6, lr_scheduler_type="constant", bf16=True, use_cpu=device == "cpu",
        activation_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
        **METHODS[method],
    )  # fmt: skip
    bank = _bank(prompts, tokenizer, config, folder / "bank") if method == "aapo_bank" else None
    trainer = AAPOTrainer(
        model=model_of(shape, tokenizer, device, torch.float32), reward_funcs=[coin], args=config,
        train_dataset=prompts, processing_class=tokenizer, reference_bank=bank,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def coin(completions: list, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """1.0 where the token ids have an even sum, else 0.0: a coin that a random model can toss."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def _prompts(scale: Scale) -> Dataset:
    """One prompt for each group of all steps, of digits, each of which is a token."""
    generator = torch.Generator().manual_seed(0)
    count = scale.groups * (1 + scale.steps)
    digits = torch.randint(0, 10, (count, scale.prompt_tokens), generator=generator).tolist()
    texts = ["".join(map(str, row)) for row in digits]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}], "answer": text} for text in texts])


class _Scripted:
    """Samples that cost nothing, for a bank whose making is not measured."""

    batch_size = 256

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def generate(self, prompt_ids: Sequence[Any], seeds: Sequence[int], on_batch: Any = None) -> list[Completion]:
        return [Completion(str(seed % 2), [3 + seed % 2], "length") for seed in seeds]


def _bank(prompts: Dataset, tokenizer: Any, config: AAPOConfig, folder: Path) -> ReferenceBank:
    identity = bank_identity(
        model={"name": "random"}, tokenizer=tokenizer_identity(tokenizer), sampling=config.sampling.describe(),
        reward_funcs=[coin], seed=0,
    )  # fmt: skip
    return ReferenceBank.build(folder, prompts, _Scripted(tokenizer), [coin], identity, num_samples=4)
