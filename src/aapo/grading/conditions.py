r"""Conditions behind an answer: `3n-2 \text{ for } n \ge 1`, `y = 2x, x > 0`, `x+C, where C is a constant`."""

import re

from aapo.grading.sides import symbols

_OPENING = r"(?:for|where|with|here|∀)"
_WORDS = re.compile(
    rf"(.*?)\s?[,;]?\s?[(\[]?\s?(?:\\text\s?\{{\s?[,;(]?\s?{_OPENING}\b(?P<said>[^{{}}]*)\}}(?P<after>.*)"
    rf"|(?<![a-zA-Z\\]){_OPENING}\s(?P<plain>.*)|\\forall(?![a-zA-Z])(?P<all>.*))",
    re.DOTALL,
)
_RELATION = r"(?:\\(?:in|notin|ge|le|ne)(?![a-zA-Z])|<|>)"
_BARE = re.compile(
    rf"(.*?)\s?(?:[,;]\s?\(?|\(|\[)\s?((?:[^,;()<>=]{{1,12}}(?:<|\\le(?![a-zA-Z]))\s?)?([a-zA-Z](?:_\w)?)\s?{_RELATION}[^,;=]*?)\s?[)\]]?",
    re.DOTALL,
)
_COUNTED = re.compile(r"(.*?)\s?[,;]?\s?\(?([a-z]\s?=\s?\d+\s?,[\d\s,]*\.{3}[\s\w,]*)\)?", re.DOTALL)
# Then each piece has a condition of its own.
_PIECES = re.compile(r"(?<![a-zA-Z])(?:for|if|when|otherwise|else)(?![a-zA-Z])")


def split_condition(text: str) -> tuple[str, str]:
    """A normalized answer with letters without the condition at its end, and that condition; empty without one."""
    if found := _WORDS.fullmatch(text):
        before, condition = found[1].strip(), "".join(part for part in found.groups()[1:] if part).strip(" )]")
        if _may_be_limited(before) and not _PIECES.search(condition):
            return before, condition
        return text, ""
    if (found := _COUNTED.fullmatch(text)) and _may_be_limited(found[1]):
        return found[1].strip(), found[2].strip()
    found = _BARE.fullmatch(text)
    if found and _may_be_limited(found[1]) and found[3] in symbols(found[1]):
        return found[1].strip(), found[2].strip()
    return text, ""


def _may_be_limited(text: str) -> bool:
    """Whether it is an equation or expression with letters, and no inequality, set or text."""
    if re.search(rf"{_RELATION}|\\text|\\begin", text) or text.count("(") != text.count(")"):
        return False
    return bool(symbols(text)) and not re.search("[a-zA-Z]{4}", re.sub(r"\\[a-zA-Z]+", "", text))
