"""The recipe's reward functions as verl's custom reward function."""

import json
import threading
from collections.abc import Sequence
from functools import cache
from math import isnan, nan
from typing import Any, NamedTuple

import torch

from aapo.bank.rows import read_row
from aapo.grading import RewardFunction
from aapo.objective import overlong_penalty
from aapo.recipe import Recipe, load_recipe
from aapo.records import Completion
from aapo.scoring import score, total_rewards

# Reward functions are written for one thread, and those that compare answers wait for a worker process anyway.
_ONE_AT_A_TIME = threading.Lock()


class Graded(NamedTuple):
    """What the reward functions say of one completion.

    Attributes:
        total: The weighted sum; 0 where none could score, since verl knows no missing reward.
        shaped: The same with the overlong penalty, by which verl tells groups that are alike.
        acc: 1 for a right completion, 0 for a wrong one, NaN where nothing says; verl's name for it.
        scored: Rewards and notes as JSON text.
    """

    total: float
    shaped: float
    acc: float
    scored: str

    def as_result(self) -> dict[str, Any]:
        """The dictionary that verl wants of a reward function."""
        return {"score": self.total, "shaped": self.shaped, "acc": self.acc, "scored": self.scored}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any],
    *,
    run: str,
    completion_ids: Sequence[int] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Grade a completion; the signature is verl's.

    Args:
        data_source: verl's, not read.
        solution_str: The completion, without special tokens.
        ground_truth: verl's, not read: the row has it.
        extra_info: As `export` wrote it.
        run: The run directory, whose recipe names the reward functions.
        completion_ids: Its tokens; only verl's own managers leave them out, and then functions of lengths fail.
    """
    ids, recipe = list(completion_ids or []), _recipe(run)
    limit = recipe.training.sampling.max_completion_length
    completion = Completion(solution_str, ids, "length" if len(ids) >= limit else "stop")
    return graded(recipe, _functions(run), read_row(extra_info["row"]), completion).as_result()


def graded(recipe: Recipe, functions: list[RewardFunction], row: dict[str, Any], completion: Completion) -> Graded:
    """What the recipe's reward functions say of a completion of a row's prompt."""
    with _ONE_AT_A_TIME:
        scores = score(functions, [row], [completion])
    names, training = list(scores.rewards), recipe.training
    weights = dict(zip(names, training.reward_weights or [1.0] * len(names), strict=True))
    total = total_rewards(scores.rewards, weights)[0]
    total = 0.0 if isnan(total) else total
    length = torch.tensor(len(completion.token_ids))
    limit = training.sampling.max_completion_length
    penalty = overlong_penalty(length, limit, training.objective.overlong_buffer).item()
    correct = training.judgement.correct(scores.rewards, scores.notes)[0]
    flat = {
        "rewards": {name: values[0] for name, values in scores.rewards.items()},
        "notes": {name: values[0] for name, values in scores.notes.items()},
    }
    return Graded(total, total + penalty, nan if correct is None else correct, json.dumps(flat))


@cache
def _recipe(run: str) -> Recipe:
    return load_recipe(run)


@cache
def _functions(run: str) -> list[RewardFunction]:
    return _recipe(run).reward_funcs
