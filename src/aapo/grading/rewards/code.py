"""Rewards for programs that pass tests, run in a sandbox."""

import json
import math
import os
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from aapo.errors import InputError, nearest
from aapo.grading.programs import Limits
from aapo.grading.rewards.completions import completion_text
from aapo.grading.sandbox import require_sandbox, run_program

Comparison = Literal["lines", "open_r1"]
Outcome = Literal["passed", "wrong", "timeout", "skipped"]

_FENCE = re.compile("`{3,}")
_PYTHON = ("python", "py", "python3")
MIN_MEMORY_MB = 64


def extract_program(text: str) -> str | None:
    """The last Markdown block of Python in a completion, or None.

    That is the last block marked python, py or python3; where there is none, the last block without a language. A
    block begins on the line after its three or more backticks, which start a line unless they are marked as Python,
    and ends at the next ones, as in open-r1. One that is never closed, or runs into the start of a block of Python, or
    holds only white space, does not count. Takes time linear in the text.
    """
    fences = list(_FENCE.finditer(text))
    nexts = [fence.start() for fence in fences[1:]] + [len(text)]
    found: dict[str, str] = {}
    before, opened, language = 0, -1, ""
    for fence, after in zip(fences, nexts, strict=False):
        line_end = text.find("\n", fence.end(), after)
        mark = text[fence.end() : line_end].strip().lower() if line_end >= 0 else None
        if mark in _PYTHON:
            opened, language = line_end + 1, "python"
        elif opened >= 0:
            content = text[opened : fence.start()]
            if content.strip():
                found[language] = content
            opened = -1
        elif mark is not None and _starts_line(text, before, fence.start()):
            opened, language = line_end + 1, mark
        before = fence.end()
    return found.get("python", found.get(""))


def _starts_line(text: str, before: int, position: int) -> bool:
    """Whether only white space stands between `position` and the start of its line, looking back to `before`."""
    newline = text.rfind("\n", before, position)
    return (newline >= 0 or before == 0) and not text[max(newline, before) : position].strip()


def equal_lines(output: str, expected: str) -> bool:
    """Whether all lines are equal, white space at their ends and empty lines after the last one aside."""
    return _lines(output) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def equal_lines_open_r1(output: str, expected: str) -> bool:
    """Whether the lines that both have are equal, as open-r1 compares.

    White space around a line does not count, nor any around the whole output. An output of only the first lines of
    the expected one is equal, and one that goes on after its end if that is not the end of a line.
    """
    pairs = zip(output.strip().split("\n"), expected.split("\n"), strict=False)
    return all(mine.strip() == its.strip() for mine, its in pairs)


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {"lines": equal_lines, "open_r1": equal_lines_open_r1}


class Case(NamedTuple):
    """One test: the text on standard input and the text expected, or a function's name, arguments and result.

    For a function, `given` is the JSON of its list of arguments and `expected` the value.
    """

    function: str | None
    given: str
    expected: Any


def parse_cases(info: Any, row: int) -> list[Case] | None:
    """The tests of one row's `verification_info`, None where it is None: the row is not about code.

    Args:
        info: {"language": "python", "test_cases": [case, …]} or its JSON. A case has `input` and `output` texts. With
            a `fn_name`, `input` is the list of the function's arguments and `output` its result, also as the only
            element of a list (APPS); or `input` is text, one JSON argument a line, and `output` JSON (LiveCodeBench).
            `type`, where given, is stdin_stdout or function_call.
        row: The row's number in the batch, from 0, for errors.

    Raises:
        InputError: The language is not python, there are no cases, or one is not of that form.
    """
    if info is None:
        return None
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except ValueError as error:
            raise _malformed(row, f"it is not JSON ({error})") from error
    if not isinstance(info, dict):
        raise _malformed(row, f"it is a {type(info).__name__}")
    if info.get("language") != "python":
        raise _malformed(row, f"its language is {info.get('language')!r}")
    cases = info.get("test_cases")
    if not isinstance(cases, list) or not cases:
        raise _malformed(row, "it has no list of test_cases" if not isinstance(cases, list) else "test_cases is empty")
    return [_case(case, row, number) for number, case in enumerate(cases, start=1)]


