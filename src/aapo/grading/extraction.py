r"""Where a completion gives its final answer.

Every search here is linear in the length of the text: completions of hundreds of kilobytes, also hostile ones such as
50,000 unclosed \boxed{, cost milliseconds.
"""

import re
from typing import Literal, NamedTuple

Convention = Literal["choice", "hashes", "final_answer"]
CONVENTIONS: tuple[Convention, ...] = ("choice", "hashes", "final_answer")

_BARE = r"-?\d[\d.,]*\d|-?\d|\\frac(?:\d{2}|(?:\{[^{}]{1,40}\}){2})|[a-zA-Z](?![a-zA-Z])"
_BOX_TOKENS = re.compile(
    r"(?P<box>\\(?:boxed|fbox)[ \t]{0,8}\{)"
    rf"|\\(?:boxed|fbox)(?:[ \t]{{1,8}}|(?=[\d\\-]))(?P<bare>{_BARE})|\\.|[{{}}]",
    re.DOTALL,
)
# Between boxes of one sentence there is less text than this.
MAX_BETWEEN = 200
MAX_NAME = 40
# After "answer is" it stands in so many characters.
MAX_STATED = 4000
_SPACES = re.compile(r"\s*")
_ENDED = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_CORRECTED = re.compile(
    r"(?i)\b(?:wait|no|not|instead|rather|actually|sorry|oops|hmm|mistake|correct(?:ion|ed)|wrong|should be|i mean)\b"
)
_CONCLUDED = re.compile(
    r"(?i)\b(?:so|hence|thus|therefore|giving|gives|which|implies|because|since|then|making|leading|first|finally|last)\b"
    r"|Rightarrow|implies"
)
_JOINED = re.compile(r"(?i)\b(?:and|or)\b")
_JOINT = re.compile(
    r"(?:[\s$,;/|&]|\\q?quad|\\[,;:! ]|\\[()\[\]]|\\text\s?\{\s*,?\s*(?:and|or)\s*\}|(?:and|or|either|both|else)\b)*",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"(?is).{0,30}\bor\b.{0,30}")
_ASSIGNMENT = re.compile(r"(?<![\\a-zA-Z])([a-zA-Z](?:_\s?\w|_\s?\{\w{1,9}\})?'{0,2}|\\[a-z]{2,7})\s?=\s?\$?\s?$")
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\}")
_TAGS = re.compile(r"</?answer>")
# A capital I before a small word is the pronoun. Several letters are several answers.
_COMMAND = r"(?:text|textbf|mathrm|mathbf)"
_CALLED = r"\banswer(?: is)?|\b(?:correct|right) (?:option|choice) is"
_OPTION = r"(?:(?i:the )?(?i:correct )?(?i:option|choice|letter)[^\w\n]{1,6})?"
_CHOICE = re.compile(
    rf"(?i:{_CALLED})[^\w\n]{{0,12}}(?:{_COMMAND}[^\w\n]{{1,3}})?{_OPTION}"
    r"((?:[A-HJ]|I(?!\s{1,4}[a-z]))\b(?!['’])(?:[\s,/]{1,4}(?:(?:and|or)\s{1,4})?[A-J]\b){0,9})"
    r"|\b(?i:option|choice) \(?([A-J])\)? (?i:is (?:the )?(?:correct|right))\b"
    r"|(?i:\banswer(?: is|:)) \(?([a-j])\)?\.?[ \t]*$",
    re.MULTILINE,
)
_IS = r"(?:is|are|would be|must be|equals)\b(?:\s(?:therefore|thus|then|simply|just)\b)?[ \t]{0,8}:?"
_PHRASE = re.compile(
    rf"(?i:\banswers?\b[ \t*_]{{0,8}}(?:{_IS}|:|=))"
    r"|^[ \t]{0,3}(?:#{1,6}[ \t]*(?i:final )?(?i:answer)|\*\*(?i:final )?(?i:answer)\*\*)[ \t]*$",
    re.MULTILINE,
)
_REASON = re.compile(r"[,;]?\s\(?(?:because|since|which|as required|as desired)\b")
_AFTER_FORMULA = re.compile(r"\s{0,4}(?:[a-zA-Z]{1,20}(?:\s[a-zA-Z]{1,20}){0,3}|\\?%)(?=\s{0,4}(?:[.,;!]|$))")
_RECORD = re.compile(r"\s*\{\s*(?:\"[^\"]*\"|'[^']*')\s*:")
# Behind the letter there may be its option's text, but no other letter.
_OTHER_LETTER = r"(?!.*(?:[\s,;]|\b(?:or|and) )[A-J]\b\s?(?:[).:-]|$))(?!-?\s?[A-J]$)"
_LETTER = re.compile(
    rf"[\s$*]{{0,8}}(?:\\{_COMMAND}\{{)?\s{{0,8}}"
    r"(?:(?i:the )?(?i:correct )?(?i:option|choice|answer)(?i: is)?:?\s{1,4})?[*$]{0,4}\(?\s{0,8}([A-J])\s{0,8}"
    rf"(?:[).}}:$*\s]{{0,8}}|(?:[).:}}*]{{1,3}}|\s?[-–—]{{1,2}})\s{_OTHER_LETTER}.*)",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)")


