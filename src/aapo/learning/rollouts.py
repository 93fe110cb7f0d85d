"""Every rollout of a step as a Parquet file: what happened, and what it was worth.

Shapes: P prompts, G rollouts per prompt, K reference samples, F reward functions, B = P * G completions.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from aapo.files import write_parquet
from aapo.grading import completion_text
from aapo.messages import encodable, last_question
from aapo.objective import Advantages
from aapo.records import Notes
from aapo.scoring import beside


def write_rollouts(
    folder: Path,
    *,
    step: int,
    append: bool,
    num_generations: int,
    prompts: list[Any],
    completions: list[Any],
    golds: list[str],
    keys: list[str],
    rewards_BF: Tensor,
    reward_names: list[str],
    notes: Notes,
    correct_B: Tensor,
    total_B: Tensor,
    tokens_B: Tensor,
    loss_tokens_B: Tensor,
    truncated_B: Tensor,
    result: Advantages,
    reference_PK: Tensor | None,
) -> None:
    """Write `step-000001.parquet`, one row a completion; `aapo.experiments` replays algorithms from it.

    Columns: step, batch (index of the generation batch in the step), group (index in the batch), sample (index in its
    group), prompt_key, prompt (the question), gold, completion, completion_tokens, loss_tokens (those that the loss
    counts, none of a truncated completion that is masked), truncated, correct (1 or 0, by the judge), reward
    (the weighted sum), reward/NAME for each function, advantage, margin, augmented, reference_rewards (K floats) when
    there are any, and as text what the reward functions logged, such as verdict/NAME. NaN rewards are stored as null.
    With `append` the rows follow those of earlier generation batches of the same step.
    """
    file, size = folder / f"step-{step:06d}.parquet", len(prompts)
    earlier = pq.read_table(file) if append else None
    columns: dict[str, Any] = {
        "step": [step] * size,
        "batch": [0 if earlier is None else earlier["batch"][-1].as_py() + 1] * size,
        "group": [i // num_generations for i in range(size)],
        "sample": [i % num_generations for i in range(size)],
        "prompt_key": pa.array(keys, pa.string()),
        "prompt": [encodable(last_question(prompt)) for prompt in prompts],
        "gold": golds,
        "completion": [encodable(completion_text(completion)) for completion in completions],
        "completion_tokens": tokens_B.int().tolist(),
        "loss_tokens": loss_tokens_B.int().tolist(),
        "truncated": truncated_B.tolist(),
        "correct": _nullable(correct_B),
        "reward": _nullable(total_B),
        **{f"reward/{name}": _nullable(rewards_BF[:, i]) for i, name in enumerate(reward_names)},
        "advantage": result.advantage_PG.flatten().tolist(),
        "margin": result.margin_PG.flatten().tolist(),
        "augmented": result.augmented_PG.flatten().tolist(),
    }
    if reference_PK is not None:
        columns["reference_rewards"] = reference_PK.repeat_interleave(num_generations, 0).tolist()
    columns |= {name: pa.array(values, pa.string()) for name, values in beside(notes, columns).items()}
    table = pa.table(columns)
    if earlier is not None:  # a function need not log the same columns in every generation
        table = pa.concat_tables([earlier, table], promote_options="default")
    write_parquet(file, table)


def _nullable(values_B: Tensor) -> pa.Array:
    return pa.array(values_B.double().cpu().numpy(), from_pandas=True)
