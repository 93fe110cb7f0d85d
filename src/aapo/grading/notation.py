r"""One notation for answers that mean the same.

`normalize` changes how an answer is written, never its value: \dfrac and ½ become \frac{}{}, full-width digits become
digits, `12\,345` becomes 12345, delimiters and bold go.
"""

import html
import re
import unicodedata
from functools import cache

from aapo.grading.limits import MAX_NESTING, nesting

_ENTITY = re.compile(r"&#?\w{1,8};")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ",
    "º": r"^\circ ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "≈": r"\approx ", "“": "", "”": "", "‘": "'", "’": "'",
    "′": "'", "″": "''", "⟨": r"\langle ", "⟩": r"\rangle ", "µ": "u", "Å": r"\AA ", "∛": r"\sqrt[3]", "√": r"\sqrt",
    "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "ϱ": r"\rho ", "ℓ": r"\ell ", "ℏ": r"\hbar ", "∖": r"\setminus ",
    "→": r"\to ", "∧": r"\land ", "∨": r"\lor ", "∠": r"\angle ", "△": r"\triangle ", "∣": "|", "‖": r"\|",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "≡": r"\equiv ", "∀": r"\forall ", "。": ".", "．": ".",
    "、": ",", "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "‰": r" \text{per thousand}",
    "£": r"\pounds ", "¥": r"\yen ", "￥": r"\yen ", "₹": r"\rupees ", "¢": r"\cents ", "€": r"\euro ", "₩": r"\won ",
}  # fmt: skip
_LETTER_SHAPES = "epsilon|theta|phi|rho|kappa|sigma"
_THIN = r"(?:\s?,\s?(?:\\!\s?)+|\s?(?:\\[,!;: ]\s?)+|\s?\{\s?,\s?\}\s?(?:\\!\s?)*|\s?~\s?)"
_THOUSANDS = re.compile(rf"(?<![\d.])([1-9]\d{{0,2}})((?:{_THIN}\d{{3}}(?!\d))+)")
# With braces the comma parts no list: 3{,}14 is a decimal, unless thousands have taken it.
_DECIMAL_COMMA = re.compile(r"(?<![\d.,}({\[])(\d+)\{\s?,\s?\}(\d+)(?![\d{,])")
_SAME = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?:\\\\){2,}", r"\\\\"),
        (r"\\\\\s?\[\s?-?[\d.]+\s?[a-z]{2}\s?\]", r"\\\\"),
        (rf"\\var({_LETTER_SHAPES})(?![a-zA-Z])", r"\\\1"),
        (r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])", ""),
        (r"\\(?:scriptstyle|scriptscriptstyle|mathstrut|strut|nonumber|notag|allowbreak|hfill)(?![a-zA-Z])", ""),
        (r"\\(?:vphantom|hphantom|vspace)\*?\s?\{[^{}]{0,40}\}", ""),
        (r"\\(?:enspace|enskip|thinspace|medspace|thickspace|negthinspace|hskip|nobreakspace)(?![a-zA-Z])", " "),
        (r"\\(?:checkmark|blacksquare|square|qed|Box|QED)\s?$", ""),
        (r"^\s?\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to)(?![a-zA-Z])", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|bf|rm|it)(?![a-zA-Z])\.?", ""),
        (r"(?<=\d)\s?(?:\\[,!;: ](?<!\\\\.)|\{,\}|~)\s?(?=\d{3}(?!\d))", ","),  # spaced thousands, read as 12,345
        (r"\\text\s?\{\s*\}", ""),
        (r"^\\text\{\s?(-?\d+(?:[.,]\d+)*)\s+([a-zA-Z][^{}]*)\}$", r"\1 \\text{\2}"),
        (r"^(?:\\text\s?\{\s?)?(?:negative|minus)(?:\s?\}\s?|\s)(?=\d)", "-"),
        (
            r"\\text\s?\{\s?(?:和|及|与|或)\s?\}",
            lambda found: r" \text{ or } " if "或" in found[0] else r" \text{ and } ",
        ),
        (r"^\\text\s?\{\s?(?:约|大约|约为)\s?\}", ""),
        (r"\\middle(?![a-zA-Z])", ""),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|rm|bf)\s([a-zA-Z\d])(?![a-zA-Z])", r"\1"),
        (r"_\s?\{\s?\\text\s?\{\s?(\w+)\s?\}\s?\}", r"_{\1}"),
        (
            r"(?<=[\w)}])\s?(?:\\text\s?\{\s?times\s?\}|\stimes\s)\s?(?=[a-zA-Z](?![a-zA-Z])|[\d(]|\\(?!text))",
            r"\\times ",
        ),
        (r"(?<=[)\]])\s?U\s?(?=[(\[])", r"\\cup "),
        (r"(?<=\*)\s?I(?![a-zA-Z_(])", "i"),
        (r"(?:^|(?<=\\in)|(?<=\\cup)|(?<=\\in )|(?<=\\cup ))\](?=[^\[\](){}]*[,;][^\[\](){}]*[\[\]])", "("),
        (r"(?<=[(\[])([^\[\](){}]*[,;][^\[\](){}]*)\[(?=\s?(?:$|\\cup))", r"\1)"),
        (r"\\text\s?\{\s?[.,;]\s?\}", ""),
        (r"\{\s?([^{}]+?)\s?\\over(?![a-zA-Z])\s?([^{}]+?)\s?\}", r"\\frac{\1}{\2}"),
        (r"\\(?:text)?color\s?\{[a-zA-Z]{1,20}\}|\\colorbox\s?\{[a-zA-Z]{1,20}\}", ""),
        (r"(?:\[|\()?\s?(\\begin\{array\}(?:(?!\\begin|\\end)[^|])*\\end\{array\})\s?(?:\]|\))?$", r"\1"),
        (r"\\lg(?![a-zA-Z_])", r"\\log_{10} "),
        (r"\\(?:dag|dagger)(?![a-zA-Z])", r"\\dagger "),
        (r"\^\s?\{\s?\\prime\s?\\prime\s?\}|\^\s?\{\s?''\s?\}", "''"),
        (r"\^\s?(?:\{\s?(?:\\prime|')\s?\}|\\prime(?![a-zA-Z]))", "'"),
        (r"\^\s?(?:\\top|\\intercal)(?![a-zA-Z])|\^\s?\{\s?(?:\\top|\\intercal|\\text\s?\{\s?T\s?\})\s?\}", "^T"),
        (r"!=", r"\\ne "),
        (r"(?<=[\w)}\]])\s?\*\*\s?(?=[\w({\\-])", "^"),
        (r"(?<!_\d)\^\s?(-\s?\d+|\d{2,})(?![\d.])", r"^{\1}"),
        (r"\^\s?\(([^()]{1,40})\)(?!\s?\()", r"^{\1}"),
        (r"(?<![\\a-zA-Z])oo(?![a-zA-Z])", r"\\infty "),
        (r"(?<![\\a-zA-Z])[aA]bs\s?\(((?:[^()]|\([^()]*\)){1,200})\)", r"|\1|"),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\[lr]?Vert(?![a-zA-Z])", r"\\|"),
        (r"(?<!\\)\\!|\{\}", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\hspace\*?\s?\{[^{}]{0,10}\}", " "),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:mathrm|textrm|textnormal|mbox|textit|textsf|texttt|operatorname\*?|hbox)(?![a-zA-Z])\s?\{", r"\\text{"),
        (r"\\text\{\s?sec\s?\}(?!\s?(?:\^\s?\{?\s?\d|[({\w]|\\(?!text|cdot)))", r"\\text{second}"),  # no secant
        (r"\\mathring\s?\{\s?(?:A|\\text\{\s?A\s?\})\s?\}", r"\\AA "),
        (r"\\leq?(?:slant|q)?(?![a-zA-Z])", r"\\le "),
        (r"\\geq?(?:slant|q)?(?![a-zA-Z])", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|\\not\s?=", r"\\ne "),
        (r"\\varnothing(?![a-zA-Z])|\\\{\s?\\\}", r"\\emptyset "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\(?:degree|textdegree)(?![a-zA-Z])|\^\s?\{\s?\\circ\s?\}|\^\s?\\circ(?![a-zA-Z])", r"^\\circ "),
        (r"([\^_])\s?\{\s?([a-zA-Z\d])\s?\}(?!\s?[a-zA-Z\d])", r"\1\2"),
        (r"\\percent(?![a-zA-Z])|\\%", "%"),
        (r"\\(?:Bbb|mathbf|mathds)\s?\{?R\}?(?![a-zA-Z])|\\(?:R|reals)(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\\infin(?:ity)?(?![a-zA-Z])", r"\\infty "),
        (r"\\cdotp(?![a-zA-Z])", r"\\cdot "),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\\ldots|\\dots|\\cdots", "..."),
        (r"\\(?:phantom|label|tag)\{[^{}]{0,40}\}", ""),
    )
]
_UNWRAPPED = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|textbf|mathit|mathsf|mathcal|emph|underline|boxed|fbox|ensuremath|bbox|mathnormal|textup|mathop)\s?\{([^{}]{0,1000})\}"
)
_PLAIN_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s?\(([^()]{1,200})\)")
_PLAIN_NAMES = [
    (re.compile(rf"(?<![\\a-zA-Z]){word}(?![a-zA-Z])", re.I), new)
    for word, new in (("pi", r"\\pi "), ("infinity", r"\\infty "), ("inf", r"\\infty "))
]
_FUNCTION_NAMES = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|exp"
_PLAIN_FUNCTION = re.compile(
    rf"\\text\{{\s?({_FUNCTION_NAMES})\s?\}}\s?"
    rf"|(?<![\\a-zA-Z{{])({_FUNCTION_NAMES})(?=\s?[(^\\\d]|\s[a-zA-Z](?![a-zA-Z]))\s?"
)
_ROOT_OF_PARENTHESIS = re.compile(r"\\sqrt(\[\d\])?\s?\(([^()]{1,200})\)")
_ROOT_OF_TOKEN = re.compile(r"\\sqrt(\[\d\])?\s?(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z])|\\pi(?![a-zA-Z]))")
_FRACTION = re.compile(r"\\frac\s?(?=[^{\s]|\{)")
_ARGUMENT = re.compile(r"\s?(?:\{|(\d|[a-zA-Z]|\\[a-zA-Z]+\s?))")
_DOLLARS = re.compile(r"(-?)\\?\$\s?(-?\d[\d,]*(?<!,)(?:\.\d+)?|\.\d+)")
_ESCAPED_DOLLARS = re.compile(_DOLLARS.pattern.replace(r"\\?", r"\\", 1))
_CURRENCIES = {
    "euro": "euros", "pounds": "GBP", "yen": "yen", "rupees": "rupees", "cents": "cents", "won": "won", "EUR": "euros",
    "GBP": "GBP", "JPY": "yen", "CNY": "yen", "RMB": "yen", "INR": "rupees", "Rs": "rupees", "USD": "dollars",
    "CAD": "dollars", "AUD": "dollars", "dollars": "dollars",
}  # fmt: skip
_CURRENCY = (
    r"\\(euro|pounds|yen|rupees|cents|won)(?![a-zA-Z])"
    r"|(?<![a-zA-Z])(EUR|GBP|JPY|CNY|RMB|INR|Rs|USD|CAD|AUD)(?![a-zA-Z])\.?"
)
_AMOUNT = r"-?\d[\d,]*(?<!,)(?:\.\d+)?|\.\d+"
_AMOUNT_IN_TEXT = re.compile(rf"\\text\s?\{{\s?((?:-\s?)?(?:{_CURRENCY}|\\?\$)\s?(?:{_AMOUNT}))\s?\}}")
# Right behind an amount a currency is that amount's, and not the next one's.
_BEFORE_AMOUNT = re.compile(
    rf"(?<![\d.}}])(?<![\d.}}]\s)(?<!\\text\{{)(-?)\s?(?:\\text\s?\{{\s?)?(?:{_CURRENCY})\s?\}}?\s?({_AMOUNT})"
)
_AFTER_AMOUNT = re.compile(r"(?<=[\d}])\s?(?:\\text\s?\{\s?)?\\(euro|pounds|yen|rupees|cents|won)(?![a-zA-Z])\s?\}?")
# What one rule leaves may be another's to change; twenty nested wrappers are no answer.
MAX_PASSES = 20
_ALIGNED = re.compile(
    r"\\begin\{(aligned|align|alignedat|gathered|gather|split|equation|multline|eqnarray)(\*?)\}(.*)\\end\{\1\2\}",
    re.DOTALL,
)
_LABEL_OF_ANSWER = re.compile(
    r"^\s?(?:\\text\s?\{\s?)?\**(?i:(?:the\s)?(?:final\s|correct\s)?(?:answer|ans|result)(?:\s?(?:is|:|=|\.))+|答案(?:是|为|:)*)"
    r"\s?\**\s?\}?\s?(?=.)"
)
_CHINESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+(?![^{}]*\})")
_PLAIN_TEXT = re.compile(r"\\text\s?\{\s?(-?[\d.,]+)\s?\}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_FREE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_WRAPPERS = (("**", "**"), ("__", "__"), ("`", "`"), ("*", "*"), ('"', '"'))


def normalize(text: str) -> str:
    """The answer `text` in one notation; idempotent."""
    if _NUMBER.fullmatch(text):  # most answers, and nothing to change
        return text
    for _ in range(MAX_PASSES):
        before, text = text, _normalize_once(text)
        if text == before:
            break
    return text


def _normalize_once(text: str) -> str:
    text = _from_unicode(text)
    text = _CHINESE.sub(lambda found: rf" \text{{{found.group()}}}", text) if not text.isascii() else text
    text = _THOUSANDS.sub(lambda found: re.sub(r"[^\d]+", "", found[1] + found[2]), text)
    text = _DECIMAL_COMMA.sub(r"\1.\2", text)
    text = _unwrap(_LABEL_OF_ANSWER.sub("", _aligned(text)))
    for pattern, new in _SAME:
        text = pattern.sub(new, text)
    text = _PLAIN_TEXT.sub(r"\1", text)
    for _ in range(MAX_PASSES):
        text = _UNWRAPPED.sub(r"\1", text)
    text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    for pattern, new in _PLAIN_NAMES:
        text = pattern.sub(new, text)
    text = _PLAIN_FUNCTION.sub(lambda found: rf"\{found[1] or found[2]} ", text)
    text = _ROOT_OF_PARENTHESIS.sub(lambda found: rf"\sqrt{found[1] or ''}{{{found[2]}}}", text)
    text = _ROOT_OF_TOKEN.sub(lambda found: rf"\sqrt{found[1] or ''}{{{found[2].strip()}}}", text)
    if nesting(text) <= MAX_NESTING:  # the grader refuses what is deeper
        text = _brace_fractions(text)
    return trim(text)


def _from_unicode(text: str) -> str:
    """ASCII and LaTeX for the unicode characters that stand for mathematics."""
    if _ENTITY.search(text):
        text = html.unescape(text)
    if text.isascii() and text.isprintable():
        return text
    text = _RAISED.sub(lambda found: "^{" + "".join(map(_SUPERSCRIPTS.__getitem__, found.group())) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + "".join(map(_SUBSCRIPTS.__getitem__, found.group())) + "}", text)
    return "".join(map(_character, text))


@cache
def _character(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    kind = unicodedata.category(character)
    if character.isascii():
        return "" if kind == "Cc" and not character.isspace() else character
    if kind in ("Cf", "Cc", "Cs"):  # zero-width and direction marks and half characters, which nobody sees
        return ""
    if unicodedata.decomposition(character).startswith("<fraction>"):
        above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}"
    name = unicodedata.name(character, "")
    if name.startswith(("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")) and name.count(" ") == 3:
        letter = name.rpartition(" ")[2].lower().replace("lamda", "lambda")
        return "\\" + (letter if "SMALL" in name else letter.capitalize()) + " "
    return "".join(_SYMBOLS.get(part, part) for part in unicodedata.normalize("NFKC", character))


def _aligned(text: str) -> str:
    """Text without an alignment around it: one row as it is, several as a chain or a list."""
    found = _ALIGNED.fullmatch(text.strip())
    if found is None:
        return text
    rows = [
        row.replace("&", " ").strip() for row in re.split(r"\\\\(?:\[[^\]]{0,8}\])?", found[3]) if row.strip(" &\n")
    ]
    joined = [rows[0]] if rows else []
    joined += [row if row.startswith("=") else ", " + row for row in rows[1:]]
    return " ".join(joined)


def _unwrap(text: str) -> str:
    """Text without the mathematics delimiters, Markdown emphasis and quotation marks around it."""
    text = re.sub(r"(?<![a-zA-Z])(?:US|AU?|CA?|HK|NZ|S)\s?(?=\\?\$\s?\d)", "", text)
    text = _AMOUNT_IN_TEXT.sub(r"\1", text.strip())
    text = _BEFORE_AMOUNT.sub(_amount, text)
    text = _AFTER_AMOUNT.sub(lambda found: rf" \text{{{_CURRENCIES[found[1]]}}}", text)
    if text.count("$") % 2 or r"\$" in text:  # an odd one is no delimiter
        text = (
            _DOLLARS.sub(r"\1\2 \\text{dollars}", text)
            if r"\$" not in text
            else _ESCAPED_DOLLARS.sub(r"\1\2 \\text{dollars}", text)
        )
    text = text.replace(r"\$", " ").replace("$", " ").strip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2].strip()
    for opening, closing in _WRAPPERS:
        body = text.rstrip(".")
        while len(body) > 2 * len(opening) and body.startswith(opening) and body.endswith(closing):
            text = body[len(opening) : -len(closing)].strip()
            body = text.rstrip(".")
    return text