def _case(case: Any, row: int, number: int) -> Case:
    if not isinstance(case, dict) or "input" not in case or "output" not in case:
        raise _malformed(row, f"test case {number} has no input and output")
    given, expected, function = case["input"], case["output"], case.get("fn_name")
    kind = case.get("type") or ("function_call" if function else "stdin_stdout")
    if kind == "stdin_stdout" and not (isinstance(given, str) and isinstance(expected, str)):
        raise _malformed(row, f"test case {number}'s input and output are not both text")
    if kind == "stdin_stdout":
        return Case(None, given, expected)
    if kind != "function_call" or not isinstance(function, str):
        raise _malformed(row, f"test case {number} has type {kind!r} and fn_name {function!r}")
    try:
        if isinstance(given, str):
            arguments = [json.loads(line) for line in given.splitlines() if line.strip()]
            return Case(function, json.dumps(arguments), json.loads(expected))
        if isinstance(given, list):
            return Case(function, json.dumps(given), expected)
    except (TypeError, ValueError) as error:
        raise _malformed(row, f"test case {number}'s arguments or result are not JSON ({error})") from error
    raise _malformed(row, f"test case {number}'s arguments are a {type(given).__name__}")


def _malformed(row: int, problem: str) -> InputError:
    return InputError(
        f"verification_info of row {row} of the batch: {problem}; it must be, as a dict or JSON, "
        '{"language": "python", "test_cases": [{"input": text, "output": text}, …]}, with "fn_name" in a case that '
        "calls a function, or null where the row is not about code"
    )


# The program cannot know the mark, so what it prints is not taken for its result. It could find it out; that would gain
# nothing, since what decides is the value, which it does not know either.
_CALL = """
import json, sys, types, typing
arguments = json.load(sys.stdin)
sys.modules["solution"] = types.ModuleType("solution")
names = sys.modules["solution"].__dict__
names.update({{name: getattr(typing, name) for name in typing.__all__}})
exec(compile({program!r}, "solution.py", "exec"), names)
function = names[{function!r}] if {function!r} in names else getattr(names["Solution"](), {function!r})
result = json.dumps(function(*arguments))
sys.stdout.flush()
sys.__stdout__.write("\\n" + {mark!r} + result + "\\n")
"""


def run_case(program: str, case: Case, limits: Limits, comparison: Comparison = "lines") -> Outcome:
    """Whether the program passed the test: `passed`, `wrong` or `timeout`.

    A program passes with exit status 0 and the expected output. A function passes if it returns a value whose JSON
    equals the expected one, also where that is a list with the value as its only element; tuples equal lists. Names of
    `typing` are defined for it, it may be a method of a class `Solution`, and what the program prints does not count.
    """
    mark = secrets.token_hex(16)
    source = program
    if case.function is not None:
        source = _CALL.format(program=program, function=case.function, mark=mark)
    execution = run_program(source, case.given, limits)
    if execution.outcome == "timeout":
        return "timeout"
    if execution.outcome != "ok":
        return "wrong"
    if case.function is None:
        return "passed" if _COMPARISONS[comparison](execution.stdout, case.expected) else "wrong"
    _, found, answer = execution.stdout.rpartition("\n" + mark)
    try:
        result = json.loads(answer.split("\n")[0])
        return "passed" if found and case.expected in (result, [result]) else "wrong"
    except (ValueError, RecursionError):  # no result, or one nested to break the parser
        return "wrong"


class Result(NamedTuple):
    """A completion's reward with what is logged beside it."""

    reward: float | None
    verdict: str | None
    extracted: str | None
    rule: str | None


def _judge(program: str | None, outcomes: Sequence[Outcome], all_or_nothing: bool) -> Result:
    """The reward of one completion from the outcomes of its tests."""
    if program is None:
        return Result(0.0, "no_answer", None, "no code block")
    passed = outcomes.count("passed")
    failures = {outcome for outcome in outcomes if outcome not in ("passed", "skipped")}
    verdict = "correct" if not failures else "timeout" if failures == {"timeout"} else "wrong"
    rule = f"{passed} of {len(outcomes)} tests"
    if not all_or_nothing:
        return Result(passed / len(outcomes), verdict, program, rule)
    if not failures:
        return Result(1.0, verdict, program, rule)
    first = next(number for number, outcome in enumerate(outcomes, start=1) if outcome != "passed")
    return Result(0.0, outcomes[first - 1], program, f"failed test {first} of {len(outcomes)}")


