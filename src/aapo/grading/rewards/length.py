"""Rewards for how long a completion is, and for how much of it repeats.

L is a completion's length. In tokens, the default, it is the number of ids that the trainer passes as
`completion_ids`, the end-of-sequence token included; in characters, the length of the text.
"""

import math
from builtins import len as size  # the reward function `len` takes the builtin's name in this module
from collections.abc import Sequence
from typing import Any, Literal, get_args

from aapo.errors import InputError
from aapo.grading.answers import Verdict
from aapo.grading.rewards.completions import completion_text
from aapo.grading.rewards.correctness import LogExtra, judge
from aapo.grading.rewards.parameters import check, check_number, check_word

LengthUnit = Literal["tokens", "characters"]
Group = Literal["prompt", "batch"]
NgramUnit = Literal["words", "tokens"]


def len(
    completions: list,
    answer: list[str],
    prompts: list | None = None,
    completion_ids: list[list[int]] | None = None,
    log_extra: LogExtra | None = None,
    *,
    length_unit: LengthUnit = "tokens",
    group: Group = "prompt",
    unparseable_gold: float | None = None,
    convention: str | None = None,
    unfinished_thoughts: bool = False,
    grader: str = "aapo",
    **columns: Any,
) -> list[float | None]:
    """A reward in [-0.5, 0.5] for being short among the completions of the same prompt.

    lambda = 0.5 - (L - min) / (max - min), with min and max over the group, right and wrong completions alike. A right
    answer gets lambda, any other min(0, lambda): the shortest right answer 0.5, the longest completion -0.5, a wrong
    answer never more than 0.

    A group whose lengths are all equal gets 0.0, so does a group of one. No answer and a comparison that hits its time
    limit count as wrong. A group is every completion whose prompt is equal, consecutive or not; without `prompts` all
    completions are one. Groups are those of one call, and a trainer on several processes makes one call on each: a
    group that is split over processes has a min and max in each part.

    Source: Kimi k1.5 (arXiv 2501.12599, length penalty). open-r1's `len_reward` takes min and max over the whole batch
    (`group="batch"`) and characters (`length_unit="characters"`), and treats an unparseable gold as a right answer.

    Args:
        completions: Texts or message lists.
        answer: Gold answers.
        prompts: Texts or message lists, compared for equality.
        completion_ids: Token ids of each completion; needed for `length_unit="tokens"`.
        log_extra: Receives the verdicts, as columns `verdict/len`, `extracted/len` and `rule/len`.
        length_unit: tokens or characters.
        group: prompt, or batch for one group of all completions.
        unparseable_gold: What a completion whose gold answer does not parse gets; None leaves it out. Its length
            counts in min and max.
        convention: Passed to the grader: where an answer stands.
        unfinished_thoughts: Likewise: whether an answer inside a <think> that never ends counts.
        grader: Which grader decides.
        columns: Not used.

    Raises:
        InputError: A parameter is none of the above, or tokens are wanted and `completion_ids` is missing.
    """
    check_word("group", group, get_args(Group))
    _check_unparseable(unparseable_gold)
    lengths = _lengths("len", completions, completion_ids, length_unit)
    options = {"convention": convention, "unfinished_thoughts": unfinished_thoughts, "grader": grader}
    verdicts = judge("len", completions, answer, log_extra, columns.get("prompt_opening"), **options)
    # A list of messages cannot be a key, but equal prompts print alike: they are copies of one row.
    keys = [""] * size(lengths) if group == "batch" or prompts is None else [repr(prompt) for prompt in prompts]
    groups: dict[str, list[int]] = {}
    for key, length in zip(keys, lengths, strict=True):
        groups.setdefault(key, []).append(length)
    ranges = {key: (min(members), max(members)) for key, members in groups.items()}

    def reward(verdict: Verdict, length: int, key: str) -> float | None:
        if verdict.outcome == "unparseable_gold":
            return unparseable_gold
        shortest, longest = ranges[key]
        if shortest == longest:
            return 0.0
        value = 0.5 - (length - shortest) / (longest - shortest)
        return value if verdict.outcome == "correct" else min(0.0, value)

    return [reward(*item) for item in zip(verdicts, lengths, keys, strict=True)]


