"""A run's prompts as verl reads them: Parquet with the gold answers and the bank's rewards beside each."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from aapo.backends import TrainingJob
from aapo.backends.verl.costs import write_costs
from aapo.backends.verl.values import batch_prompts
from aapo.bank import ReferenceBank
from aapo.bank.rows import write_row
from aapo.errors import InputError
from aapo.files import write_parquet
from aapo.grading import Judge
from aapo.learning.order import course
from aapo.records import Prompt
from aapo.scoring import as_prompts

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {
                "index": pa.int64(),
                "prompt_key": pa.string(),
                "row": pa.string(),
                "reference_rewards": pa.list_(pa.float64()),
                "reference_correct": pa.list_(pa.float64()),
            }
        ),
    }
)


class Reading(NamedTuple):
    """How a bank is read: the weights of its reward functions, and what says which samples are right."""

    bank: ReferenceBank
    weights: dict[str, float]
    judge: Judge

    def columns(self, key: str) -> dict[str, Any]:
        """What the bank says of a prompt; NaN where nothing could score a sample or says whether it is right."""
        correct = self.bank.correct(key, self.judge)
        return {
            "reference_rewards": self.bank.totals(key, self.weights),
            "reference_correct": [float("nan") if value is None else value for value in correct],
        }


def export_training(job: TrainingJob, path: Path, num_batches: int) -> list[Prompt]:
    """Write the training's prompts in the order of their use, as often as they are used; all prompts of the data set.

    Beside them goes what the samples of the bank cost, where there is one.

    Args:
        job: What is trained.
        path: The file.
        num_batches: How often rollouts are drawn in the whole training.

    Raises:
        InputError: verl cannot be given a prompt as the bank has read it.
    """
    prompts = job_prompts(job, job.prompts)
    order = course(
        job.recipe.training.seed,
        len(prompts),
        batch_prompts(job.recipe),
        num_batches,
        shuffle=job.recipe.trainer.get("shuffle_dataset") is not False,
    )
    used = [prompts[place] for place in order]
    write_prompts(path, job, used, _reading(job))
    if job.bank is not None:
        write_costs(job.run, job.bank, [prompt.key for prompt in used], job.whole_bank)
    return prompts


def write_prompts(path: Path, job: TrainingJob, prompts: Sequence[Prompt], reading: Reading | None = None) -> None:
    """Write prompts as verl's data set, with what the bank says of them where it is read.

    Raises:
        InputError: verl cannot be given a prompt as the bank has read it.
    """
    source = job.recipe.data.dataset_name or "data"
    made: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        if prompt.key not in made:
            made[prompt.key] = _row(prompt, job.tokenizer, source, reading)
    rows = [
        {**row, "extra_info": {**row["extra_info"], "index": index}}
        for index, row in enumerate(made[prompt.key] for prompt in prompts)
    ]
    write_parquet(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def job_prompts(job: TrainingJob, rows: Iterable[Any]) -> list[Prompt]:
    """A data set's rows as the job's model reads them."""
    return as_prompts(rows, job.tokenizer, **job.recipe.training.template_options)


def _reading(job: TrainingJob) -> Reading | None:
    """How the bank is read, where the objective reads one."""
    recipe = job.recipe
    if job.bank is None or not recipe.training.objective.needs_reference:
        return None
    names = list(job.bank.identity["rewards"])
    weights = recipe.training.reward_weights or [1.0] * len(names)
    return Reading(job.bank, job.bank.weights(dict(zip(names, weights, strict=True))), recipe.training.judgement)


def _row(prompt: Prompt, tokenizer: Any, source: str, reading: Reading | None) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": as_text(prompt, tokenizer)}],
        "reward_model": {"style": "rule", "ground_truth": prompt.gold},
        "extra_info": {
            "prompt_key": prompt.key,
            "row": write_row(prompt.row),
            **(reading.columns(prompt.key) if reading else {}),
        },
    }


def as_text(prompt: Prompt, tokenizer: Any) -> str:
    """The text whose tokens, without any that a tokenizer adds, are the prompt's.

    Raises:
        InputError: There is none.
    """
    for text in (prompt.rendered, f"{tokenizer.bos_token}{prompt.rendered}"):
        if tokenizer.encode(text, add_special_tokens=False) == prompt.ids:
            return text
    raise InputError(
        f"the tokenizer adds tokens to the prompt {prompt.rendered[-80:]!r} that are no text, so verl cannot be given "
        "it as the bank has read it; set conversational to true"
    )
