"""Units of measurement that answers carry, with exact factors."""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A product of powers of base units and the factor to it; dimensions are sorted."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...]


# Powers of ten by the prefixes of symbols and of names.
_PREFIXES = {
    ("f", "femto"): -15, ("p", "pico"): -12, ("n", "nano"): -9, ("u", "micro"): -6, ("m", "milli"): -3,
    ("c", "centi"): -2, ("d", "deci"): -1, ("h", "hecto"): 2, ("k", "kilo"): 3, ("M", "mega"): 6, ("G", "giga"): 9,
    ("T", "tera"): 12, ("P", "peta"): 15, ("E", "exa"): 18,
}  # fmt: skip
# Symbols | names = what they are worth in units that stand above them, for all but the base units.
_WITH_PREFIX = """
m | meter metre
g | gram gramme
s | second sec
A | ampere amp
K | kelvin
mol | mol mole
rad | radian = 1
Hz | hertz = 1 s^-1
Bq | becquerel = 1 s^-1
N | newton = 1 kg m s^-2
Pa | pascal = 1 N m^-2
bar | = 1e5 Pa
J | joule = 1 N m
eV | electronvolt = 1.602176634e-19 J
cal | = 4.184 J
W | watt = 1 J s^-1
C | coulomb = 1 A s
V | volt = 1 J C^-1
F | farad = 1 C V^-1
Ω | ohm = 1 V A^-1
Wb | weber = 1 V s
T | tesla = 1 Wb m^-2
G | gauss = 1e-4 T
H | henry = 1 Wb A^-1
l L | liter litre = 1 dm^3
M | molar = 1 mol L^-1
pc | parsec = 3.0856775814913673e16 m
yr | yr year = 31557600 s
Jy | jansky = 1e-26 W m^-2 Hz^-1
"""
# A pound of money goes by the name of a pound of mass.
_WITHOUT_PREFIX = """
in | inch inches = 0.0254 m
ft | foot feet = 0.3048 m
yd | yd yard = 0.9144 m
mi | mi mile = 1609.344 m
Å | angstrom = 1e-10 m
| micron = 1e-6 m
AU au | = 149597870700 m
ly | lightyear = 9460730472580800 m
lb | lb pound = 0.45359237 kg
oz | ounce = 0.028349523125 kg
| ton tonne = 1000 kg
min | min minute = 60 s
h hr | hr hour = 3600 s
mph | = 1 mi h^-1
kph | = 1 km h^-1
| day = 86400 s
| week = 604800 s
| month = 2629800 s
° | degree deg
| arcmin arcminute = 1/60 °
| arcsec arcsecond = 1/3600 °
sr | steradian = 1
cd | candela
dB | decibel
ha | hectare = 10000 m^2
| acre = 4046.8564224 m^2
gal | gallon = 0.003785411784 m^3
qt | quart = 0.25 gallon
| pint = 0.125 gallon
| cup = 0.0625 gallon
cc | = 1e-6 m^3
gm | = 1 g
kmph kmh | = 1 km h^-1
| knot = 1852/3600 m s^-1
R | roentgen = 2.58e-4 C kg^-1
dyn | dyne = 1e-5 N
erg | = 1e-7 J
atm | = 101325 Pa
Msun |
Lsun |
Rsun |
USD | dollar
| cent penny pennies = 0.01 USD
EUR | euro
GBP | = 1 lb
| pence = 0.01 GBP
INR Rs | rupee
| paise = 0.01 INR
yen | yen yuan
won | won
"""
_CHINESE = {
    "米": "m", "厘米": "cm", "毫米": "mm", "千米": "km", "公里": "km", "克": "g", "千克": "kg", "公斤": "kg",
    "吨": "tonne", "秒": "s", "分钟": "min", "小时": "h", "天": "day", "年": "year", "元": "yuan", "升": "L",
    "毫升": "mL", "度": "°",    "平方米": "m^2", "平方厘米": "cm^2", "立方米": "m^3", "立方厘米": "cm^3",
}  # fmt: skip
_SYMBOLS: dict[str, Unit] = {}
_NAMES: dict[str, Unit] = {}
# Symbols that are units, not variables, where they stand in no \text{}, too.
_PLAIN = re.compile(
    r"[mgshlLNJWVK°]|[cdkmnu]m|in|ft|yd|mi|[km]g|lb|oz|ms|min|hr|[kMG]?yr|m[lL]|k[WJ]|[kMGT]?(?:eV|Hz)|[kMG]?Pa|[kMG]pc"
    r"|m?mol|bar|erg|atm|dB|[mk]ph|USD|EUR"
)
# Symbols that would be products of variables where they follow a number immediately.
_ATTACHED = re.compile(r"[a-zA-Z]{3,}|cm|km|mm|kg|mL|ml|ft|lb|oz|in|hr|kJ|kW|Hz|Pa")