def cosine(
    completions: list,
    answer: list[str],
    completion_ids: list[list[int]] | None = None,
    log_extra: LogExtra | None = None,
    *,
    max_len: int = 1000,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    length_unit: LengthUnit = "tokens",
    clamp: bool = True,
    unparseable_gold: float | None = None,
    convention: str | None = None,
    unfinished_thoughts: bool = False,
    grader: str = "aapo",
    **columns: Any,
) -> list[float | None]:
    """A reward for a right answer that falls with the length, and for a wrong one that rises with it.

    lo + (hi - lo) / 2 * (1 + cos(pi * L / max_len)), which goes from hi at L = 0 to lo at L = max_len. For a right
    answer lo and hi are `min_value_correct` and `max_value_correct`: 1.0 down to 0.5. For a wrong one they are swapped,
    lo = `max_value_wrong` and hi = `min_value_wrong`: -1.0 up to -0.5, so that a wrong answer gains by thinking longer.

    L is clamped at max_len: a longer completion gets what one of max_len gets. No answer and a comparison that hits its
    time limit count as wrong.

    Source: arXiv 2502.03373, appendix C.1, without its separate penalty for L = max_len. TRL's
    `get_cosine_scaled_reward` is the same. open-r1's measures characters (`length_unit="characters"`), does not clamp
    (`clamp=False`), so that it has period 2 * max_len: a right answer of 2000 or 4000 characters gets 1.0 and one of
    3000 gets 0.5, and pays 1.0 where the gold does not parse (`unparseable_gold=1.0`).

    Args:
        completions: Texts or message lists.
        answer: Gold answers.
        completion_ids: Token ids of each completion; needed for `length_unit="tokens"`.
        log_extra: Receives the verdicts, as columns `verdict/cosine`, `extracted/cosine` and `rule/cosine`.
        max_len: The length at which the reward stops changing; set it to the recipe's `max_completion_length`.
        min_value_wrong: Reward of a wrong answer of length 0.
        max_value_wrong: Reward of a wrong answer of length max_len.
        min_value_correct: Reward of a right answer of length max_len.
        max_value_correct: Reward of a right answer of length 0.
        length_unit: tokens or characters.
        clamp: False lets the cosine go on beyond max_len.
        unparseable_gold: What a completion whose gold answer does not parse gets; None leaves it out.
        convention: Passed to the grader: where an answer stands.
        unfinished_thoughts: Likewise: whether an answer inside a <think> that never ends counts.
        grader: Which grader decides.
        columns: Not used.

    Raises:
        InputError: A parameter is none of the above, min_value_correct is above max_value_correct, or tokens are
            wanted and `completion_ids` is missing.
    """
    check_number("max_len", max_len, 1000, lowest=1, whole=True)
    check_number("min_value_wrong", min_value_wrong, -1.0)
    check_number("max_value_wrong", max_value_wrong, -0.5)
    check_number("max_value_correct", max_value_correct, 1.0)
    # Published runs have the values for wrong answers the other way round, so only those for right ones are ordered.
    check_number("min_value_correct", min_value_correct, 0.5)
    allowed = f"<= max_value_correct, which is {max_value_correct!r}; swap them"
    check("min_value_correct", min_value_correct, min_value_correct <= max_value_correct, allowed)
    check_word("clamp", clamp, (True, False))
    _check_unparseable(unparseable_gold)
    lengths = _lengths("cosine", completions, completion_ids, length_unit)
    options = {"convention": convention, "unfinished_thoughts": unfinished_thoughts, "grader": grader}
    verdicts = judge("cosine", completions, answer, log_extra, columns.get("prompt_opening"), **options)

    def reward(verdict: Verdict, length: int) -> float | None:
        if verdict.outcome == "unparseable_gold":
            return unparseable_gold
        correct = verdict.outcome == "correct"
        low, high = (min_value_correct, max_value_correct) if correct else (max_value_wrong, min_value_wrong)
        progress = length / max_len
        return low + (high - low) / 2 * (1 + math.cos(math.pi * (min(progress, 1.0) if clamp else progress)))

    return [reward(*item) for item in zip(verdicts, lengths, strict=True)]


