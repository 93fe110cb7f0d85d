"""The one pipeline: prompts -> samples -> rewards. A bank is it on the training set, an evaluation on a benchmark."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from aapo.grading import RewardFunction, reward_name
from aapo.sampling import Completion, Engine, sample_seed
from aapo.tasks import encode_prompt, prompt_key, render_prompt

Rewards = dict[str, list[float | None]]

# A completion is right when the first reward function pays at least this; cosine rewards pay 0.5 to 1 for right ones.
SUCCESS_THRESHOLD = 0.5


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to be sampled.

    Attributes:
        key: Its identity, `prompt_key(rendered, gold)`.
        rendered: What the model reads.
        ids: The same as tokens.
        gold: The gold answer, empty without one.
        row: The data set's row, whose columns reward functions get.
    """

    key: str
    rendered: str
    ids: list[int]
    gold: str
    row: dict[str, Any]

    @property
    def question(self) -> str:
        """What the user asks: the last message that is not the assistant's, or the plain prompt."""
        return last_question(self.row["prompt"])


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with K completions and, per reward function, their K rewards (None: could not be scored)."""

    prompt: Prompt
    completions: list[Completion]
    rewards: Rewards


def last_question(prompt: str | list[dict[str, Any]]) -> str:
    """The last message of a prompt that is not the assistant's, or the plain prompt."""
    if isinstance(prompt, str):
        return prompt
    return next((message["content"] for message in reversed(prompt) if message["role"] != "assistant"), "")


def as_prompt(row: dict[str, Any], tokenizer: Any, **template_options: Any) -> Prompt:
    """A data set's row, with columns `prompt` and `answer`, as a prompt for `tokenizer`'s model."""
    rendered = render_prompt(row["prompt"], tokenizer, **template_options)
    gold = str(row.get("answer", ""))
    ids = encode_prompt(row["prompt"], tokenizer, **template_options)
    return Prompt(prompt_key(rendered, gold), rendered, ids, gold, row)


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
    """K scored samples of each prompt, in order.

    Sample k of a prompt depends on (seed, purpose, prompt key, k) only, so that it does not matter which other prompts
    are sampled beside it.

    Args:
        prompts: What to sample.
        engine: Samples.
        reward_funcs: Score.
        num_samples: K.
        seed: The user's seed.
        purpose: Separates streams, such as `reference` and `evaluation`.
        on_batch: Called with the number of completions in each finished batch.
    """
    prompt_ids = [prompt.ids for prompt in prompts for _ in range(num_samples)]
    seeds = [sample_seed(seed, purpose, prompt.key, k) for prompt in prompts for k in range(num_samples)]
    flat = engine.generate(prompt_ids, seeds, on_batch)
    rewards = score(reward_funcs, [prompt.row for prompt in prompts for _ in range(num_samples)], flat)
    return [
        ScoredPrompt(
            prompt,
            flat[i * num_samples : (i + 1) * num_samples],
            {name: values[i * num_samples : (i + 1) * num_samples] for name, values in rewards.items()},
        )
        for i, prompt in enumerate(prompts)
    ]


def score(
    reward_funcs: Sequence[RewardFunction], rows: Sequence[dict[str, Any]], completions: Sequence[Completion]
) -> Rewards:
    """Each reward function's values for completions of the rows' prompts, one per row.

    The functions are called as TRL's trainer calls them: conversational prompts get conversational completions, every
    other column comes as a list, and `trainer_state` is None outside training.
    """
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"} if rows else {}
    prompts = [row["prompt"] for row in rows]
    answers = [
        completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    call: dict[str, Any] = {
        "prompts": prompts,
        "completions": answers,
        "completion_ids": [completion.token_ids for completion in completions],
        **columns,
        "trainer_state": None,
        "log_extra": lambda column, values: None,
        "log_metric": lambda name, value: None,
    }
    return {reward_name(function): _call(function, call) for function in reward_funcs}


def _call(function: RewardFunction, call: dict[str, Any]) -> list[float | None]:
    values = function(**call)
    if inspect.isawaitable(values):

        async def wait(awaitable: Any = values) -> Any:
            return await awaitable

        values = asyncio.run(wait())
    return [None if value is None or isnan(value) else float(value) for value in values]


def total_rewards(rewards: Rewards, weights: Mapping[str, float]) -> list[float]:
    """The weighted sum over reward functions of each sample; NaN where no function could score it."""
    totals = []
    for values in zip(*(rewards[name] for name in weights), strict=True):
        scored = [weight * value for weight, value in zip(weights.values(), values, strict=True) if value is not None]
        totals.append(sum(scored) if scored else float("nan"))
    return totals
