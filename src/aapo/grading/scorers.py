"""reasoning-gym's own scorers, and which of them may see an answer in the trainer's process.

Some of them evaluate the answer, or the data set's entry, as Python; others may run for hours or fill the memory on a
short one. Those run in an isolated process (`aapo.grading.isolation`), with every scorer that nobody has read.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from aapo.errors import InputError, nearest
from aapo.grading import isolation

# The release whose scorers were read. Of another one every task is isolated, and may evaluate answers.
READ_VERSION = "0.1.25"
# They evaluate nothing, neither answer nor entry, and their time and memory grow like the answer's length; the tests
# attack every one.
IN_PROCESS = frozenset((
    "ab", "acre", "advanced_geometry", "aiw", "arc_1d", "arc_agi", "base_conversion", "basic_arithmetic", "bf",
    "binary_alternation", "caesar_cipher", "calendar_arithmetic", "chain_sum", "circuit_logic", "color_cube_rotation",
    "count_bits", "count_primes", "course_schedule", "cryptarithm", "decimal_arithmetic", "decimal_chain_sum", "dice",
    "emoji_mystery", "family_relationships", "figlet_font", "fraction_simplification", "futoshiki", "game_of_life",
    "game_of_life_halting", "gcd", "graph_color", "group_anagrams", "gsm_symbolic", "isomorphic_strings", "jugs",
    "kakurasu", "knight_swap", "knights_knaves", "largest_island", "lcm", "leg_counting", "letter_counting",
    "letter_jumble", "list_functions", "mahjong_puzzle", "manipulate_matrix", "maze", "mini_sudoku", "modulo_grid",
    "needle_haystack", "number_filtering", "number_format", "number_sequence", "palindrome_generation",
    "palindrome_partitioning", "path_star", "polynomial_equations", "products", "ransom_note", "rearc",
    "rectangle_count", "rotate_matrix", "rotten_oranges", "self_reference", "sentence_reordering", "shortest_path",
    "simple_equations", "simple_geometry", "spell_backward", "string_manipulation", "string_splitting",
    "string_synthesis", "sudoku", "survo", "syllogism", "time_intervals", "tower_of_hanoi", "tsumego", "word_ladder",
    "word_sequence_reversal", "word_sorting", "zebra_puzzles",
))  # fmt: skip

# They evaluate nothing either, but a short answer can make them run for hours, or fill the memory.
COSTLY = frozenset((
    "boxnet", "codeio", "coin_flip", "complex_arithmetic", "pool_matrix", "power_function", "prime_factorization",
    "propositional_logic", "quantum_lock", "rubiks_cube", "rush_hour", "sokoban",
))  # fmt: skip


class Question(NamedTuple):
    """A model's answer to a generated task, with the entry that the task's scorer needs, as JSON."""

    task: str
    answer: str
    entry: str


def is_isolated(task: str) -> bool:
    """Whether a task's scorer sees answers in an isolated process only."""
    return task not in IN_PROCESS or not _was_read()


def may_evaluate(task: str) -> bool:
    """Whether a task's scorer may run an answer, as far as is known."""
    return task not in IN_PROCESS | COSTLY or not _was_read()


@cache
def _was_read() -> bool:
    return version("reasoning-gym") == READ_VERSION


def require_scorers(tasks: Iterable[str]) -> None:
    """Nothing, where the answers to all these tasks can be scored on this machine.

    Raises:
        InputError: A task's scorer must be isolated, and cannot be here.
    """
    isolated = sorted({task for task in tasks if is_isolated(task)})
    if isolated and (reason := isolation.refusal()) is not None:
        known = set(isolated) <= IN_PROCESS
        fix = f"install reasoning-gym=={READ_VERSION}" if known else "choose another task, such as chain_sum"
        raise InputError(
            f"the scorer of reasoning_gym:{isolated[0]} could run code from an answer, so it is isolated, and this "
            f"machine cannot do that ({reason}); {fix}, or use Linux on x86_64 or aarch64 with seccomp"
        )


def score_answers(questions: Sequence[Question]) -> list[float | None]:
    """Each answer's score by its task's own scorer.

    None where that hit the time or memory limit, NaN where it raised, which scorers do on answers they cannot read.

    Raises:
        InputError: A task is unknown, or must be isolated and cannot be here.
        AapoError: The isolated processes failed.
    """
    require_scorers(question.task for question in questions)
    apart = [question for question in questions if is_isolated(question.task)]
    scored = iter(isolation.call(apart))
    return [next(scored) if is_isolated(question.task) else score_here(*question) for question in questions]


def score_here(task: str, answer: str, entry: str) -> float:
    """An answer's score by its task's own scorer, in this process; NaN where that raises.

    Raises:
        MemoryError: There is not enough, which says nothing about the answer.
    """
    own, read = scorer(task), json.loads(entry)
    try:
        return float(own.score_answer(answer, read))
    except MemoryError:
        raise
    except Exception:  # scorers raise anything on what they cannot read, and the run must not end by it
        return math.nan


@cache
def scorer(task: str) -> Any:
    """The reasoning-gym data set that scores a task.

    Raises:
        InputError: There is no such task, or it cannot be made without settings.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise InputError(f"reasoning-gym has no task {task!r}{nearest(task, DATASETS)}")
    try:
        return reasoning_gym.create_dataset(task, size=1, seed=0)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"reasoning-gym's task {task} cannot score without settings: {error}") from error
