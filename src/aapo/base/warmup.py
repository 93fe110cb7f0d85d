"""Teach a new model the form of worked solutions until it solves some problems when sampled."""

import json
import random
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from aapo.base.config import BaseModelConfig
from aapo.base.model import new_model, train_tokenizer
from aapo.base.worked import worked_solution
from aapo.engines import TransformersEngine
from aapo.errors import AapoError
from aapo.grading import accuracy
from aapo.sampling import SamplingSettings
from aapo.scoring import as_prompt, sample_and_score
from aapo.tasks import DataConfig, generated_entries, render_prompt
from aapo.tasks.prompts import as_row

NUM_PROBES = 256
IGNORED = -100


class Example(NamedTuple):
    """A data set's row and the completion that solves it."""

    row: dict[str, Any]
    solution: str


class WarmupState(NamedTuple):
    """Where the warm-up is: step, loss of the last batch, sampled accuracy at the last look."""

    step: int
    loss: float
    accuracy: float


class WarmBase(NamedTuple):
    """A model that has been warmed up, its tokenizer and its sampled accuracy."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    accuracy: float


def worked_examples(data: DataConfig, count: int) -> list[Example]:
    """Training problems of the task with their worked solutions; held-out problems never occur."""
    entries = islice(generated_entries(data, "train"), count)
    return [
        Example(as_row(entry, data), worked_solution(entry["task"], json.loads(entry["entry"]))) for entry in entries
    ]


def warm_up(
    config: BaseModelConfig,
    data: DataConfig,
    max_completion_length: int,
    on_step: Callable[[WarmupState], None] = lambda state: None,
    device: torch.device | str = "cpu",
) -> WarmBase:
    """Train a new model on worked solutions until its sampled accuracy passes `warmup_accuracy`.

    The loss is the cross-entropy of the completion's tokens. Accuracy is sampled on training problems at temperature 1.

    Args:
        config: Shape, schedule and seed.
        data: The task.
        max_completion_length: Token limit of a sample.
        on_step: Called after every step.
        device: Where it is trained, and is in the end.

    Raises:
        AapoError: The accuracy is not reached within `warmup_max_steps`.
    """
    torch.manual_seed(config.seed)
    order = random.Random(config.seed)
    examples = worked_examples(data, config.warmup_num_problems)
    texts = [f"{message['content']}\n{message['role']}\n" for e in examples[:500] for message in e.row["prompt"]]
    tokenizer = train_tokenizer([*texts, "assistant\n", *(e.solution for e in examples[:500])], config.vocab_size)
    model = new_model(config, tokenizer).to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.warmup_learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    engine = TransformersEngine(model, tokenizer, SamplingSettings(max_completion_length=max_completion_length))
    probes = [as_prompt(example.row, tokenizer) for example in order.sample(examples, min(NUM_PROBES, len(examples)))]
    reached = 0.0
    for step in range(1, config.warmup_max_steps + 1):
        batch = _collate(order.sample(examples, min(config.warmup_batch_size, len(examples))), tokenizer)
        loss = model(**{name: values.to(device) for name, values in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % config.warmup_eval_steps == 0:
            scored = sample_and_score(probes, engine, [accuracy], num_samples=1, seed=step, purpose="warmup")
            reached = sum(item.rewards["accuracy"][0] or 0.0 for item in scored) / len(scored)
        on_step(WarmupState(step, loss.item(), reached))
        if reached >= config.warmup_accuracy:
            return WarmBase(model.eval(), tokenizer, reached)
    raise AapoError(
        f"the base model reached an accuracy of {reached:.2f} in {config.warmup_max_steps} warm-up steps, below "
        f"warmup_accuracy {config.warmup_accuracy}; raise base_model.warmup_max_steps or choose easier dataset_settings"
    )


def _collate(examples: list[Example], tokenizer: Any) -> dict[str, Tensor]:
    """Right-padded token ids, mask, and labels on the completions only; all of shape (B, T)."""
    prompts = tokenizer([render_prompt(e.row["prompt"], tokenizer) for e in examples])["input_ids"]
    solutions = tokenizer([e.solution + tokenizer.eos_token for e in examples])["input_ids"]
    width = max(len(p) + len(s) for p, s in zip(prompts, solutions, strict=True))
    shape = (len(examples), width)
    input_ids_BT = torch.full(shape, int(tokenizer.pad_token_id))
    labels_BT = torch.full(shape, IGNORED)
    mask_BT = torch.zeros(shape, dtype=torch.long)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        end = len(prompt) + len(solution)
        input_ids_BT[row, :end] = torch.tensor(prompt + solution)
        labels_BT[row, len(prompt) : end] = torch.tensor(solution)
        mask_BT[row, :end] = 1
    return {"input_ids": input_ids_BT, "labels": labels_BT, "attention_mask": mask_BT}