def _amount(found: re.Match[str]) -> str:
    """An amount with its currency behind it."""
    return rf"{found[1]}{found[4]} \text{{{_CURRENCIES[found[2] or found[3]]}}}"


def _brace_fractions(text: str) -> str:
    r"""\frac43, \frac 4 3, \frac{4}3 and \frac4{3} as \frac{4}{3}."""
    pieces, position = [], 0
    while found := _FRACTION.search(text, position):
        pieces.append(text[position : found.start()] + r"\frac")
        position = found.end()
        for _ in range(2):
            argument = _ARGUMENT.match(text, position)
            if argument is None:
                break
            if argument[1] is None:
                end = _closing(text, argument.end() - 1)
                if end < 0:
                    break
                pieces.append("{" + _brace_fractions(text[argument.end() : end]).strip() + "}")
                position = end + 1
            else:
                pieces.append("{" + argument[1].strip() + "}")
                position = argument.end()
    return "".join(pieces) + text[position:]


def _closing(text: str, start: int) -> int:
    """Index of the brace that closes the one at `start`, or -1."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    return -1


def squeeze(text: str) -> str:
    """Text without spaces, except where they part digits: 1 1/2 is not 11/2."""
    return _FREE_SPACE.sub("", text)


def trim(text: str) -> str:
    """Text without outer braces, parting punctuation and a plus sign in front, its spaces single."""
    text = " ".join(text.split())
    for _ in range(MAX_PASSES):
        shorter = text.strip().lstrip(":").rstrip(",;:").strip()
        if shorter.endswith(".") and not shorter.endswith(".."):
            shorter = shorter[:-1].rstrip()
        if shorter.endswith("\\\\"):
            shorter = shorter[:-2].rstrip()
        shorter = shorter.lstrip("+ ")
        if shorter.startswith("{") and _closing(shorter, 0) == len(shorter) - 1:
            shorter = shorter[1:-1].strip()
        if shorter == text:
            break
        text = shorter
    return text