class Box(NamedTuple):
    """Where a box stands, and where its contents do."""

    start: int
    content_start: int
    content_end: int
    end: int


def _boxes(text: str) -> list[Box]:
    r"""The boxes that close and are not empty: \boxed{…}, \fbox{…} and \boxed 9.

    Escaped braces such as those of \{1, 2\} are text.
    """
    found: list[Box] = []
    open_braces: list[re.Match[str] | None] = []  # None for a brace that is no box's
    for token in _BOX_TOKENS.finditer(text):
        if token.group() == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None and not _SPACES.fullmatch(text, box.end(), token.start()):
                found.append(Box(box.start(), box.end(), token.start(), token.end()))
        elif token["bare"]:
            found.append(Box(token.start(), token.start("bare"), token.end(), token.end()))
        elif token.group() == "{":
            open_braces.append(None)
        elif token["box"]:
            open_braces.append(token)
    return found


def last_boxed(text: str, *, is_gold: bool = False, wanted: int = 1) -> str | None:
    r"""The contents of the last box whose braces balance and that is not empty, or of several as a list; or None.

    Several count together where nothing but commas, `and` or `or` parts them, and where they stand in one sentence and
    are as many as wanted; those of a gold answer in one sentence, unless it draws one from the other. An assignment in
    front of a box goes with it: `x = \boxed{2}` is `x = 2`.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    last = max(boxes, key=lambda box: box.content_start)
    only = text[last.content_start : last.content_end].strip()
    outer = _outermost(boxes)
    if len(outer) < 2 or outer[-1].end < last.end:
        return only
    sentence, joined = 1, 1
    for one, other in zip(outer[-2::-1], outer[:0:-1], strict=True):
        between = text[one.end : min(other.start, one.end + MAX_BETWEEN + 1)]
        if len(between) > MAX_BETWEEN or _ENDED.search(between) or _CORRECTED.search(between):
            break
        joint = (_JOINT.fullmatch(_assigned(between)[0]) or _ALTERNATIVE.fullmatch(between)) is not None
        if is_gold and not joint and (_CONCLUDED.search(between) or not _JOINED.search(between)):
            break
        sentence += 1
        joined += joint and joined == sentence - 1
    answers = [
        _assigned(text[max(0, box.start - MAX_NAME) : box.start])[1] + text[box.content_start : box.content_end].strip()
        for box in outer[-(sentence if is_gold or sentence == wanted else joined) :]
    ]
    return ", ".join(answers) if len(set(answers)) > 1 else only


def _outermost(boxes: list[Box]) -> list[Box]:
    """Those that stand in no other, in their order."""
    outer: list[Box] = []
    for box in sorted(boxes):
        if not outer or box.start >= outer[-1].end:
            outer.append(box)
    return outer


def _assigned(before: str) -> tuple[str, str]:
    """The text before a box without the assignment at its end, and that assignment."""
    found = _ASSIGNMENT.search(before)
    return (before[: found.start()], f"{found[1]} = ") if found else (before, "")


def last_tagged(text: str) -> str | None:
    """The contents of the last <answer>…</answer> that is not empty, or None; of several as of several boxes."""
    found, start, end = None, None, 0
    for tag in _TAGS.finditer(text):
        if tag.group() == "<answer>":
            start = tag.end()
        elif start is not None:
            if content := text[start : tag.start()].strip():
                between = text[end : start - len("<answer>")]
                joined = (
                    found is not None and found != content and len(between) < MAX_BETWEEN and _JOINT.fullmatch(between)
                )
                found, end = f"{found}, {content}" if joined and "\n" not in between else content, tag.end()
            start = None
    return found


def choice_letter(text: str, *, any_case: bool = False) -> str | None:
    """The letter A-J that a short text such as `(C)`, `C.`, `Option C` or `C) 42` stands for, or None.

    Args:
        text: An answer.
        any_case: Whether a small letter counts, too.
    """
    found = _LETTER.fullmatch(text.strip().upper() if any_case and len(text.strip(" ().")) == 1 else text)
    return found[1] if found else None


def after_hashes(text: str) -> str | None:
    """What follows the last #### on its line, as in GSM8K's solutions, or None."""
    start = text.rfind("####")
    if start < 0:
        return None
    return text[start + 4 :].lstrip("# \t").partition("\n")[0].strip() or None


