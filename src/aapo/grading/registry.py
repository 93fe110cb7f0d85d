"""Reward functions by name, and what identifies them."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aapo.errors import InputError, nearest
from aapo.grading import rewards
from aapo.grading.answers import VERSION as ANSWERS_VERSION
from aapo.grading.answers import asks_workers, begin_grading
from aapo.grading.custom import FAILURES, RewardFunction, check_parameters, guarded, load_function
from aapo.grading.sandbox import require_sandbox
from aapo.grading.scorers import require_scorers

# Changes when the values of a shipped function do; those that compare answers change with the comparison too.
_VERSIONS = {
    "accuracy": ANSWERS_VERSION, "code": "1", "cosine": f"1.{ANSWERS_VERSION}", "format": "3",
    "len": f"1.{ANSWERS_VERSION}", "reasoning_gym": f"1.{ANSWERS_VERSION}", "reasoning_steps": "1",
    "repetition_penalty": "1", "soft_overlong": "1", "tag_count": "2",
}  # fmt: skip
REWARDS: dict[str, RewardFunction] = {name: getattr(rewards, name) for name in _VERSIONS}
# These compare the completions of a group, so each process must have whole groups.
GROUPWISE = frozenset({"len"})
# These compare the answer in a completion with the gold answer.
GRADED = ("accuracy", "cosine", "len")
# Their parameters that a verdict depends on.
_COMPARING = ("convention", "evaluated", "unfinished_thoughts", "grader")
# These look for an answer in a completion.
_LOOKING = (*GRADED, "reasoning_gym")
_SPEC = "aapo_spec"


def with_convention(
    names: Sequence[str], parameters: Mapping[str, Any] | None, convention: str | None
) -> dict[str, Any] | None:
    """Parameters of reward functions, with the convention for those that look for answers and say nothing of it.

    Args:
        names: The reward functions.
        parameters: By name; what is given wins, also `convention: null`, and another grader than ours takes none.
        convention: Where an answer may stand; None changes nothing.
    """
    made = dict(parameters or {})
    for name in names if convention is not None else ():
        given = made.get(name) or {}
        if name in _LOOKING and isinstance(given, Mapping) and given.get("grader", "aapo") == "aapo":
            made[name] = {"convention": convention, **given}
    return made or (None if parameters is None else dict(parameters))


def reward_function(name: str, parameters: Mapping[str, Any] | None = None, failure: str = "fail") -> RewardFunction:
    """The reward function of that name: a shipped one, `package.module:function` or `path/to/file.py:function`.

    Args:
        name: Says which.
        parameters: Keyword arguments to bind, such as `{"max_len": 4096}` for `cosine`.
        failure: What happens when it raises: `fail`, the run ends with the sample and the error; `skip`, the sample is
            left out and counted.

    Raises:
        InputError: There is no such function, or it does not take these parameters.
    """
    if failure not in FAILURES:
        raise InputError(f"reward_failure is {failure!r}; it must be {' or '.join(FAILURES)}")
    parameters = dict(parameters or {})
    if name in REWARDS:
        function = REWARDS[name]
        if not parameters:
            return function
        check_parameters(name, function, parameters)
        function(**_no_samples(function), **parameters)  # which checks their values
    elif ":" in name:
        function = load_function(name)
        if parameters:
            check_parameters(name, function, parameters)
    else:
        raise InputError(
            f"reward function {name!r} is unknown{nearest(name, REWARDS)}; shipped are {', '.join(REWARDS)}; your own "
            "is named package.module:function or path/to/file.py:function"
        )
    made = guarded(name, function, parameters, failure)
    setattr(made, _SPEC, {"function": name, "parameters": parameters})
    return made


def grade_ahead(functions: Iterable[RewardFunction], gold: str, text: Callable[[], str]) -> None:
    """Have workers begin with what reward functions are going to ask them about a completion.

    Only for shipped functions, of which it is known what they ask. Nothing is done for gold answers that are mostly
    compared in this process, in less time than it takes to begin early.

    Args:
        functions: The reward functions; none is called.
        gold: The gold answer.
        text: Gives the completion with what the prompt holds of it; called only where workers are asked.
    """
    specs = [spec for function in functions if (spec := reward_spec(function)) and spec["function"] in GRADED]
    kinds = [{key: value for key, value in spec["parameters"].items() if key in _COMPARING} for spec in specs]
    if asked := [options for options in kinds if asks_workers(gold, options.get("grader", "aapo"))]:
        completion = text()
        for options in asked:
            begin_grading(gold, completion, **options)


def _no_samples(function: RewardFunction) -> dict[str, list]:
    """Arguments of a call on no completions."""
    parameters = inspect.signature(function).parameters.values()
    required = [item.name for item in parameters if item.default is item.empty and item.kind is not item.VAR_KEYWORD]
    return {name: [] for name in (*required, "completion_ids")}


def reward_spec(function: RewardFunction) -> dict[str, Any] | None:
    """Name and parameters that `reward_function` makes the function from; None for one that has no name."""
    if REWARDS.get(reward_name(function)) is function:
        return {"function": reward_name(function), "parameters": {}}
    return getattr(function, _SPEC, None)


def reward_name(function: RewardFunction) -> str:
    """The name under which a reward function's values are logged and stored, as TRL derives it."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def reward_functions(names: Sequence[str], kwargs: Mapping[str, Any] | None, failure: str) -> list[RewardFunction]:
    """The reward functions of these names.

    Args:
        names: Shipped ones, `package.module:function` or `path/to/file.py:function`.
        kwargs: Parameters by name as in `names`.
        failure: fail or skip.

    Raises:
        InputError: One is unknown, or does not take these parameters; or parameters are for none of them.
    """
    for name, parameters in (kwargs or {}).items():
        if name not in names:
            raise InputError(
                f"reward_kwargs has parameters for {name!r}{nearest(name, names)}; reward_funcs are {', '.join(names)}"
            )
        if not isinstance(parameters, dict):
            raise InputError(
                f"reward_kwargs.{name} is {parameters!r}; it must be a mapping of parameters, such as {{max_len: 4096}}"
            )
    functions = [reward_function(name, (kwargs or {}).get(name), failure) for name in names]
    check_reward_names(functions)
    return functions