_TEXT = r"\\text\s?\{((?:[^{}]|\{[^{}]*\})*)\}"
_PIECE = (
    rf"(?:{_TEXT}|\\(?:mu|Omega|AA)(?![a-zA-Z])|[MLR](?=_))(?:_\s?\{{?\s?\\odot\s?\}}?)?"
    r"(?:\s?\^\s?\{?-?\d\}?)?(?:\s?(?:[/*]|\\cdot(?![a-zA-Z])))?\s?"
)
_PIECES = rf"(?:{_PIECE}){{1,6}}"
# What may stand behind a number: \text{}, signs of units, and a fraction of them.
LABEL = rf"(?:{_PIECES}(?:(?<=/)\({_PIECES}\))?|\\frac\{{{_PIECES}\}}\{{{_PIECES}\}})"
_SIGNS = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^\\frac\{(.*)\}\{(.*)\}$", r"\1/\2"),
        (r"/\s?\(([^()/]*)\)\s?$", r"/\1"),
        (r"\\cdot(?![a-zA-Z])", " "),
        (r"\\mu(?![a-zA-Z])\s*", "u"),
        (r"(?<![a-zA-Z])([kMGmu])\s+\\Omega", r"\1Ω"),
        (r"\\Omega(?![a-zA-Z])", "Ω"),
        (r"\\AA(?![a-zA-Z])", "Å"),
        (r"\s*_\s?\{?\s?\\odot\s?\}?", "sun"),
    )
]
# Digits that follow a capital at once are no power: 5 R2 has a remainder.
_TOKEN = re.compile(r"([^\W\d_]+|°)(?:(?:\s?\^\s?\{?\s?|(?=-)|(?<=[a-z]))(-?\d)\s?\}?)?|([/*])")
# Words that make another number of the one before them, or another answer.
_CHANGING = frozenset(
    {"not", "no", "nor", "or", "wrong", "false", "incorrect", "if", "unless", "otherwise", "except", "but", "instead"}
    | {"either", "when", "least", "most", "plus", "minus", "over", "half", "halves", "thirds", "fourths", "fifths"}
    | {"sixths", "sevenths", "eighths", "ninths", "tenths", "hundredths", "thousandths", "remainder", "mod", "modulo"}
    | {"below", "beneath", "under", "than", "out", "gross", "couple", "double", "triple", "twice", "thrice", "power"}
    | {"ten", "dozen", "hundred", "thousand", "million", "billion", "trillion", "pair", "pairs"}
    | {"repeating", "recurring", "score", "mio"}
    | {"debt", "deficit", "overdrawn", "divided", "multiplied", "increased", "decreased", "reduced", "raised"}
    | {"powers", "basis", "bps", "mille", "permille", "minus", "reciprocal", "inverse", "opposite", "fraction"}
    | {"factorial", "squared", "cubed", "maybe", "possibly", "perhaps", "ish", "negative", "between", "through", "to"}
    | {"until", "root", "choose", "am", "pm", "a.m", "p.m", "oclock", "sqrt", "sin", "cos", "tan", "log", "ln", "exp"}
    | {"sinh", "cosh", "tanh", "mu", "omega"}
)
_AND_NUMBER = re.compile(r"\b(?:and|,) (?:an?|one|two|three|four|five|six|seven|eight|nine|ten)\b")
_OF_SYMBOL = re.compile(r"\b(?:times|of|as|than|by|from|with)\s+(?!a\b)[a-zA-Z]\b|\btimes\s+the\b")
_CHANGING_CHINESE = re.compile("[半负非不或至到折成打零倍]|分之|以[上下内外]")
_POWER_OF_UNITS = re.compile(r"(?<=units)\s?\^\s?\{?[23]\}?")
_PARTS = ("half", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
_SCALES: dict[str, Fraction] = {
    "dozen": Fraction(12), "ten": Fraction(10), "hundred": Fraction(100), "thousand": Fraction(10**3),
    "grand": Fraction(10**3), "lakh": Fraction(10**5), "lac": Fraction(10**5), "million": Fraction(10**6),
    "mil": Fraction(10**6), "mln": Fraction(10**6), "mn": Fraction(10**6), "crore": Fraction(10**7),
    "billion": Fraction(10**9), "bn": Fraction(10**9), "trillion": Fraction(10**12), "quadrillion": Fraction(10**15),
    "quintillion": Fraction(10**18), "halve": Fraction(1, 2), "quarter": Fraction(1, 4),
    "sixteenth": Fraction(1, 16), "twentieth": Fraction(1, 20),
    "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000), "millionth": Fraction(1, 10**6),
    "billionth": Fraction(1, 10**9), "per thousand": Fraction(1, 1000), "per mille": Fraction(1, 1000),
    "per mill": Fraction(1, 1000), "per hundred": Fraction(1, 100), "per million": Fraction(1, 10**6),
    "ppm": Fraction(1, 10**6), "十": Fraction(10), "百": Fraction(100), "千": Fraction(1000), "万": Fraction(10**4),
    "亿": Fraction(10**8), **{name: Fraction(1, 2 + i) for i, name in enumerate(_PARTS)},
}  # fmt: skip
_MONEY = "dollars|euros|GBP|rupees|yen|won"
# Short ones in small letters only: mN is a millinewton.
_SCALE = re.compile(
    rf"\s*({_MONEY})?\s*((?i:{'|'.join(sorted(filter(lambda name: len(name) > 3, _SCALES), key=len, reverse=True))})"
    rf"|{'|'.join(name for name in _SCALES if len(name) <= 3)})s?(?![a-zA-Z-])\s*"
)
# Behind money these are no units; alone they may be kelvin and molar.
SHORT_SCALES = {"K": 1000, "k": 1000, "M": 10**6, "B": 10**9}
_SHORT_SCALE = re.compile(rf"\s*({_MONEY})\s*([KkMB])$|\s*([KkMB])\s+({_MONEY})$")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3, "cu": 3}


