r"""Words told from mathematics, and folded for comparison."""

import re

# Runs of letters that are mathematics, not words.
_FUNCTIONS = frozenset(
    {"sqrt", "frac", "floor", "ceil", "sinh", "cosh", "tanh", "coth"}
    | {"arcsin", "arccos", "arctan", "asin", "acos", "atan"}
    | {"cases", "matrix", "pmatrix", "bmatrix", "vmatrix", "array"}
)
_WORD = re.compile(r"(?<![\\a-zA-Z{])(?:[a-zA-Z]{4,}|(?:[A-Z][a-z]{2}|(?i:yes|no|on|odd|dne|all))(?![a-zA-Z]))")
# Words that may be as short as a product of letters.
_SHORT_WORDS = frozenset(
    {"yes", "no", "on", "off", "odd", "even", "all", "none", "one", "two", "six", "ten", "zero", "true", "false", "dne"}
    | {"am", "pm", "or", "and", "not", "i", "ii", "iii", "iv", "v"}
)
# A run of this many letters is a word.
MIN_WORD = 5
_CASES_OF_WORDS = re.compile("[a-z]+|[A-Z][a-z]+|[A-Z]+")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_PUNCTUATION = re.compile(r"[\s,;!?'\"{}$\\_*]+|-(?!\d)|(?<!\d)\.(?!\d)|(?<=\d)\.(?!\d)")


def is_words(text: str) -> bool:
    r"""Whether a text holds a word: two letters in a row in \text{}, all of it in \text{}, or letters that are one."""
    if any(re.search(r"[a-zA-Z]{2}", part) for part in _TEXT.findall(text)):
        return True
    if _TEXT.fullmatch(text):
        return True
    rest = _TEXT.sub("", text)
    return any(_is_word(word.group()) for word in _WORD.finditer(rest))


def _is_word(letters: str) -> bool:
    """Whether letters in a row are a word rather than a product such as mgh, PQRS or abcd."""
    lower = letters.lower()
    if lower in _SHORT_WORDS:
        return True
    if lower in _FUNCTIONS or "".join(sorted(lower)) in _ALPHABET or not set(lower) - set("uvwxyz"):
        return False
    return re.search("[aeiouy]", lower) is not None and _CASES_OF_WORDS.fullmatch(letters) is not None


def may_be_letters(text: str) -> bool:
    r"""Whether a text may be a product of letters, though it was read as words: no run of five letters, no \text{}."""
    words = re.findall("[a-zA-Z]+", _TEXT.sub(r"\1", text))
    if any(len(part.strip()) > 1 for part in _TEXT.findall(text)):
        return False
    return all(len(word) < MIN_WORD and word.lower() not in _SHORT_WORDS for word in words)


def fold(text: str, *, case: bool = False) -> str:
    r"""Text without \text{}, case, spaces and the punctuation that is no part of a number, for comparing words.

    Args:
        text: Words.
        case: Whether case is kept.
    """
    text = _PUNCTUATION.sub("", _TEXT.sub(r"\1", text))
    return text if case else text.casefold()
