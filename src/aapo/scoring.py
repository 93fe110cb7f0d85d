"""The one pipeline: prompts -> samples -> rewards. A bank is it on the training set, an evaluation on a benchmark.

Shapes: P prompts, K samples per prompt.
"""

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple, TypeVar

from aapo.errors import AapoError, InputError
from aapo.grading import Judge, RewardFunction, reward_name
from aapo.grading.custom import MAX_REWARD
from aapo.messages import encodable
from aapo.records import Completion, Engine, Notes, Prompt, Rewards, ScoredPrompt, Scores
from aapo.sampling import sample_seed
from aapo.tasks import encode_prompt, prompt_key, prompt_opening, render_prompt

Values = TypeVar("Values")

# TRL keeps these columns of a data set from the reward functions, and passes these arguments beside the others.
KEPT_BACK = ("prompt", "completion", "completion_ids")
PASSED = (
    "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments",
    "prompt_opening",
)  # fmt: skip


def as_prompt(row: dict[str, Any], tokenizer: Any, **template_options: Any) -> Prompt:
    """A data set's row, with columns `prompt` and `answer`, as a prompt for `tokenizer`'s model.

    Its row has the column `prompt_opening` as well, what the prompt already holds of the answer's tags.
    """
    row = {**row, "prompt_opening": prompt_opening(row["prompt"], tokenizer, **template_options)}
    rendered = render_prompt(row["prompt"], tokenizer, **template_options)
    gold = str(row.get("answer", ""))
    ids = encode_prompt(row["prompt"], tokenizer, **template_options)
    return Prompt(prompt_key(rendered, gold), rendered, ids, gold, row)


def as_prompts(rows: Iterable[Any], tokenizer: Any, **template_options: Any) -> list[Prompt]:
    """Each row of a data set as a prompt; its key and tokens are made here, once for all that reads them."""
    return [as_prompt(dict(row), tokenizer, **template_options) for row in rows]