def parse_unit(text: str, *, bare: bool = False) -> Unit | None:
    r"""The unit that `text` such as `cm`, `cm^{2}`, `square feet` or `km/h` names, or None where it names none.

    Args:
        text: Without \text{} and white space around it.
        bare: It stood in no \text{}, so that short symbols may be variables.
    """
    if bare and "\\" in text:
        return None
    text = _CHINESE.get(text.strip(), text)
    for pattern, new in _SIGNS:
        text = pattern.sub(new, text)
    factors: list[tuple[Unit, int]] = []
    sign, power, position = 1, 1, 0
    for token in _TOKEN.finditer(text):
        if text[position : token.start()].strip(" .\\{}"):
            return None
        position = token.end()
        word = token[1]
        if token.group() in ("/", "per"):
            sign = -1
        elif word in ("squared", "cubed") and factors:
            unit, exponent = factors[-1]
            factors[-1] = unit, exponent * _POWERS[word]
        elif word in _POWERS:
            power = _POWERS[word]
        elif word is not None:
            unit = _known(word, bare)
            if unit is None:
                return None
            factors.append((unit, int(token[2] or 1) * power * sign))
            power = 1
    return None if not factors or text[position:].strip(" .\\{}") else _product(factors)


def _known(word: str, bare: bool) -> Unit | None:
    """The unit of a symbol or name, also in the plural, and of a name in capitals."""
    name = word.casefold()
    if name in _CHANGING:
        return None
    for symbol in (word, word.removesuffix("s") if len(word) > 2 else ""):
        if symbol in _SYMBOLS and (not bare or _PLAIN.fullmatch(symbol)):
            return _SYMBOLS[symbol]
    return (_NAMES.get(name) or _NAMES.get(name.removesuffix("s"))) if len(word) > 2 else None


