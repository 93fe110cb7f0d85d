r"""Symbols under names that math-verify tells apart.

math-verify lower-cases letters, drops primes and transposes and cannot read indexed constants such as E_1, so that
`R-r` would be 0 and `f'(x)` would be `f(x)`. Before it sees a pair, each symbol that it might take for another one gets
a letter that stands in neither text.
"""

import re
from string import ascii_lowercase

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|chi|psi"
    "|omega"
)
CAPITAL_GREEK = (
    "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|Alpha|Beta|Epsilon|Zeta|Eta|Kappa|Rho|Tau|Chi"
)
ACCENTS = "bar|vec|hat|dot|ddot|tilde|overline|overrightarrow|widehat|widetilde|mathcal|mathfrak|mathscr"
_INDEX = r"\s?_\s?(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|\w)"
_PRIMES = r"'+|\s?\^\s?(?:\{\s?(?:\\prime\s?|')+\}|\\prime(?![a-zA-Z]))"
# An inverse function or a derivative of higher order, before a plain argument; elsewhere it is a power.
_OF_FUNCTION = r"(?<=[fghFGHi])\s?\^\s?\{\s?(?:-1|\(\s?\w\s?\))\s?\}(?=\s?\([^()+*/-]*\))"
_D = r"\s?(?:d|\\partial)(?:\s?\^\s?\{?\s?\w\s?\}?)?\s?"
_DERIVATIVE = (
    rf"\\frac\s?\{{{_D}(?:\\[a-zA-Z]+|[a-zA-Z])[^{{}}+-]*\}}\s?\{{(?:{_D}(?:\\[a-zA-Z]+|[a-zA-Z])[^{{}}+-]*)+\}}"
)
_TOKEN = re.compile(
    r"(?P<kept>\\mathbb\s?\{?[A-Z]\}?|\\(?:begin|end)\{[^{}]*\}(?:\{[lcr|\s]*\})?|\\(?:Gamma|zeta)(?=\s?\())"
    rf"|(?P<symbol>{_DERIVATIVE}|(?:\\(?:{ACCENTS})\s?(?:\{{[^{{}}]*\}}|\\[a-zA-Z]+|[a-zA-Z])|\\text\s?\{{[^{{}}]*\}}"
    rf"|\\(?:{GREEK}|{CAPITAL_GREEK})(?![a-zA-Z])|[a-zA-Z])"
    rf"(?:{_OF_FUNCTION})?(?:{_INDEX})?(?:{_PRIMES})?(?:{_INDEX})?)"
    r"|\\[a-zA-Z]+|\\.",
    re.DOTALL,
)
_PLAIN = re.compile(rf"[a-z]|\\(?:{GREEK})")
_DIFFERENTIAL = re.compile(r"\\o?int(?![a-zA-Z])|\\frac\s?\{\s?d")
_TRANSPOSED = re.compile(r"\^\s?\{?\s?(?:\\top|\\intercal|\\dagger|\\text\{\s?T\s?\})(?![a-zA-Z])\s?\}?")
_SPACE = re.compile(r"\s+|\\text(?=\s?\{)|[{}]")
# Letters that may stand for something else: a differential, Euler's number, the imaginary unit.
_TAKEN = frozenset("dei")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(
    r"(\d+(?:\.\d+)?|\\frac\{[^{}]*\}\{[^{}]*\}|\([^()]*\)|\\(?!circ)[a-zA-Z]+|[a-zA-Z])\s?\^\\circ(?![a-zA-Z])\s?"
)
_CONSTANT = re.compile(r"(.*[xtuyzs\d)}].*)\+\s?([CcKk](?:_\d)?)", re.DOTALL)


def renamed(gold: str, answer: str) -> tuple[str, str]:
    """Both texts with each symbol that math-verify might take for another under a letter of its own."""
    texts = [_TRANSPOSED.sub("^{T}", text) for text in _same_constant(gold, answer)]
    free = [letter for letter in ascii_lowercase[::-1] if letter not in _TAKEN and letter not in "".join(texts)]
    names: dict[str, str] = {}
    differential = any(_DIFFERENTIAL.search(text) for text in texts)

    def name(found: re.Match[str]) -> str:
        symbol = found["symbol"]
        if symbol is None or (_PLAIN.fullmatch(symbol) and (symbol != "d" or differential)):
            return found.group()
        key = _key(symbol)
        if key not in names:
            names[key] = free.pop() if free else f"x_{{{1000 + len(names)}}}"
        return f" {names[key]} "

    return _TOKEN.sub(name, texts[0]), _TOKEN.sub(name, texts[1])


def _key(symbol: str) -> str:
    """One spelling of a symbol: its primes counted and last, its index without braces and spaces."""
    primes = symbol.count("'") + symbol.count(r"\prime")
    plain = _SPACE.sub("", re.sub(_PRIMES, "", symbol))
    return plain + "'" * primes


def _same_constant(gold: str, answer: str) -> tuple[str, str]:
    """The texts with the gold answer's name for a constant of integration, which is free."""
    one, other = _CONSTANT.fullmatch(gold.strip()), _CONSTANT.fullmatch(answer.strip())
    if one is None or other is None or one[2] == other[2]:
        return gold, answer
    letters = set(re.findall(r"(?<!\\)\b[a-zA-Z]|[A-Z]", one[1] + other[1]))
    if letters & {"C", "c", "K", "k"} or any(letter.isupper() for letter in letters):
        return gold, answer
    if not re.search(r"(?<![\\a-zA-Z])[xtuyzs](?![a-zA-Z])", one[1]):
        return gold, answer
    return gold, f"{other[1]}+{one[2]}"


def in_radians(text: str) -> str:
    """The text with its degrees in radians where a trigonometric function takes them."""
    if r"^\circ" not in text or not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(lambda found: rf"\frac{{{found[1]}\pi}}{{180}} ", text)