def sample(
    prompts: Sequence[Prompt],
    engine: Engine,
    *,
    num_samples: int,
    seed: int,
    purpose: str,
    first: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[list[Completion]]:
    """K samples of each prompt, in order.

    Sample k of a prompt depends on (seed, purpose, prompt key, k) only, so that it does not matter which other prompts
    are sampled beside it.

    Args:
        prompts: What to sample.
        engine: Samples.
        num_samples: K.
        seed: The user's seed.
        purpose: Separates streams, such as `reference` and `evaluation`.
        first: The k of the first of them.
        on_batch: Called with the number of completions in each finished batch.
    """
    prompt_ids = [prompt.ids for prompt in prompts for _ in range(num_samples)]
    seeds = [sample_seed(seed, purpose, prompt.key, k) for prompt in prompts for k in range(first, first + num_samples)]
    flat = engine.generate(prompt_ids, seeds, on_batch)
    return [flat[i * num_samples : (i + 1) * num_samples] for i in range(len(prompts))]


def sample_and_score(
    prompts: Sequence[Prompt],
    engine: Engine,
    reward_funcs: Sequence[RewardFunction],
    *,
    num_samples: int,
    seed: int,
    purpose: str,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[ScoredPrompt]:
    """K scored samples of each prompt, in order; the arguments are those of `sample`."""
    completions_PK = sample(prompts, engine, num_samples=num_samples, seed=seed, purpose=purpose, on_batch=on_batch)
    scores_P = score_groups(reward_funcs, [prompt.row for prompt in prompts], completions_PK)
    return [
        ScoredPrompt(prompt, completions, scores.rewards, scores.notes)
        for prompt, completions, scores in zip(prompts, completions_PK, scores_P, strict=True)
    ]


def score_groups(
    reward_funcs: Sequence[RewardFunction],
    rows: Sequence[dict[str, Any]],
    completions_PK: Sequence[Sequence[Completion]],
) -> list[Scores]:
    """The scores of each row's completions, all scored in one call, in which a row's completions follow each other."""
    repeated = [row for row, completions in zip(rows, completions_PK, strict=True) for _ in completions]
    flat = score(reward_funcs, repeated, [completion for completions in completions_PK for completion in completions])
    parts, start = [], 0
    for completions in completions_PK:
        parts.append(flat.part(start, start + len(completions)))
        start += len(completions)
    return parts


def score(
    reward_funcs: Sequence[RewardFunction], rows: Sequence[dict[str, Any]], completions: Sequence[Completion]
) -> Scores:
    """Each reward function's values for completions of the rows' prompts, one per row, and what it logged of them.

    The functions are called as TRL's trainer calls them: conversational prompts get conversational completions, every
    other column comes as a list, and `trainer_state` is None outside training.

    Raises:
        InputError: A function returned or logged another number of values than there are completions.
    """
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ()) if key not in KEPT_BACK}
    prompts = [row["prompt"] for row in rows]
    answers = [
        completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    call: dict[str, Any] = {
        **columns,
        "prompts": prompts,
        "completions": answers,
        "completion_ids": [completion.token_ids for completion in completions],
        "trainer_state": None,
        "log_metric": lambda name, value: None,
    }
    scores = Scores({}, {})
    for function in reward_funcs:
        name = reward_name(function)
        values, logged = _call(function, call)
        if twice := sorted(scores.notes.keys() & logged):
            raise InputError(f"reward function {name} logs the column {twice[0]!r}, as another one does; rename it")
        scores.rewards[name] = values
        scores.notes.update(logged)
    return scores


def _call(function: RewardFunction, call: dict[str, Any]) -> tuple[list[float | None], Notes]:
    """The rewards that a function gives and the notes that it logs."""
    pending: dict[str, list[Any]] = {}

    def log_extra(column: str, values: Iterable[Any]) -> None:
        pending.setdefault(column, []).extend(values)

    result = function(**call, log_extra=log_extra)
    if inspect.isawaitable(result):

        async def wait(awaitable: Any = result) -> Any:
            return await awaitable

        result = asyncio.run(wait())
    values = [None if value is None or isnan(value) else float(value) for value in result]
    name, size = reward_name(function), len(call["completions"])
    if len(values) != size:
        raise InputError(f"reward function {name} returned {len(values)} rewards for {size} completions")
    check_finite_rewards(name, values)
    return values, as_notes(pending, size, f"reward function {name}")


def check_finite_rewards(name: str, rewards: Sequence[float | None]) -> None:
    """Check that a reward function paid no infinite reward, from which every weight would become NaN.

    So would one whose square is over what 32 bits hold.

    Raises:
        AapoError: It did; the message names it and the first such completion of its batch.
    """
    for index, reward in enumerate(rewards):
        if reward is not None and abs(reward) > MAX_REWARD:
            raise AapoError(
                f"reward function {name} returned {reward} for completion {index + 1} of {len(rewards)}; a reward must "
                f"be finite and at most {MAX_REWARD:g}, or None for a sample that it leaves out"
            )


def as_notes(logged: Mapping[str, Sequence[Any]], size: int, who: str) -> Notes:
    """What was logged about `size` completions, as text.

    Raises:
        InputError: A column has another number of values; the message names it and `who` logged it.
    """
    for column, values in logged.items():
        if len(values) != size:
            raise InputError(
                f"{who} logged {len(values)} values in column {column!r} for {size} completions; log_extra takes one "
                "value a completion"
            )
    return {
        column: [None if value is None else encodable(str(value)) for value in values]
        for column, values in logged.items()
    }


def beside(notes: Mapping[str, Values], columns: Collection[str]) -> dict[str, Values]:
    """The notes to be stored in a table that has `columns`: one of the same name is called `note/NAME`."""
    return {f"note/{name}" if name in columns else name: values for name, values in notes.items()}


def check_columns(reward_funcs: Sequence[RewardFunction], columns: Collection[str]) -> None:
    """Check that a data set has the columns that the reward functions need.

    Raises:
        InputError: One is missing; the message names the function, the column and what columns there are.
    """
    given = [column for column in columns if column not in (*KEPT_BACK, *PASSED)]
    for function in reward_funcs:
        for parameter in inspect.signature(function).parameters.values():
            optional = parameter.default is not parameter.empty or parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            if not optional and parameter.name not in (*given, *PASSED):
                raise InputError(
                    f"reward function {reward_name(function)} needs the column {parameter.name!r}, which the data set "
                    f"does not have; it has {', '.join(given) or 'none'}; add the column, or take the function out of "
                    "reward_funcs"
                )


def check_names(columns: Collection[str], taken: Collection[str] = PASSED) -> None:
    """Check that no column of a data set has a name that is taken.

    Args:
        columns: Of the data set.
        taken: By default the arguments that reward functions are called with beside the columns.

    Raises:
        InputError: One has.
    """
    if found := [column for column in columns if column in taken]:
        raise InputError(
            f"the data set has the column {found[0]!r}, a name under which reward functions are given something else; "
            "rename or remove the column"
        )


class GradingShares(NamedTuple):
    """Shares of the completions with an outcome that says more of the grading than of the answer.

    Attributes:
        no_answer_frac: No final answer was found.
        timeout_frac: Undecided within the limits of the comparison.
        unparseable_gold_frac: The gold answer could not be read.
    """

    no_answer_frac: float
    timeout_frac: float
    unparseable_gold_frac: float


def grading_shares(
    judge: Judge, reward_names: Sequence[str], notes: Mapping[str, Sequence[str | None]]
) -> GradingShares | None:
    """The shares by the verdicts of the function that judges; None where there are none."""
    column = judge.verdicts(reward_names, notes)
    if column is None or not any(notes[column]):
        return None
    verdicts = list(notes[column])
    outcomes = ("no_answer", "timeout", "unparseable_gold")
    return GradingShares(*(verdicts.count(outcome) / len(verdicts) for outcome in outcomes))


def total_rewards(rewards: Rewards, weights: Mapping[str, float]) -> list[float]:
    """The weighted sum over reward functions of each sample; NaN where no function could score it."""
    totals = []
    for values in zip(*(rewards[name] for name in weights), strict=True):
        scored = [weight * value for weight, value in zip(weights.values(), values, strict=True) if value is not None]
        totals.append(sum(scored) if scored else float("nan"))
    return totals
