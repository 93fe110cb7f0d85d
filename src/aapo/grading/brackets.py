r"""Text taken apart where it stands in no brackets, those of LaTeX included."""

import re

_DEPTH = re.compile(r"\\begin\{|\\end\{|\\\\|\\[{}]|\\.|[()\[\]{}]|.", re.DOTALL)


def split(text: str, separators: str) -> list[str]:
    r"""The parts of `text` between separators that stand in no brackets; all of it where there is none.

    Args:
        text: LaTeX; an environment from \begin to \end counts as a bracket.
        separators: Single characters, each of which separates.
    """
    parts, start, depth = [], 0, 0
    for token in _DEPTH.finditer(text):
        found = token.group()
        if found in ("(", "[", "{", r"\{", r"\begin{"):
            depth += 1 + (found == r"\begin{")
        elif found in (")", "]", "}", r"\}"):
            depth -= 1
        elif depth == 0 and found in separators and len(found) == 1:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def closes_at_end(text: str) -> bool:
    r"""Whether the bracket that `text` begins with is closed by its last token only.

    Kinds of brackets are not told apart, as in the interval [0, 1). Without a bracket at the beginning it is whether
    `text` is a single token.
    """
    depth = 0
    for token in _DEPTH.finditer(text):
        found = token.group()
        depth += (found in ("(", "[", r"\{", "{")) - (found in (")", "]", r"\}", "}"))
        if depth == 0:
            return token.end() == len(text)
    return False
