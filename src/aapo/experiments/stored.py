"""A run's stored rollouts as groups of rewards, and the reference rewards of their prompts.

Shapes: P prompts of a generation batch, G rollouts per prompt, K reference samples per prompt, F reward functions, X
spare rollouts per prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aapo.bank import ReferenceBank, bank_identity, reward_versions
from aapo.errors import InputError
from aapo.grading import reward_function, reward_name
from aapo.runs import LEFT_OUT, RunDirectory
from aapo.sampling import SamplingSettings
from aapo.scoring import total_rewards
from aapo.stored import read_parquet, reading

COLUMNS = (
    "batch", "group", "prompt_key", "correct", "reward", "advantage", "augmented", "completion_tokens", "loss_tokens",
    "truncated",
)  # fmt: skip
REFERENCE, REWARD = "reference_rewards", "reward/"
SPARE_REWARDS, SPARE_TOKENS = "spare_rewards", "spare_tokens"


class References(NamedTuple):
    """Reference rewards of a bank by prompt key, weighed as a run weighs them."""

    bank: Path
    rewards: dict[str, list[float]]


class StoredBatch(NamedTuple):
    """One generation batch of a run; values are float32 and lengths integers, as the trainer's.

    Attributes:
        step: The optimizer step that it was drawn for, from 1.
        keys_P: Keys of the prompts.
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN for an unscored one.
        rewards_PG: The weighted sum of the reward functions, without any penalty; NaN where none could score.
        reference_PK: Reference rewards; None where the run read none.
        advantage_PG: The run's own group-relative advantages.
        augmented_PG: The run's own augmented advantages.
        tokens_PG: Completion tokens.
        loss_tokens_PG: Completion tokens that the loss counted.
        truncated_PG: True where the completion was cut at the token limit.
        values_PGF: What each reward function paid; NaN where it could not score.
        weights_F: The functions' weights.
        spare_PX: Rewards of what was drawn for a prompt and not trained on, NaN where it has fewer; None without any.
        spare_tokens_PX: Their completion tokens.
    """

    step: int
    keys_P: list[str]
    correct_PG: Tensor
    rewards_PG: Tensor
    reference_PK: Tensor | None
    advantage_PG: Tensor
    augmented_PG: Tensor
    tokens_PG: Tensor
    loss_tokens_PG: Tensor
    truncated_PG: Tensor
    values_PGF: Tensor
    weights_F: Tensor
    spare_PX: Tensor | None = None
    spare_tokens_PX: Tensor | None = None


def stored_steps(run: RunDirectory) -> list[int]:
    """The steps of a run that have stored rollouts, ascending.

    Raises:
        InputError: There is none.
    """
    steps = run.rollout_steps()
    if not steps:
        raise InputError(
            f"{run.path} has no stored rollouts in {run.samples}; `aapo train` writes them, so check that the folder "
            "was copied whole"
        )
    return steps


def read_step(run: RunDirectory, step: int, references: References | None = None) -> Iterator[StoredBatch]:
    """The generation batches of one step, in order, with a bank's reference rewards where one is given.

    Raises:
        InputError: The file lacks a column, or the bank a prompt.
    """
    file = run.rollouts_file(step)
    with reading(file, LEFT_OUT):
        functions = [name for name in pq.read_schema(file).names if name.startswith(REWARD)]
    weights_F = torch.tensor(run.recipe()["fields"].get("reward_weights") or [1.0] * len(functions))
    table = read_parquet(file, LEFT_OUT, COLUMNS, {*COLUMNS, REFERENCE, SPARE_REWARDS, SPARE_TOKENS, *functions})
    index = table["batch"].to_numpy()
    for batch in range(int(index.max()) + 1):
        found = _batch(step, table.filter(pa.array(index == batch)), functions, weights_F)
        yield found if references is None else _with_references(found, references)


def _batch(step: int, table: pa.Table, functions: Sequence[str], weights_F: Tensor) -> StoredBatch:
    num_groups = table["group"][-1].as_py() + 1
    size = table.num_rows // num_groups

    def tensor(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(table[name].to_numpy(), dtype=dtype).view(num_groups, size)  # null becomes NaN

    first = table.take(list(range(0, table.num_rows, size)))
    has_reference = REFERENCE in table.column_names and not first[REFERENCE].null_count

    def spare(name: str, missing: float) -> Tensor | None:
        if name not in table.column_names:
            return None
        rows = [torch.tensor(values, dtype=torch.float32) for values in first[name].to_pylist()]
        return pad_sequence(rows, batch_first=True, padding_value=missing)

    return StoredBatch(
        step=step,
        keys_P=first["prompt_key"].to_pylist(),
        correct_PG=tensor("correct"),
        rewards_PG=tensor("reward"),
        reference_PK=torch.tensor(first[REFERENCE].to_pylist(), dtype=torch.float32) if has_reference else None,
        advantage_PG=tensor("advantage"),
        augmented_PG=tensor("augmented"),
        tokens_PG=tensor("completion_tokens", torch.int64),
        loss_tokens_PG=tensor("loss_tokens", torch.int64),
        truncated_PG=tensor("truncated", torch.bool),
        values_PGF=torch.stack([tensor(name) for name in functions], 2),
        weights_F=weights_F,
        spare_PX=spare(SPARE_REWARDS, torch.nan),
        spare_tokens_PX=spare(SPARE_TOKENS, 0),
    )


def read_references(run: RunDirectory, path: Path) -> References:
    """The rewards of a bank's samples as the run weighs them, by prompt key.

    Raises:
        InputError: There is no bank, or it was not sampled and scored as the run is; the message names the difference.
    """
    recipe = run.recipe("with_defaults")
    given, ours = recipe["fields"], recipe["with_defaults"]
    kwargs, failure = ours["reward_kwargs"] or {}, ours["reward_failure"]
    functions = [reward_function(name, kwargs.get(name), failure) for name in ours["reward_funcs"]]
    bank = ReferenceBank.open(path, reward_versions(functions))
    identity = bank_identity(
        model=bank.identity["model"],
        tokenizer=bank.identity["tokenizer"],
        sampling=sampling_of(run).describe(),
        reward_funcs=functions,
        seed=bank.identity["seed"],
    )
    bank.require(identity)
    names = [reward_name(function) for function in functions]
    weights = dict(zip(names, given.get("reward_weights") or [1.0] * len(names), strict=True))
    columns = {name: f"reward/{name}" for name in names}
    rewards = {
        row["key"]: total_rewards({name: row[column] for name, column in columns.items()}, weights)
        for row in bank.rows(list(columns.values()))
    }
    return References(path, rewards)


def sampling_of(run: RunDirectory) -> SamplingSettings:
    """How the run drew its rollouts, from its recipe; without TRL, so that a GPU's recipe is read on any machine."""
    given = run.recipe()["fields"]
    names = [item.name for item in fields(SamplingSettings) if given.get(item.name) is not None]
    return SamplingSettings(**{name: given[name] for name in names})


def manifest_bank(run: RunDirectory) -> Path | None:
    """The bank that the run's manifest names, if there is one and it is still there."""
    known = run.manifest().get("reference_bank") if run.manifest_file.exists() else None
    return Path(known["path"]) if known and Path(known["path"]).exists() else None


def _with_references(batch: StoredBatch, references: References) -> StoredBatch:
    missing = [key for key in batch.keys_P if key not in references.rewards]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(batch.keys_P)} prompts of step {batch.step} are not in the bank {references.bank} "
            f"(first key: {missing[0]}); name the bank of the run's training prompts with --bank"
        )
    rows = [references.rewards[key] for key in batch.keys_P]
    return batch._replace(reference_PK=torch.tensor(rows, dtype=torch.float32))
