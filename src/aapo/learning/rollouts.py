"""Every rollout of a step as a Parquet file: what happened, and what it was worth.

Shapes: P prompts, G rollouts per prompt, K reference samples, F reward functions, B = P * G completions, X spare
rollouts per prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from torch import Tensor

from aapo.files import write_parquet
from aapo.grading import completion_text
from aapo.learning.batch import BatchScores, Lesson, Teacher
from aapo.messages import encodable, last_question
from aapo.records import Notes
from aapo.runs import LEFT_OUT, rollout_files
from aapo.scoring import beside
from aapo.stored import read_parquet


class Rollout(NamedTuple):
    """One completion as it is stored.

    Attributes:
        prompt: The prompt's column.
        completion: Text or messages.
        gold: The gold answer.
        key: Of the prompt.
    """

    prompt: Any
    completion: Any
    gold: str
    key: str


class RolloutWriter:
    """Writes the rollouts of a run, `step-000001.parquet` and so on, one row a completion.

    Columns: step, batch (0; a step of earlier versions could have several), group (index in the step), sample (index in
    its group), prompt_key, prompt (the question), gold, completion, completion_tokens, loss_tokens (those that the loss
    counts, none of a truncated completion that is masked), truncated, correct (1 or 0, by the judge), reward
    (the weighted sum), reward/NAME for each function, advantage, margin, augmented, reference_rewards (K floats) when
    there are any, spare_rewards and spare_tokens (of the scored rollouts of the prompt that are not trained on, on each
    of its rows) when there are any, and as text what the reward functions logged, such as verdict/NAME. NaN rewards are
    stored as null.
    """

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        """Take where they go, and what knows their groups and reward functions."""
        self.folder = folder
        self.teacher = teacher

    def keys_until(self, step: int) -> list[str]:
        """Keys of the prompts of the stored steps up to this one, each once."""
        found: dict[str, None] = {}
        for stored, file in rollout_files(self.folder).items():
            if stored <= step:
                found.update(dict.fromkeys(_read(file, ["prompt_key"])["prompt_key"].to_pylist()))
        return list(found)

    def write(
        self,
        step: int,
        rollouts: Sequence[Rollout],
        scores: BatchScores,
        lesson: Lesson,
        loss_tokens_B: Tensor,
        notes: Notes,
    ) -> None:
        """Write the rollouts of a step, counted from 1."""
        size, num_generations = len(rollouts), self.teacher.num_generations
        result, reference = lesson.advantages, scores.reference
        columns: dict[str, Any] = {
            "step": [step] * size,
            "batch": [0] * size,
            "group": [i // num_generations for i in range(size)],
            "sample": [i % num_generations for i in range(size)],
            "prompt_key": pa.array([rollout.key for rollout in rollouts], pa.string()),
            "prompt": [encodable(last_question(rollout.prompt)) for rollout in rollouts],
            "gold": [rollout.gold for rollout in rollouts],
            "completion": [encodable(completion_text(rollout.completion)) for rollout in rollouts],
            "completion_tokens": scores.tokens_B.int().tolist(),
            "loss_tokens": loss_tokens_B.int().tolist(),
            "truncated": scores.truncated_B.tolist(),
            "correct": _nullable(scores.correct_B),
            "reward": _nullable(lesson.total_B),
            **{
                f"reward/{name}": _nullable(scores.rewards_BF[:, i]) for i, name in enumerate(self.teacher.reward_names)
            },
            "advantage": result.advantage_PG.flatten().tolist(),
            "margin": result.margin_PG.flatten().tolist(),
            "augmented": result.augmented_PG.flatten().tolist(),
        }
        if reference is not None:
            columns["reference_rewards"] = reference.rewards_PK.repeat_interleave(num_generations, 0).tolist()
        if scores.spare is not None:
            columns |= _spare(self.teacher.total(scores.spare.rewards_PXF), scores.spare.tokens_PX, num_generations)
        columns |= {name: pa.array(values, pa.string()) for name, values in beside(notes, columns).items()}
        write_parquet(self.folder / f"step-{step:06d}.parquet", pa.table(columns))


def _read(file: Path, columns: list[str] | None = None) -> pa.Table:
    return read_parquet(file, LEFT_OUT, ("prompt_key",), columns)


def _spare(rewards_PX: Tensor, tokens_PX: Tensor, num_generations: int) -> dict[str, pa.Array]:
    """Rewards and lengths of what was drawn for each prompt beside its group, on each row of the group."""
    scored_PX = ~rewards_PX.isnan()
    parts = {"spare_rewards": (rewards_PX.double(), pa.float64()), "spare_tokens": (tokens_PX, pa.int64())}
    return {
        name: pa.array(
            [
                values_X[scored_X].tolist()
                for values_X, scored_X in zip(values_PX, scored_PX, strict=True)
                for _ in range(num_generations)
            ],
            pa.list_(kind),
        )
        for name, (values_PX, kind) in parts.items()
    }


def _nullable(values_B: Tensor) -> pa.Array:
    return pa.array(values_B.double().cpu().numpy(), from_pandas=True)