def code(
    completions: list,
    verification_info: list,
    log_extra: Callable[[str, list], None] | None = None,
    *,
    compare: Comparison = "lines",
    all_or_nothing: bool = False,
    timeout_seconds: float = 5.0,
    memory_mb: int = 512,
    max_workers: int | None = None,
    **columns: Any,
) -> list[float | None]:
    """The fraction of its tests that each completion's program passes, in [0, 1].

    reward = passed / total, after open-r1's code_reward (huggingface/open-r1, src/open_r1/rewards.py), which runs
    programs at a provider; here each test is one run in a sandbox of this machine (`aapo.grading.sandbox`). The
    program is the completion's last block of Python (`extract_program`); without one the reward is 0.0. A test is
    failed by another output, an exit status other than 0, and every limit. None where `verification_info` is None.

    Logged: `verdict/code` is correct (all passed), no_answer (no block), timeout (tests timed out and none failed
    otherwise) or wrong, or with `all_or_nothing` timeout or wrong as the first failed test; `rule/code` is such as
    "3 of 5 tests" or, with `all_or_nothing`, "failed test 2 of 5"; `extracted/code` is the program.

    Args:
        completions: Texts, or lists of messages.
        verification_info: Per completion, its tests (see `parse_cases`).
        log_extra: TRL's function for columns beside the rewards.
        compare: `lines` compares all lines of the output, but for white space at their ends and empty last lines;
            `open_r1` compares as upstream does, where the first line alone passes (`equal_lines_open_r1`).
        all_or_nothing: Pay 1.0 if all tests pass, else 0.0, and leave out the tests after the first failed one.
        timeout_seconds: Wall-clock and processor seconds of one test, above 0.
        memory_mb: MiB of address space of one test, at least 64.
        max_workers: Tests run at a time, in threads, by this training process; None for its share of the processors.
            More than there are processors make programs time out.
        columns: The data set's other columns, not used.

    Raises:
        InputError: A setting or a row's verification_info is malformed, or this machine cannot isolate programs.
        AapoError: The sandbox failed while running.
    """
    _check_settings(compare, timeout_seconds, memory_mb, max_workers)
    cases = [parse_cases(info, row) for row, info in enumerate(verification_info)]
    require_sandbox()
    programs = [extract_program(completion_text(completion)) for completion in completions]
    limits = Limits(
        wall_seconds=timeout_seconds, cpu_seconds=math.ceil(timeout_seconds), memory_bytes=memory_mb * 2**20
    )
    outcomes = _run_all(programs, cases, limits, compare, all_or_nothing, max_workers)
    results = [
        _judge(program, ran, all_or_nothing) if tests is not None else Result(None, None, None, None)
        for program, tests, ran in zip(programs, cases, outcomes, strict=True)
    ]
    if log_extra is not None:
        log_extra("verdict/code", [result.verdict for result in results])
        log_extra("extracted/code", [result.extracted for result in results])
        log_extra("rule/code", [result.rule for result in results])
    return [result.reward for result in results]


def _run_all(
    programs: Sequence[str | None],
    cases: Sequence[Sequence[Case] | None],
    limits: Limits,
    comparison: Comparison,
    all_or_nothing: bool,
    max_workers: int | None,
) -> list[list[Outcome]]:
    """The outcomes of each program's tests.

    With `all_or_nothing` a test is skipped only after the failure of an earlier one, so that the first failure is the
    same however the threads run.
    """
    first_failures = [math.inf] * len(programs)

    def run(row: int, number: int, program: str, case: Case) -> Outcome:
        if all_or_nothing and first_failures[row] < number:
            return "skipped"
        outcome = run_case(program, case, limits, comparison)
        if outcome != "passed":
            first_failures[row] = min(first_failures[row], number)
        return outcome

    with ThreadPoolExecutor(max_workers or _share_of_processors(), thread_name_prefix="code") as executor:
        futures = [
            [executor.submit(run, row, number, program, case) for number, case in enumerate(tests)]
            if program is not None and tests is not None
            else []
            for row, (program, tests) in enumerate(zip(programs, cases, strict=True))
        ]
        try:
            return [[future.result() for future in row] for row in futures]
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _share_of_processors() -> int:
    """The processors that this process may use, divided among torchrun's processes on this machine; at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _check_settings(compare: str, timeout_seconds: float, memory_mb: int, max_workers: int | None) -> None:
    if compare not in _COMPARISONS:
        raise InputError(
            f"compare is {compare!r}{nearest(compare, _COMPARISONS)}; it must be {' or '.join(_COMPARISONS)}"
        )
    if not 0 < timeout_seconds < math.inf:
        raise InputError(f"timeout_seconds is {timeout_seconds}; it must be above 0, such as 5")
    if memory_mb < MIN_MEMORY_MB:
        raise InputError(f"memory_mb is {memory_mb}; it must be at least {MIN_MEMORY_MB}, such as 512")
    if max_workers is not None and max_workers < 1:
        raise InputError(f"max_workers is {max_workers}; it must be at least 1, or null for the number of processors")
