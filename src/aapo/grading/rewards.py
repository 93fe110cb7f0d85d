"""Reward functions with TRL's signature, by name or from the user's own code.

Each takes `completions` (texts, or lists of messages) and the data set's columns as keyword lists, and returns one
float a completion, or None for a completion that it cannot score.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from aapo.errors import InputError, nearest
from aapo.grading.answers import VERSION as ANSWERS_VERSION
from aapo.grading.answers import extract_answer, grade

RewardFunction = Callable[..., Sequence[float | None]]
_FORMAT = re.compile(
    r"\s*<think>(?:(?!</?think>|</?answer>).)*</think>\s*<answer>(?:(?!</?(?:think|answer)>).)*</answer>\s*", re.DOTALL
)


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain or conversational completion."""
    return completion if isinstance(completion, str) else completion[-1]["content"] or ""


def accuracy(completions: list, answer: list[str], **columns: Any) -> list[float | None]:
    r"""1.0 where the final answer equals the gold answer, 0.0 where not, None where the gold does not parse.

    The final answer is the last \boxed{}, else the last <answer>…</answer>; without one the reward is 0.0. A
    comparison that hits its time limit pays 0.0.
    """
    paid = {"correct": 1.0, "unparseable_gold": None}
    return [
        paid.get(grade(gold, completion_text(completion)).outcome, 0.0)
        for gold, completion in zip(answer, completions, strict=True)
    ]


def format(completions: list, **columns: Any) -> list[float]:
    """1.0 where the completion is exactly <think>…</think> then <answer>…</answer>, else 0.0.

    White space around the blocks is free; each tag occurs once and nothing stands outside the blocks.
    """
    return [1.0 if _FORMAT.fullmatch(completion_text(completion)) else 0.0 for completion in completions]


def reasoning_gym(completions: list, task: list[str], entry: list[str], **columns: Any) -> list[float]:
    """The reasoning-gym task's own score of the final answer, in [0, 1]; 0.0 without an answer.

    Needs the columns `task` and `entry` that `aapo.tasks` adds for generated prompts.
    """
    scores = []
    for completion, name, raw in zip(completions, task, entry, strict=True):
        answer = extract_answer(completion_text(completion))
        scores.append(float(_scorer(name).score_answer(answer, json.loads(raw))) if answer is not None else 0.0)
    return scores


_scorers: dict[str, Any] = {}


def _scorer(task: str) -> Any:
    if task not in _scorers:
        import reasoning_gym

        _scorers[task] = reasoning_gym.create_dataset(task, size=1, seed=0)
    return _scorers[task]


REWARDS: dict[str, RewardFunction] = {"accuracy": accuracy, "format": format, "reasoning_gym": reasoning_gym}
_VERSIONS = {"accuracy": f"accuracy-{ANSWERS_VERSION}", "format": "format-1", "reasoning_gym": "reasoning_gym-1"}


def reward_function(name: str) -> RewardFunction:
    """The reward function of that name: a shipped one, `package.module:function` or `path/to/file.py:function`.

    Raises:
        InputError: There is none.
    """
    if name in REWARDS:
        return REWARDS[name]
    place, _, function = name.partition(":")
    if not function:
        raise InputError(
            f"reward function {name!r} is unknown{nearest(name, REWARDS)}; shipped are {', '.join(REWARDS)}; your own "
            "is named package.module:function or path/to/file.py:function"
        )
    try:
        return getattr(_module(place), function)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise InputError(f"cannot load reward function {name!r}: {error}") from error


@cache
def _module(place: str) -> Any:
    """A module by its dotted name or by the path of its file, executed once."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    name = f"aapo_user_{Path(place).stem}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def reward_name(function: RewardFunction) -> str:
    """The name under which a reward function's values are logged and stored, as TRL derives it."""
    return getattr(function, "__name__", type(function).__name__)


def check_reward_names(functions: Sequence[RewardFunction]) -> None:
    """Check that the functions can be told apart by name.

    Raises:
        InputError: Two have one name.
    """
    names = [reward_name(function) for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two reward functions are named {name!r}; rename one, since rewards are stored by name")


def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        return getattr(code, "__qualname__", repr(code))


def reward_version(function: RewardFunction) -> str:
    """What changes when a reward function's meaning does: a shipped one's version, the hash of another's source.

    Of an object that is called, the source of its class and its attributes count, and of a partial its arguments.
    """
    name = reward_name(function)
    if REWARDS.get(name) is function:
        return _VERSIONS[name]
    if isinstance(function, partial):
        bound = (function.args, sorted(function.keywords.items()))
        source = f"{reward_version(function.func)} {bound!r}"
    elif inspect.isfunction(function):
        source = _source(function)
    else:
        source = f"{_source(type(function))} {sorted(vars(function).items())!r}"
    return f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
