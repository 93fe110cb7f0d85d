r"""Whether the left side of an equation names the value on its right, or still has to be solved.

`x = 9`, `f(2) = 9`, `|AB| = 9`, `\angle A = 9^\circ`, `(p,q) = (5,2)` and `a+b = 9` give a value; `3x = 9`,
`x^2 = 9` and `x-1 = 9` hand a question back.
"""

import re

from aapo.grading.symbols import ACCENTS, CAPITAL_GREEK, GREEK

CONSTANTS = frozenset({r"\pi", "e", "i", r"\infty"})

_INDEX = r"(?:\s?_\s?(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|\w))?"
_MARKS = r"(?:\s?'|\s?\^\s?(?:\{\s?(?:-1|\\prime|'|\*|\(\s?\w\s?\)|T|\+|-)\s?\}|\*|T(?![a-zA-Z])|\\(?:prime|top|ast)))*"
_LETTER = rf"(?:\\(?:{GREEK}|{CAPITAL_GREEK}|ell|hbar)(?![a-zA-Z])|[a-zA-Z])"
_ACCENTED = rf"\\(?:{ACCENTS})\s?(?:\{{[^{{}}]*\}}|\\[a-zA-Z]+|[a-zA-Z])"
_SYMBOL = rf"(?:(?:{_ACCENTED}|{_LETTER}){_MARKS}{_INDEX}{_MARKS})"
# Letters in a row: a segment AB, a product xy, or a word such as area.
_RUN = rf"(?:{_SYMBOL}(?:\s?{_SYMBOL})*)"
_WORDS = r"(?:\\text\s?\{[^{}]*\}|[a-zA-Z][a-zA-Z'\- ]{0,60})"
_ARGUMENT = r"\s?(?:\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|\[[^\[\]]*\])"
_FIGURE = rf"\\(?:angle|triangle|square|measuredangle|odot|Box|parallelogram)\s?\{{?\s?{_RUN}\s?\}}?"
_NAME = re.compile(
    rf"m?\s?{_FIGURE}|{_RUN}(?:{_ARGUMENT}{_INDEX})?|{_WORDS}(?:\s?(?:{_RUN}|{_FIGURE}))?(?:{_ARGUMENT})?{_INDEX}"
    rf"|\[\s?[A-Z]{{2,}}\s?\]|[A-Z](?:\s?\\(?:cup|cap|setminus)\s?[A-Z])+"
)
# A length or a modulus; |x| = 3 is still to be solved for x.
_MEASURE = re.compile(
    rf"\\\|\s?{_SYMBOL}\s?\\\||(\\?\|)\s?(?:[A-Zzw]{_MARKS}{_INDEX}|[A-Z]{{2,}}|{_ACCENTED}|[A-Z]\s?\\c[ua]p\s?[A-Z]|{_SYMBOL}\s?[-+]\s?{_SYMBOL})\s?\1"
    r"|(?:\\#|n|#)\s?\(?\s?[A-Z]\s?\)?"
)
_GROUP = re.compile(rf"\\?[({{\[]\s?{_SYMBOL}(?:\s?[,;]\s?{_SYMBOL})+\s?\\?[)}}\]]|{_RUN}(?:\s?:\s?{_RUN})+")
# An angle is written in Greek or in capitals; the sine of x is an equation for x.
_OF_ANGLE = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc)\s?\(?\s?(?:\d\s?)?(?:\\angle\s?)?"
    rf"(?:\\(?:{GREEK})(?![a-zA-Z])|[A-Z](?![a-z]))[A-Z]*\s?\)?"
)
_OPERATOR = re.compile(
    r"\\(?:max|min|sup|inf|gcd|lcm|lim|sum|prod|int|oint|det|deg|dim|rank|Pr|nabla|operatorname)(?![a-zA-Z]).*"
    r"|\\text\s?\{\s?(?:max|min|gcd|lcm|det|deg|dim|rank|tr|Var|Cov|Area|area|Res|ord)\s?\}.*"
    r"|\\frac\s?\{\s?(?:d|\\partial)[^{}]*\}\s?\{\s?(?:d|\\partial)[^{}]*\}.*|\\(?:mathbb|mathrm)\s?\{?[EPV]\}?.*",
    re.DOTALL,
)
_APPLIED = re.compile(r"([a-zA-Z]+)\s?\((.*)\)", re.DOTALL)
_FUNCTION_VALUE = re.compile(rf"[a-zA-Z]{_MARKS}{_INDEX}\s?\(\s?-?(?:\d+|\\frac\{{\d+\}}\{{\d+\}})\s?\)")
_COMMAND = re.compile(
    rf"\\(?!(?:{GREEK}|{CAPITAL_GREEK}|{ACCENTS}|ell|hbar)(?![a-zA-Z]))(?:[a-zA-Z]+|.)|\\pi(?![a-zA-Z])"
)
_NO_COMBINATION = re.compile(
    r"\\(?!\s)(?:sqrt|sin|cos|tan|log|ln|exp|binom|lfloor|lceil|pm|mp)|[!|<>%,]|\^\s?\{?[^\d\s{]|\d\s?\^"
)
_QUOTIENT = rf"\\frac\s?\{{\s?{_RUN}\s?\}}\s?\{{\s?{_RUN}\s?\}}"
_COMBINATION = re.compile(rf"{_QUOTIENT}|{_RUN}(?:\s?(?:[-+/]|\\cdot)\s?{_RUN})*")
_CURVE = re.compile(r"(?<![\\a-zA-Z])(?:\d\s?[xy]|[xy]\s?\^)")


def is_name(text: str) -> bool:
    """Whether a side is what a value is called: a symbol, a segment, a function value, words, a group of symbols."""
    if not text or text in CONSTANTS or not re.search("[a-zA-Z]", text):
        return False
    if (found := _APPLIED.fullmatch(text)) and re.search(
        rf"(?<![\\a-zA-Z]){re.escape(found[1])}(?![a-zA-Z(])", found[2]
    ):
        return False  # n(n+1) is no value of a function n
    return any(pattern.fullmatch(text) for pattern in (_NAME, _MEASURE, _GROUP, _OF_ANGLE, _OPERATOR))


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same but for their spelling: an angle A or ∠A, (p,q) or (p, q)."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return re.sub(r"[\s{}]|\\text(?=\{)|\\(?:angle|triangle|measuredangle)(?![a-zA-Z])|^m(?=\\angle)", "", name)


def is_solved(side: str, value: str) -> bool:
    """Whether an equation whose left side is not just a name still gives the value on its right.

    So it is where nothing is unknown in `side` (`2+2`, `f(1)+f(2)`), and where it combines unknowns that the equation
    cannot give one by one (`a+b`, `mn`, `100m+n`). Powers and multiples of x and y are a curve, and so is what is 0.
    """
    unknown = symbols(_FUNCTION_VALUE.sub(" ", side))
    if not unknown:
        return True
    if value == "0" or symbols(value):
        return False
    return len(unknown) > 1 and not _NO_COMBINATION.search(side) and not _CURVE.search(side)


def is_combination(side: str) -> bool:
    """Whether a side is a sum, difference or product of symbols, and not an equation's x and y."""
    return _COMBINATION.fullmatch(side) is not None and not {"x", "y"} <= symbols(side)


def symbols(text: str) -> set[str]:
    """The symbols in a text, without the constants e, i and pi and the words of commands."""
    bare = _COMMAND.sub(" ", re.sub(r"\\text\s?\{[^{}]*\}", " ", text))
    return {found.group().replace(" ", "") for found in re.finditer(_SYMBOL, bare)} - CONSTANTS