def check_reward_names(functions: Sequence[RewardFunction]) -> None:
    """Check that the functions can be told apart by name.

    Raises:
        InputError: Two have one name.
    """
    names = [reward_name(function) for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two reward functions are named {name!r}; rename one, since rewards are stored by name")


def check_isolation(functions: Iterable[RewardFunction], tasks: Iterable[str]) -> None:
    """Check that this machine can isolate what the shipped reward functions must not do in this process.

    Args:
        functions: The reward functions.
        tasks: The generated tasks of the prompts, the data set's column `task`; none where there is no such column.

    Raises:
        InputError: It cannot, for `code` or for one of the tasks.
    """
    for function in functions:
        while isinstance(function, partial):
            function = function.func  # noqa: PLW2901
        shipped = inspect.unwrap(function)
        if shipped is REWARDS["code"]:
            require_sandbox()
        if shipped is REWARDS["reasoning_gym"]:
            require_scorers(tasks)


def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        return getattr(code, "__qualname__", repr(code))


def _file_version(name: str, function: RewardFunction) -> str:
    """Name and hash of the file that a function was loaded from, since what it calls is mostly there too."""
    code = function if inspect.isfunction(function) else type(function)
    return f"{name}-{hashlib.sha256(Path(inspect.getfile(code)).read_bytes()).hexdigest()[:12]}"


def reward_version(function: RewardFunction) -> str:
    """What changes when a reward function's meaning does: a shipped one's version, the hash of another's source.

    Of a function that was loaded by name its whole file counts, of one that was given in Python its own source, of an
    object that is called the source of its class and its attributes. Bound parameters count too.
    """
    name = reward_name(function)
    if (spec := getattr(function, _SPEC, None)) is not None:
        bound = ", ".join(f"{key}={value!r}" for key, value in sorted(spec["parameters"].items()))
        inner = inspect.unwrap(function)
        version = reward_version(inner) if spec["function"] in REWARDS else _file_version(name, inner)
        return f"{version}({bound})" if bound else version
    if REWARDS.get(name) is function:
        return f"{name}-{_VERSIONS[name]}"
    if isinstance(function, partial):
        arguments = (function.args, sorted(function.keywords.items()))
        source = f"{reward_version(function.func)} {arguments!r}"
    elif inspect.isfunction(function):
        source = _source(function)
    else:
        source = f"{_source(type(function))} {sorted(vars(function).items())!r}"
    return f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