def repetition_penalty(
    completions: list,
    completion_ids: list[list[int]] | None = None,
    *,
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    unit: NgramUnit = "words",
    **columns: Any,
) -> list[float]:
    """A penalty in [max_penalty, 0] for the share of n-grams that repeat an earlier one.

    (1 - unique / total) * max_penalty, where total = N - ngram_size + 1 n-grams overlap in a completion of N words or
    tokens and `unique` of them differ. A completion shorter than one n-gram gets 0.0.

    Source: after arXiv 2502.03373, appendix C.2, which instead penalises each token of a repeated n-gram by itself;
    one number a completion is open-r1's and TRL's `get_repetition_penalty_reward`. open-r1 takes lower-cased words
    between white space, as here, and TRL token ids (`unit="tokens"`).

    Args:
        completions: Texts or message lists.
        completion_ids: Token ids of each completion; needed for `unit="tokens"`.
        ngram_size: n.
        max_penalty: What a completion of nothing but repetitions comes near to.
        unit: words or tokens.
        columns: Not used.

    Raises:
        InputError: A parameter is none of the above, or tokens are wanted and `completion_ids` is missing.
    """
    check_number("ngram_size", ngram_size, 3, lowest=1, whole=True)
    check_number("max_penalty", max_penalty, -1.0, highest=0)
    check_word("unit", unit, get_args(NgramUnit))
    if unit == "words":
        sequences: Sequence[Sequence] = [completion_text(completion).lower().split() for completion in completions]
    else:
        sequences = _token_ids("repetition_penalty", completion_ids, "set unit to words")

    def reward(items: Sequence) -> float:
        total = size(items) - ngram_size + 1
        unique = size(set(zip(*(items[start:] for start in range(ngram_size)), strict=False)))
        # Without an n-gram, unique is 0 and total is not above it.
        return (1 - unique / total) * max_penalty if unique < total else 0.0

    return [reward(items) for items in sequences]


def soft_overlong(
    completions: list,
    completion_ids: list[list[int]] | None = None,
    *,
    max_completion_len: int = 20480,
    soft_punish_cache: int = 4096,
    **columns: Any,
) -> list[float]:
    """A penalty in [-1, 0] that grows over the last tokens before the length limit.

    0 for L <= max_completion_len - soft_punish_cache; ((max_completion_len - soft_punish_cache) - L) /
    soft_punish_cache up to max_completion_len, where it is -1; -1 beyond. With soft_punish_cache 0 it is 0 up to
    max_completion_len and -1 beyond. L is in tokens.

    A completion that the trainer truncates has as many tokens as the recipe's `max_completion_length`: set
    max_completion_len to that, or a shorter limit is never felt.

    Source: DAPO (arXiv 2503.14476, equation 13) and its values, 16384 + 4096; TRL's `get_soft_overlong_punishment` is
    the same and has no defaults; open-r1's script passes 16384 and 4096.

    Args:
        completions: Not used.
        completion_ids: Token ids of each completion.
        max_completion_len: Length from which the penalty is -1.
        soft_punish_cache: How many tokens before that the penalty begins.
        columns: Not used.

    Raises:
        InputError: A parameter is out of range or `completion_ids` is missing.
    """
    check_number("max_completion_len", max_completion_len, 20480, lowest=1, whole=True)
    check_number("soft_punish_cache", soft_punish_cache, 4096, lowest=0, whole=True)
    allowed = f"<= max_completion_len, which is {max_completion_len}"
    check("soft_punish_cache", soft_punish_cache, soft_punish_cache <= max_completion_len, allowed)
    free = max_completion_len - soft_punish_cache

    def reward(length: int) -> float:
        if length <= free:
            return 0.0
        return -1.0 if length > max_completion_len else (free - length) / soft_punish_cache

    return [reward(size(ids)) for ids in _token_ids("soft_overlong", completion_ids)]


def _lengths(
    reward: str, completions: Sequence, completion_ids: list[list[int]] | None, length_unit: LengthUnit
) -> list[int]:
    """L of each completion."""
    check_word("length_unit", length_unit, get_args(LengthUnit))
    if length_unit == "characters":
        return [size(completion_text(completion)) for completion in completions]
    return [size(ids) for ids in _token_ids(reward, completion_ids, "set length_unit to characters")]


def _token_ids(reward: str, completion_ids: list[list[int]] | None, instead: str = "") -> list[list[int]]:
    if completion_ids is None:
        fix = " or ".join(["pass them, as the trainer does", *filter(None, [instead])])
        raise InputError(f"reward {reward!r} got no completion_ids; it needs a list of token ids a completion: {fix}")
    return completion_ids


def _check_unparseable(value: object) -> None:
    if value is not None:
        check_number("unparseable_gold", value, "0.0, or left out")
