"""What runs in a grading worker: math-verify, and nothing that its process could not lose.

Nothing here is imported at the top that the trainer's process should not load.
"""

from functools import lru_cache
from typing import Any, Literal

from aapo.grading.equality import equal
from aapo.grading.numbers import Number, read_number
from aapo.grading.reading import read
from aapo.grading.symbols import in_radians, renamed

Decision = Literal["correct", "wrong", "unparseable_gold", "timeout"]
# Digits to which constants are told apart before they count as equal.
MAX_DIGITS = 200


class UnreadableGoldError(Exception):
    """What the answer is held against, which the exception names, is no mathematics."""


def decide(gold: str, answer: str, evaluated: bool) -> Decision:
    """Whether a normalized answer equals a normalized gold answer, with math-verify for what is not exact."""
    try:
        result = equal(read(gold), read(answer), math_verify_equal, evaluated=evaluated)
        return "timeout" if result is None else "correct" if result else "wrong"
    except UnreadableGoldError as error:
        # Parts of an answer such as 1+2=3=4- are held against each other, too.
        return "unparseable_gold" if str(error) in gold else "wrong"
    except (MemoryError, RecursionError):
        raise  # the limits, which the pool knows
    except Exception:  # sympy raises anything on hostile input, and the trainer must not end by it
        return "timeout"


def math_verify_equal(gold: str, answer: str) -> bool:
    """math-verify's verdict on two pieces of LaTeX, and for constants that of their digits.

    Raises:
        UnreadableGoldError: The gold answer cannot be parsed.
    """
    from math_verify import verify

    one, other = renamed(in_radians(gold), in_radians(answer))
    expected = parsed(one)
    if expected is None:
        raise UnreadableGoldError(gold)
    found = parsed(other)
    if found is None or _is_indeterminate(found):
        return False
    if _is_constant(expected) and _is_constant(found):
        return any(
            _same_constant(one - other, tolerance)
            for one, tolerance in _readings(gold, expected)
            for other, tolerance in [(value, max(tolerance, extra)) for value, extra in _readings(answer, found)]
        )
    return verify(expected, found, timeout_seconds=None)


@lru_cache(maxsize=1000)
def parsed(text: str) -> Any:
    """The sympy object that math-verify reads from LaTeX, or None."""
    import sympy
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Units are ours: math-verify would take the ab of 2ab for one.
    notation = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )  # type: ignore[call-arg]
    config = LatexExtractionConfig(normalization_config=notation, boxed_match_priority=-1)
    no_limit: Any = None
    found = parse(f"${text}$", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=no_limit)
    if not found or isinstance(found[0], str):
        return None
    value = found[0]
    if isinstance(value, sympy.Expr) and not value.has(sympy.Sum, sympy.Product):
        units: dict[Any, Any] = {symbol: sympy.I for symbol in value.free_symbols if str(symbol) == "i"}
        value = value.xreplace(units) if units else value
        value = value.replace(_is_odd_root, lambda root: (-1) ** root.exp.p * (-root.base) ** root.exp)
    return value


def _is_odd_root(part: Any) -> bool:
    """Whether it is an odd root of a negative number, which has a real value."""
    return bool(part.is_Pow and part.exp.is_Rational and part.exp.q % 2 and part.exp.q > 1 and part.base.is_negative)


def _is_indeterminate(value: Any) -> bool:
    import sympy

    return isinstance(value, sympy.Basic) and value.has(sympy.nan, sympy.zoo)


def _is_constant(value: Any) -> bool:
    import sympy

    return isinstance(value, sympy.Expr) and not value.free_symbols and bool(value.doit().is_number)


def _readings(text: str, value: Any) -> list[tuple[Any, Any]]:
    """What a constant may be, each with the tolerance of its last digit (0 where it is exact)."""
    import sympy

    number = read_number(text)
    if number is None:
        exact = value.replace(lambda part: part.is_Float, lambda part: sympy.Rational(str(part)))
        return [(exact.doit(), sympy.Integer(0))]
    rational = sympy.Rational(number.value.numerator, number.value.denominator)
    tolerance = _rational(number)
    return [(rational, tolerance), (rational / 100, tolerance / 100)] if number.percent else [(rational, tolerance)]


def _rational(number: Number) -> Any:
    import sympy

    digit = number.float_error or number.last_digit or 0
    return sympy.Rational(digit.numerator, digit.denominator) if digit else sympy.Integer(0)


def _same_constant(difference: Any, tolerance: Any) -> bool:
    """Whether a constant is below the tolerance, or without one is zero as far as its digits can be told."""
    from sympy import Abs
    from sympy.core.evalf import PrecisionExhausted

    if difference.is_zero or difference == 0:
        return True
    if not difference.is_finite and difference.is_finite is not None:
        return False
    try:
        size = Abs(difference).evalf(15, strict=True, maxn=MAX_DIGITS)
    except PrecisionExhausted:
        return True
    return bool(size.is_comparable and size < tolerance) if tolerance else bool(size == 0)


def open_r1(gold: str, completion: str, bare_gold: bool) -> tuple[Decision, str | None]:
    """The verdict of open-r1's accuracy reward and what it compared.

    Its extraction from the whole completion, its LaTeX without malformed operators, and its order of the arguments.
    With `bare_gold` the gold answer is put into a box first, which is `accuracy_lv35`.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    strict = NormalizationConfig(
        nits=False, malformed_operators=False, basic_latex=True, equations=True, boxed="all", units=True
    )  # type: ignore[call-arg]
    config = LatexExtractionConfig(
        normalization_config=strict, boxed_match_priority=0, try_extract_without_anchor=False
    )
    no_limit: Any = None
    gold_configs: dict[str, Any] = {} if bare_gold else {"extraction_config": [LatexExtractionConfig()]}
    text = rf"$\boxed{{{gold}}}$" if bare_gold else gold
    expected = parse(text, extraction_mode="first_match", parsing_timeout=no_limit, **gold_configs)
    if not expected:
        return "unparseable_gold", None
    found = parse(completion, extraction_config=[config], extraction_mode="first_match", parsing_timeout=no_limit)
    extracted = str(found[-1]) if found else None
    return "correct" if verify(found, expected, timeout_seconds=no_limit) else "wrong", extracted
