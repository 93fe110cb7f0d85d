"""Rewards for how a completion is written, whatever its answer.

A tag is exact text: `<Think>` and `< think>` are none.
"""

import re
from typing import Any, Literal, get_args

from aapo.grading.rewards.completions import completion_text, whole_turns
from aapo.grading.rewards.parameters import check_word

Style = Literal["think_answer", "think", "closing_line"]

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_STRICT_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_CLOSING_LINE = "\n</think>\n"
_STEP_PATTERN = r"Step \d+:|^\d+\.|\n[-*]|(?:First|Second|Next|Finally),"
_STEP = re.compile(_STEP_PATTERN)
_STEP_MULTILINE = re.compile(_STEP_PATTERN, re.MULTILINE)


def format(
    completions: list, prompt_opening: list[str] | None = None, *, style: Style = "think_answer", **columns: Any
) -> list[float]:
    r"""1.0 where a completion has the format that `style` names, else 0.0.

    - `think_answer`: <think>…</think> then <answer>…</answer>. Each of the four tags occurs once, in this order, and
      nothing but white space stands before, between and after the blocks. Blocks may be empty.
    - `think`: <think>…</think> then an answer text. Both tags occur once, nothing but white space stands before
      <think>, and something other than white space after </think>. <answer> tags are text like any other.
    - `closing_line`: the line </think> occurs once, between two newlines: `"\n</think>\n"` counts 1, as Python's
      `str.count` does, so that of two such lines that share a newline the second is not seen. Nothing else is looked
      at: <think> may be missing, since the chat template of a reasoning model ends the prompt with it, and so may the
      answer.

    Tags that the prompt holds count: where the chat template or a prefill opens <think>, the completion goes on from
    it. An empty completion gets 0.0 in every style.

    Source: `think_answer` is open-r1's format reward, which also requires newlines around every tag, but accepts tags
    within the blocks; `think` is TRL's `think_format_reward`, which also accepts an empty answer and a second </think>;
    `closing_line` is open-rs's, exactly.

    Args:
        completions: Texts or message lists.
        prompt_opening: Of each, what the prompt holds from the first <think> of the assistant's turn.
        style: think_answer, think or closing_line.
        columns: Not used.

    Raises:
        InputError: `style` is none of these.
    """
    check_word("style", style, get_args(Style))
    fits = {"think_answer": _is_think_answer, "think": _is_think, "closing_line": _has_closing_line}[style]
    return [float(fits(text)) for text in whole_turns(completions, prompt_opening)]


def _is_think_answer(text: str) -> bool:
    text = text.strip()
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    after_thought = text.partition("</think>")[2]
    return text.startswith("<think>") and after_thought.lstrip().startswith("<answer>") and text.endswith("</answer>")


def _is_think(text: str) -> bool:
    text = text.strip()
    if text.count("<think>") != 1 or text.count("</think>") != 1:
        return False
    return text.startswith("<think>") and not text.endswith("</think>")


def _has_closing_line(text: str) -> bool:
    return text.count(_CLOSING_LINE) == 1


def tag_count(
    completions: list, prompt_opening: list[str] | None = None, *, strict_newlines: bool = False, **columns: Any
) -> list[float]:
    r"""The share of <think>, </think>, <answer> and </answer> that occur exactly once: 0, 0.25, 0.5, 0.75 or 1.

    A tag that is missing or repeated counts nothing. Order is not looked at. Tags that the prompt holds count.

    Source: open-r1's `tag_count_reward`. It counts `"<think>\n"`, `"\n</think>\n"`, `"\n<answer>\n"` and
    `"\n</answer>"`, so that a space beside a tag loses a quarter and a repeated tag without newlines costs nothing; so
    does `strict_newlines=True` here. open-rs's counts the first two of these only.

    Args:
        completions: Texts or message lists.
        prompt_opening: Of each, what the prompt holds from the first <think> of the assistant's turn.
        strict_newlines: Count as open-r1 does.
        columns: Not used.

    Raises:
        InputError: `strict_newlines` is neither True nor False.
    """
    check_word("strict_newlines", strict_newlines, (True, False))
    tags = _STRICT_TAGS if strict_newlines else _TAGS
    texts = whole_turns(completions, prompt_opening)
    return [sum(text.count(tag) == 1 for tag in tags) / len(tags) for text in texts]


def reasoning_steps(completions: list, *, multiline: bool = True, **columns: Any) -> list[float]:
    r"""min(1, m / 3) of a completion with m step markers: 0, 1/3, 2/3 or 1.

    A marker is `Step 1:` (any number) anywhere; `1.` (any number) at the start of a line; `-` or `*` after a newline;
    `First,`, `Second,`, `Next,` or `Finally,` anywhere. A bullet on the very first line is none, nor is an indented
    one; a line that starts with `---` or `-5` is one.

    Source: open-r1's `reasoning_steps_reward`, whose pattern lacks MULTILINE, so that it sees a numbered line only at
    the start of the text; so does `multiline=False` here.

    Args:
        completions: Texts or message lists.
        multiline: Count numbered lines anywhere, not at the start of the text only.
        columns: Not used.

    Raises:
        InputError: `multiline` is neither True nor False.
    """
    check_word("multiline", multiline, (True, False))
    step = _STEP_MULTILINE if multiline else _STEP
    return [min(1.0, len(step.findall(completion_text(completion))) / 3) for completion in completions]
