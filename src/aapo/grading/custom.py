"""Reward functions of the user's own: loaded by name, parameters bound, failures reported."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any

from aapo.errors import AapoError, InputError, nearest
from aapo.grading.rewards import completion_text
from aapo.messages import last_question
from aapo.named import described, load_named, user_code
from aapo.progress import patience

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
FAILURES = ("fail", "skip")
# Characters of a prompt and of a completion in a message.
NUM_SHOWN = 120
# The variance of larger ones is over what 32 bits hold.
MAX_REWARD = 1e15

logger = logging.getLogger(__name__)


def load_function(name: str) -> RewardFunction:
    """The function that `package.module:function` or `path/to/file.py:function` names; a file is executed once.

    Raises:
        InputError: There is none.
    """
    return load_named(name, "reward function")


def check_parameters(name: str, function: RewardFunction, parameters: Mapping[str, Any]) -> None:
    """Check that a reward function has these parameters.

    Raises:
        InputError: It lacks one.
    """
    signature = inspect.signature(function).parameters.values()
    known = [item.name for item in signature if item.default is not item.empty and item.name not in _GIVEN]
    for key in parameters:
        if key not in known:
            allowed = f"its parameters are {', '.join(known)}" if known else "it has none"
            raise InputError(f"reward function {name!r} has no parameter {key!r}{nearest(key, known)}; {allowed}")


# What the trainer passes beside the data set's columns.
_GIVEN = (
    "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments",
    "prompt_opening",
)  # fmt: skip


def guarded(name: str, function: RewardFunction, parameters: Mapping[str, Any], failure: str) -> RewardFunction:
    """`function` with its parameters bound and its exceptions dealt with.

    A bound parameter wins over a column of the same name. When the function raises, the samples that make it raise are
    found by calling it on one at a time. With `fail` the first of them ends the run with its error; with `skip` each
    gets None, the others are scored without them, and the share is logged as `rewards/NAME/failed_frac`. What the
    function logs through `log_extra` and `log_metric` is passed on only from the call that succeeds.

    Args:
        name: As the user wrote it.
        function: Sync or async, with TRL's signature.
        parameters: Keyword arguments to bind.
        failure: fail or skip.
    """
    bound = _Guarded(name, function, dict(parameters), failure)

    async def call_async(**call: Any) -> Sequence[float | None]:
        return await bound.rewards(call)

    def call_sync(**call: Any) -> Sequence[float | None]:
        return _run(bound.rewards(call))

    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    made = wraps(function, updated=())(call_async if is_async else call_sync)
    made.__name__ = bound.label
    return made


def _run(coroutine: Coroutine[Any, Any, Sequence[float | None]]) -> Sequence[float | None]:
    """The result of a coroutine that never waits, because the function in it is synchronous."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a synchronous reward function does not wait")