def final_answer(text: str) -> str | None:
    """What follows the last "answer is" or "Answer:" in its sentence or display, or None.

    Without "I hope it is correct", reasons and emphasis.
    """
    for phrase in reversed(list(_PHRASE.finditer(text))):
        rest = text[phrase.end() : phrase.end() + MAX_STATED].lstrip("*_: \t").lstrip()
        if found := _stated(rest):
            return found
    return None


def _stated(rest: str) -> str | None:
    """The answer that a text begins with: a display, an inline formula, or words up to the end of the sentence."""
    for opening, closing in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)")):
        if rest.startswith(opening) and (close := rest.find(closing, 2)) > 0:
            return rest[2:close].strip(" \t\n.") or None
    line = _REASON.split(rest.partition("\n")[0].partition("I hope")[0])[0].strip()
    if line.startswith("$") and (close := line.find("$", 1)) > 0:
        unit = _AFTER_FORMULA.match(line, close + 1)
        return (line[1:close].strip() + (unit[0] if unit else "")) or None
    return _SENTENCE_END.split(line)[0].strip("*_ ") or None


def extract_answer(
    completion: str, convention: Convention | None = None, *, wanted: int = 1, unfinished_thoughts: bool = False
) -> str | None:
    r"""The final answer of a completion, or None.

    It is the first that is there of: the last \boxed{}, the last <answer>…</answer>, what the convention says; looked
    for after the last </think>, then in all of the completion. A thought that never ends is left out of both.

    Args:
        completion: All that the model wrote.
        convention: `choice`, the letter after "Answer:" or "answer is" (a box or tag counts if it holds a letter);
            `hashes`, what follows the last ####; `final_answer`, what follows the last "answer is" or "Answer:".
        wanted: The number of answers that are looked for: so many boxes in one sentence are a list.
        unfinished_thoughts: Whether an answer inside a thought that never ends counts.
    """
    after_thinking = completion.rpartition("</think>")[2]
    if not unfinished_thoughts and (opened := after_thinking.find("<think>")) >= 0:
        completion = completion[: len(completion) - len(after_thinking) + opened]
        after_thinking = after_thinking[:opened]
    found = _extract(after_thinking, convention, wanted)
    if found is not None or len(after_thinking) == len(completion):
        return found
    return _extract(completion, convention, wanted)


def _extract(text: str, convention: Convention | None, wanted: int) -> str | None:
    boxed = last_boxed(text, wanted=wanted)
    found = last_tagged(text if boxed is None else boxed) or boxed
    if convention == "choice":
        letter = choice_letter(found, any_case=True) if found is not None else None
        if letter is None:
            letters = [found[1] or found[2] or found[3].upper() for found in _CHOICE.finditer(text)]
            letter = letters[-1] if letters else None
        return letter or found
    if found is not None or convention is None:
        return found
    return after_hashes(text) if convention == "hashes" else final_answer(text)


def gold_answer(gold: str) -> str:
    """The answer in a gold text.

    It is that of its last box or boxes, else what follows its last ####, else what its last <answer> tag holds, else
    what follows its last "answer is" or "Answer:", else all of it. Empty where the box or the place after #### is, and
    for a record stored as text, such as {"answer": 5}.
    """
    boxed = last_boxed(gold, is_gold=True)
    if boxed is not None:
        return boxed
    if "####" in gold:
        return after_hashes(gold) or ""
    if _EMPTY_BOX.search(gold) or _RECORD.match(gold):
        return ""
    return last_tagged(gold) or (final_answer(gold) if _PHRASE.search(gold) else None) or gold.strip()