def _product(factors: list[tuple[Unit, int]]) -> Unit:
    factor, dimensions = Fraction(1), Counter[str]()
    for unit, exponent in factors:
        factor *= unit.factor**exponent
        for kind, power in unit.dimensions:
            dimensions[kind] += power * exponent
    return Unit(factor, tuple(sorted((kind, power) for kind, power in dimensions.items() if power)))


def _define(table: str, prefixes: dict[tuple[str, str], int]) -> None:
    for line in table.strip().splitlines():
        words, _, worth = line.partition("=")
        symbols, names = (part.split() for part in words.split("|"))
        value, _, others = worth.strip().partition(" ")
        unit = parse_unit(others) or Unit(Fraction(1), () if value else ((symbols[0], 1),))
        for known, form, spelled in ((_SYMBOLS, 0, symbols), (_NAMES, 1, names)):
            for prefix, power in {("", ""): 0, **prefixes}.items():
                scaled = unit._replace(factor=unit.factor * Fraction(value or 1) * Fraction(10) ** power)
                known.update({prefix[form] + word: scaled for word in spelled})


_define(_WITH_PREFIX, _PREFIXES)
_define(_WITHOUT_PREFIX, {})


class Label(NamedTuple):
    """What stands behind a number: what it multiplies the number by, and the unit, None where the words name none."""

    scale: Fraction
    unit: Unit | None


def read_label(text: str, *, bare: bool = False, attached: bool = False) -> Label | None:
    r"""The label that words behind a number are, or None where they change the answer (`5 or so`, `5 halves`).

    Args:
        text: A `LABEL`, or words.
        bare: Some of them stand in no \text{}, so that short symbols may be variables.
        attached: Besides, they follow the number immediately.
    """
    text = re.sub(_TEXT, r" \1 ", text).strip()
    scale = Fraction(1)
    if found := _SHORT_SCALE.match(text):
        scale, text = scale * SHORT_SCALES[found[2] or found[3]], found[1] or found[4]
    while found := _SCALE.match(text):
        scale *= _SCALES[found[2].lower()]
        text = (found[1] or "") + " " + text[found.end() :]
    unit = parse_unit(text, bare=bare)
    if attached:
        return Label(scale, unit) if unit is not None and _ATTACHED.match(text) else None
    if unit is not None or not text.strip():
        return Label(scale, unit)
    words = re.findall(r"[^\W\d_]+(?:\.[^\W\d_]+)*", text.casefold())
    text = _POWER_OF_UNITS.sub("", text)
    if any(character.isdigit() for character in text) or not any(map(_is_noun, words)):
        return None
    if _CHANGING.intersection(words) or _AND_NUMBER.search(text.casefold()) or _OF_SYMBOL.search(text):
        return None
    return None if _CHANGING_CHINESE.search(text) else Label(scale, None)


def _is_noun(word: str) -> bool:
    """Whether letters are rather a word than variables."""
    in_order = word in "abcdefghijklmnopqrstuvwxyz"
    if "\u2e80" < word[0] < "\ufb00":  # a counter of Chinese, Japanese or Korean
        return True
    return len(word) > 2 and not in_order and re.search(r"[aeiouy]|s$|[^a-z]", word) is not None