class _Guarded:
    """One reward function with parameters and a policy for exceptions."""

    def __init__(self, name: str, function: RewardFunction, parameters: dict[str, Any], failure: str) -> None:
        self.name = name
        self.function = function
        self.parameters = parameters
        self.failure = failure

    async def rewards(self, call: dict[str, Any]) -> Sequence[float | None]:
        """The rewards of one batch."""
        size = len(call["completions"])
        try:
            with patience(f"reward function {self.name!r}"):
                return await self._call(call, list(range(size)))
        except AapoError:
            raise
        except (Exception, SystemExit) as error:
            failed = {i: found for i in range(size) if (found := await self._error(call, i)) is not None}
            if self.failure == "fail" or not failed:
                index, cause = next(iter(failed.items()), (None, error))
                raise AapoError(
                    f"{self._message(call, index, cause)}; mend it, or set reward_failure to skip"
                ) from cause
            message = self._message(call, *next(iter(failed.items())))
            logger.warning("%s; %d of %d samples are left out", message, len(failed), size)
            if log_metric := call.get("log_metric"):
                log_metric(f"rewards/{self.label}/failed_frac", len(failed) / size)
            return await self._call(call, [i for i in range(size) if i not in failed])

    @property
    def label(self) -> str:
        """The function's name in metrics and columns."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    async def _call(self, call: dict[str, Any], kept: list[int]) -> list[float | None]:
        """Rewards of the samples in `kept`, None for the others; logs what the function logs."""
        size = len(call["completions"])
        if not kept:
            return [None] * size
        extra: list[tuple[str, list]] = []
        metrics: list[tuple[str, float]] = []
        result = await self._raw(call, kept, extra, metrics)
        for column, values in extra:
            if len(values) != len(kept):
                raise InputError(
                    f"reward function {self.name!r} logged {len(values)} values in column {column!r} for {len(kept)} "
                    "completions; log_extra takes one value a completion"
                )
            call["log_extra"](column, _spread(values, kept, size))
        for metric, value in metrics:
            call["log_metric"](metric, value)
        return _spread(result, kept, size)

    async def _error(self, call: dict[str, Any], index: int) -> BaseException | None:
        """What the function raises on one sample alone."""
        try:
            await self._raw(call, [index], [], [])
        except (Exception, SystemExit) as error:
            return error
        return None

    async def _raw(self, call: dict[str, Any], kept: list[int], extra: list, metrics: list) -> list[float | None]:
        size = len(call["completions"])

        def part(value: Any) -> Any:
            return [value[i] for i in kept] if isinstance(value, (list, tuple)) and len(value) == size else value

        chosen = call if len(kept) == size else {key: part(value) for key, value in call.items()}
        hooks: dict[str, Any] = {}
        if call.get("log_extra"):
            hooks["log_extra"] = lambda column, values: extra.append((column, list(values)))
        if call.get("log_metric"):
            hooks["log_metric"] = lambda metric, value: metrics.append((metric, value))
        with user_code():
            result = self.function(**{**chosen, **hooks, **self.parameters})
            if inspect.isawaitable(result):
                result = await result
            values = _listed(result)
        if len(values) != len(kept):
            raise ValueError(f"it returned {len(values)} rewards for {len(kept)} completions")
        return [None if value is None else _number(value) for value in values]

    def _message(self, call: dict[str, Any], index: int | None, error: BaseException) -> str:
        what = described(error, self.function)
        if index is None:
            return f"reward function {self.name!r} failed on a batch, though on no sample alone: {what}"
        return (
            f"reward function {self.name!r} failed on sample {index + 1} of {len(call['completions'])} "
            f"({_sample(call, index)}): {what}"
        )


def _listed(result: Any) -> list[Any]:
    """The rewards that a function returned, one by one."""
    if result is None or isinstance(result, (str, Mapping)):
        shown = repr(result)[:60]
        raise TypeError(f"it returned {shown}; it must return a list with one number, or None, a completion")
    return list(result)


def _number(value: Any) -> float:
    """A reward as a number whose variance is one, too."""
    if isinstance(value, (str, bytes)) or not abs(number := float(value)) <= MAX_REWARD:
        raise ValueError(
            f"it returned {repr(value)[:60]}; a reward must be a finite number, at most {MAX_REWARD:g} in size, or "
            "None for a sample that it leaves out"
        )
    return number


def _sample(call: dict[str, Any], index: int) -> str:
    """What a sample is known by in a message: how its prompt begins, how its completion ends, its gold answer."""
    parts = [f"completion {_shown(completion_text(call['completions'][index]), last=True)}"]
    if "prompts" in call:
        parts.insert(0, f"prompt {_shown(last_question(call['prompts'][index]))}")
    if "answer" in call:
        parts.append(f"gold {call['answer'][index]!r}")
    return ", ".join(parts)


def _shown(text: str, *, last: bool = False) -> str:
    """The first characters of a text, or the last, as Python writes it, which keeps control characters harmless."""
    if len(text) > NUM_SHOWN:
        text = f"…{text[-NUM_SHOWN:]}" if last else f"{text[:NUM_SHOWN]}…"
    return repr(text)


def _spread(values: list, kept: list[int], size: int) -> list:
    """`values` at their places in a list of `size`, None elsewhere."""
    spread: list = [None] * size
    for index, value in zip(kept, values, strict=True):
        spread[index] = value
    return spread
