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
# So many phrases are looked at, from the last on.
MAX_PHRASES = 50
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
# A thought, as models and their templates mark it.
_THOUGHT = re.compile(
    r"<(?P<close>/?)(?:think(?:ing)?|thought|reasoning)>|<\|(?:begin|(?P<end>end))_of_thought\|>", re.IGNORECASE
)
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
    r"|(?i:\banswer(?: is|:)) \(?([a-j])\)?\.?[ \t]*$"
    r"|(?i:\banswer(?: is)?)[:：*_ \t]{0,6}\n\s{0,4}[^\w\n]{0,6}([A-J])[^\w\n]{0,6}$",
    re.MULTILINE,
)
_IS = (
    r"(?:is|are|(?:would|must|should|will) be|equals|(?:comes|turns) out to(?: be)?)\b"
    r"(?:\s(?:therefore|thus|then|simply|just)\b)?[ \t]{0,8}[:：]?"
)
_ABOUT = r"(?:[ \t](?:to|of|for)\b[^.:：\n]{0,60}?[ \t])?"
_PHRASE = re.compile(
    rf"(?i:(?<![a-zA-Z])answers?(?![a-zA-Z])(?:[ \t*_]{{0,8}}|{_ABOUT})(?:{_IS}|[:：=]))"
    r"|^[ \t]{0,3}(?:#{1,6}[ \t]*(?i:final )?(?i:answer)|\*\*(?i:final )?(?i:answer)\*\*)[ \t]*$"
    r"|答案(?:应该|应)?(?:是|为|[:：])[:：]?",
    re.MULTILINE,
)
_EMPHASIS = re.compile(r"(?:[*_:：\s]|</?(?:b|strong|i|em|u)>){0,40}")
# What is said of an answer and is none: "I hope this answer is correct".
_JUDGED = re.compile(
    r"(?i)(?:(?:not|also|indeed|now|quite) )?(?:(?:in)?correct|right|wrong|clear|valid|reasonable|consistent|verified"
    r"|confirmed)\b[^\w]{0,8}$"
)
# Behind a formula: a further answer, or what changes the first.
_MORE = re.compile(
    r"\s{0,8}(?:[,;/&、]\s{0,8})?"
    r"(?:(?:and|or|plus|minus|times|divided by|to|either|else|maybe|possibly|perhaps)\b\s{0,8}){0,3}"
    r"(?<=[\s,;/&、])(?:[a-zA-Z]\s?=\s?)?(?:[$\d-]|\\[(\[])"
)
_DELIMITERS = re.compile(r"\\[()\[\]]")
# A base model that is asked in plain text goes on with questions of its own.
_NEXT_QUESTION = re.compile(r"^[#* \t]{0,8}Question[ \t]{0,4}\d{0,4}[*]{0,2}[:：]", re.MULTILINE)
_REASON = re.compile(r"[,;]?\s\(?(?:because|since|which|as required|as desired)\b")
_AFTER_FORMULA = re.compile(r"\s{0,4}(?:[a-zA-Z]{1,20}(?:\s[a-zA-Z]{1,20}){0,3}|\\?%)(?=\s{0,4}(?:[.,;!]|$))")
# What a program wrote in the place of an answer: a record, a missing value, an array, an image.
_RECORD = re.compile(
    r"\s*(?:\[?\s*\{\s*(?:\"[^\"]*\"|'[^']*')\s*:|(?:OrderedDict|dict|array|tensor)\s?\(|!\[[^\]\n]*\]\(|<image>"
    r"|(?:nan|null|n/a|<na>|\[\s?(?:none|null|nan)\s?\]|<answer>\s*</answer>)\s*$)",
    re.IGNORECASE,
)
# Behind the letter there may be its option's text, but no other letter.
_OTHER_LETTER = r"(?!.*(?:[\s,;]|\b(?:or|and) )[A-J]\b\s?(?:[).:-]|$))(?!-?\s?[A-J]$)"
_LETTER = re.compile(
    rf"[\s$*]{{0,8}}(?:\\{_COMMAND}\{{)?\s{{0,8}}"
    r"(?:(?i:the )?(?i:correct )?(?i:option|choice|answer)(?i: is)?:?\s{1,4})?[*$]{0,4}\(?\s{0,8}([A-J])\s{0,8}"
    rf"(?:[).}}:$*\s]{{0,8}}|(?:[).:}}*]{{1,3}}|\s?[-–—]{{1,2}})\s{_OTHER_LETTER}.*)",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"\.(?=[\s*_]|$)|。")


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
        connected = _JOINT.fullmatch(_assigned(between)[0]) is not None
        # "and" or "or" alone between two displays joins them, whatever blank lines there are.
        ended = _ENDED.search(between) and not (connected and _JOINED.search(between))
        if len(between) > MAX_BETWEEN or ended or _CORRECTED.search(between):
            break
        joint = connected or _ALTERNATIVE.fullmatch(between) is not None
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

    Without "I hope it is correct", reasons and emphasis; "the answer is correct" is none, where another is given.
    """
    judged = None
    for phrase in list(_PHRASE.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        rest = text[phrase.end() : phrase.end() + MAX_STATED]
        found = _stated(rest[_EMPHASIS.match(rest).end() :])  # type: ignore[union-attr]
        if found and not _JUDGED.fullmatch(found):
            return found
        judged = judged or found
    return judged


def _stated(rest: str) -> str | None:
    """The answer that a text begins with: a display, an inline formula, or words up to the end of the sentence.

    A formula that another follows (`$2$ or $3$`) is the whole sentence.
    """
    line = rest.partition("\n")[0]
    for opening, closing in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$")):
        within = line if opening == "$" else rest
        if within.startswith(opening) and (close := within.find(closing, len(opening))) > 0:
            if _MORE.match(rest, close + len(closing)):
                line = _DELIMITERS.sub("$", " ".join(rest.partition("\n\n")[0].split()))
                break
            unit = _AFTER_FORMULA.match(line, close + 1) if opening == "$" else None
            return (within[len(opening) : close].strip(" \t\n.") + (unit[0] if unit else "")) or None
    line = _REASON.split(line.partition("I hope")[0])[0].strip()
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
    answered, opened = _outside_thoughts(completion)
    if opened is not None and not unfinished_thoughts:
        completion = completion[:opened]
    found = _extract(completion[answered:], convention, wanted)
    if found is not None or answered == 0:
        return found
    return _extract(completion, convention, wanted)


def _outside_thoughts(completion: str) -> tuple[int, int | None]:
    """Where the last thought that ends does, and where behind it one opens that never ends, or None."""
    answered, opened = 0, None
    for tag in _THOUGHT.finditer(completion):
        if tag["close"] or tag["end"]:
            answered, opened = tag.end(), None
        elif opened is None:
            opened = tag.start()
    return answered, opened


def _extract(text: str, convention: Convention | None, wanted: int) -> str | None:
    if convention == "final_answer":
        text = _up_to_next_question(text)
    boxed = last_boxed(text, wanted=wanted)
    found = last_tagged(text if boxed is None else boxed) or boxed
    if convention == "choice":
        letter = choice_letter(found, any_case=True) if found is not None else None
        if letter is None:
            letters = [found[found.lastindex or 1].upper() for found in _CHOICE.finditer(text)]
            letter = letters[-1] if letters else None
        return letter or found
    if found is not None or convention is None:
        return found
    return after_hashes(text) if convention == "hashes" else final_answer(text)


def _up_to_next_question(text: str) -> str:
    """The text before the model goes on with another `Question:`; one that begins the text is the one asked."""
    found = next((item for item in _NEXT_QUESTION.finditer(text) if text[: item.start()].strip()), None)
    return text if found is None else text[: found.start()]


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
    if tagged := last_tagged(gold) or last_tagged(gold + "</answer>"):
        return tagged
    stated = final_answer(gold)
    # A phrase with nothing behind it announces an answer that is not there.
    return stated or (
        "" if (phrase := _PHRASE.search(gold)) and not gold[phrase.end() :].strip("*_: \n") else gold.strip()
    )
