r"""Why our verdicts differ from lighteval's: each cause with its explanation, and how a difference's is found."""

import re
from typing import Any, NamedTuple


class Cause(NamedTuple):
    """A cause of differences: who pays where it is at work, `lighteval` or `us`, and what both do."""

    paid_by: str
    explanation: str


# Paragraphs: the cause, who pays, and the explanation.
TEXT = r"""
a physical unit that we do not know / lighteval
The gold answer has no unit and the answer has one. lighteval drops what stands in `\text{}`; our table of units does
not have this one. **Our verdict is wrong.**

a right answer that we do not pay / lighteval
**Our verdict is wrong.**

a wrong answer that we pay / us
**Our verdict is wrong.**

a unit outside of text / us
lighteval cannot read `\mathrm{cm}^{-3}` and goes on to earlier formulas; we leave out a unit that the gold answer does
not have.

any letter that stands somewhere / lighteval
Without an answer in a form that it knows, lighteval takes a letter from the text; we want it after "Answer:" or
"answer is", in a box or in a tag.

any number or formula that stands in the text / lighteval
lighteval falls back to the last number or formula, also of a completion that was cut off; we want a box, a tag, or
the task's convention.

a gold answer that cannot be read / lighteval
lighteval reads a part of it and pays for that; we leave the sample out, because nobody can tell.

another place / lighteval
lighteval takes boxes that are joined by commas or `and` as one set, and an "answer is" before a box; of an "answer
is" it takes the first number or letter. We take the last box, and all that the phrase holds.

one side of a relation / lighteval
lighteval takes the right-hand side of a chain whatever the rest says, and drops relation signs that it cannot read;
with us the members of a chain must agree.

an equation that is left to solve / lighteval
lighteval takes the right-hand side of an equation; with us it is an answer where the left-hand side is a name, a
quantity or a computation, and `3x=12` only hands the question back.

several unknowns / lighteval
lighteval compares their values as a set; with us they stand in the order of the gold answer.

arithmetic that is still to be done / lighteval
lighteval evaluates it; where the gold answer is a plain number we want a number, for the rest may only repeat the
question.

words behind a number / lighteval
lighteval drops all that stands in `\text{}`; words that change the number or name another answer count with us.

another unit or scale / lighteval
lighteval drops units and `million`; where gold and answer both have a unit it counts with us, and scales multiply.

groups of three behind a zero / lighteval
lighteval reads `0,375` as 375; with us it is 0.375 or a list, and `0 375` two numbers.

another base / lighteval
lighteval drops the subscript of a numeral; with us the bases must be the same.

plus-minus and modulus / lighteval
lighteval drops `\pm` and evaluates `\mod`; `\pm 3` is two numbers with us, and `2 \mod 5` is none.

a mixed number / lighteval
lighteval multiplies `1\frac{1}{2}` out to 1/2; it is 3/2.

six decimals / lighteval
lighteval rounds to six decimals or to floating point; we compare exactly, or to the digits shown if they are six
significant ones or more.

an answer given twice / lighteval
The sets of lighteval merge equal members, so that `42, 42` is 42; it is two answers with us.

sets, points and intervals / lighteval
lighteval takes `\{1,2\}`, `(1,2)` and `(2,1)` for one another and unwraps sets in sets; brackets count with us.

words, dates and times as arithmetic / lighteval
lighteval multiplies the letters of a word and computes dates and times; they are text with us.

a part of the answer / lighteval
lighteval cannot read `cases`, `aligned` or a second branch and compares a piece of it; we compare all of them.

Euler's number / lighteval
lighteval takes the variable `E` for Euler's number; capitals are other symbols with us.

degrees dropped / lighteval
lighteval drops the degree sign, so that `\sin 30^\circ` is the sine of 30 radians; it is 1/2 with us.

primes and transposes / lighteval
lighteval drops primes and transposes and takes `f^{-1}` and `f^{(2)}` for powers; each makes another symbol with us.

a letter in dollars, a box or before its option / us
lighteval finds a letter behind a space or the beginning of a line, followed by space, stop, comma or colon; such a
letter elsewhere in the text comes before `$C$`, `\boxed{C}` and `C) 42`. Without the options of a question it has no
letters at all and reads the 42.

an answer in a tag / us
lighteval does not know `<answer>`: it reads the last number or formula in dollars of the whole text, or nothing. It
is the second place where we look.

a place that lighteval does not read / us
`\fbox`, a box before an empty one, a box in the thinking (its pipeline removes that), a box after "the final answer
is" something else, several boxes for one answer each, `\(` and `\)` within a gold answer's own: we take the last box
that holds an answer, or the boxes of one sentence where there are as many answers.

a full stop in the box / us
lighteval cannot read `588.` and goes on to earlier formulas, if there are any; we drop the full stop.

e-notation in the answer / us
lighteval reads `4.5e33` as 4.5 times Euler's number times 33. (The export rewrites such gold answers.)

signs that lighteval does not know / us
Unicode digits, fractions, roots, currencies, Chinese counters and punctuation, invisible characters, `\varnothing`,
`\textcolor`, `\underline`: lighteval reads nothing or a part; we bring them to one notation first.

what stands around the answer / us
lighteval multiplies the letters of a label such as `\text{Answer: }`, and cannot read sizes, phantoms, line breaks or
an `align`; they are no part of the answer with us.

the notation of programs / us
lighteval cannot read `x**2`, reads `oo` as a product and `abs(x)` as one of letters; we read gold answers and answers
as SymPy prints them.

a mixed number in plain text / us
lighteval reads the 1 of `1 1/2`; it is 3/2.

repeating decimals / us
lighteval cannot read `\overline{3}`, `0.(9)` or `0.333...`; they are exact numbers with us.

decimals of an irrational constant / us
lighteval compares decimals with fractions only; six significant digits or more may stand for a constant with us.

percent on one side / us
lighteval divides by 100 or, of the word, does not; 50% is 50 or 0.5 with us, as the gold answer needs it.

units converted, scales and attached words / us
lighteval drops units without converting them and multiplies the letters of words outside `\text{}`; we convert units,
multiply scales, and leave out words that name what is counted. Of an amount it does not know `EUR` or `Rs.`.

an inequality for an interval / us
lighteval compares them only where the gold answer is the inequality, and cannot read a set by its condition, `]0,4]`,
`|x|<3` for its interval or `x\ne 4`; all of them are sets of numbers with us.

plus-minus as two numbers / us
lighteval drops `\pm` or cannot read it; with us it is the list of both, and of four where two are independent.

the value of a numeral with a base / us
lighteval drops the subscript; we compare values, or digits where the gold answer has a base.

thousands / us
lighteval adds up `12 345`, takes `2,100` for one number only, and joins `0,375` to 375; spaces group thousands with
us, and such a gold answer may be either.

vectors and points / us
lighteval does not compare rows and columns with tuples, cannot read angle brackets, `\\[2mm]`, a transposed row or
`2\mathbf{i}+7\mathbf{j}`, and takes the name of a point for a function; a vector is the tuple of its members with us.

a constant of integration / us
lighteval compares its letter; its name is free with us.

a name beside the value / us
lighteval takes the right-hand side, which may be the name, and compares a named value in a list with its name only;
the name may stand on either side with us, or not at all.

text compared as text / us
lighteval keeps case, hyphens and points within `\text{}` and multiplies letters outside it; words are equal whatever
their case and final stop with us.

equations in a cases environment / us
lighteval cannot read it; it is the list of its equations with us.

a condition behind the answer / us
lighteval multiplies the words of "for all real x", compares the condition alone or a set with it; behind a formula it
changes nothing with us.

degrees / us
lighteval drops the degree sign and computes in radians; `\sin 30^\circ` is 1/2 with us.

odd roots of negative numbers / us
lighteval takes the complex root; `\sqrt[3]{-8}` is -2 with us.

residues / us
lighteval multiplies the letters of `mod` or reads the modulus; `2 \pmod 7` is 2 and `9 \pmod 7` with us.

letters with an index, primes and shapes of letters / us
lighteval cannot read `E_1` or `A^\top`, takes `f^\prime` for a power, `\phi` and `\varphi` for two letters, and `de` in
a product of letters for one; we rename symbols before they are compared.

functions in other words / us
lighteval takes `sin(x)` for a product, does not know `\operatorname` and reads the 2 of `\lg 2`; they are the
functions with us.

equal after more algebra / us
Complex numbers in another form, decimals under a root, and the same line by a scaled equation: lighteval's comparison
does not find it.
"""
CAUSES = {
    title.partition(" / ")[0]: Cause(title.partition(" / ")[2], text.replace("\n", " "))
    for title, _, text in (paragraph.partition("\n") for paragraph in TEXT.strip().split("\n\n"))
}
# The first pattern that is found in what `find_cause` makes of the difference decides.
BY_LIGHTEVAL = {
    r"right=lighteval topic=a solution's box": "a physical unit that we do not know",
    r"right=lighteval": "a right answer that we do not pay",
    r"topic=a letter": "any letter that stands somewhere",
    r"outcome=no_answer": "any number or formula that stands in the text",
    r"outcome=unparseable": "a gold answer that cannot be read",
    r"topic=where the answer is.*rule=math-verify": "six decimals",
    r"topic=where the answer is": "another place",
    r"implies": "one side of a relation",
    r"(topic=further|topic=primes|topic=transpose).*gold=[^\n]*('|\^T)": "primes and transposes",
    r"topic=(equations|unsolved|letters)|why=an unsolved|topic=further.*answer=[^\n]*=": (
        "an equation that is left to solve"
    ),
    r"topic=assignments.*gold=[^\n]*=": "several unknowns",
    r"topic=assignments": "one side of a relation",
    r"topic=(unevaluated|never|matrices|numbers|plain).*rule=unevaluated": "arithmetic that is still to be done",
    r"topic=(units|never|words that|further).*rule=(words|unevaluated)": "words behind a number",
    r"topic=(thousands|leading)|topic=further.*answer=0,": "groups of three behind a zero",
    r"topic=(units|words that)|topic=(further|never).*rule=number": "another unit or scale",
    r"topic=number bases": "another base",
    r"topic=plus-minus": "plus-minus and modulus",
    r"topic=numbers": "a mixed number",
    r"topic=rounded|10\^\{-20\}": "six decimals",
    r"topic=lists": "an answer given twice",
    r"topic=sets": "sets, points and intervals",
    r"topic=words": "words, dates and times as arithmetic",
    r"topic=never|begin\{cases\}": "a part of the answer",
    r"\\circ": "degrees dropped",
    r"answer=[eE]\n": "Euler's number",
    r"topic=symbols": "primes and transposes",
}
BY_US = {
    r"right=lighteval": "a wrong answer that we pay",
    r"topic=a letter": "a letter in dollars, a box or before its option",
    r"<answer>.*</answer>": "an answer in a tag",
    r"topic=where": "a place that lighteval does not read",
    r"topic=(notation|integer|multiple|further).*answer=\w+\.\n": "a full stop in the box",
    r"topic=(multiple|choice)": "a letter in dollars, a box or before its option",
    r"topic=a solution's box in e": "e-notation in the answer",
    r"answer=[^\n]*([^\x01-\x7f]|color|underline|varnothing)": "signs that lighteval does not know",
    r"answer=1 1/2": "a mixed number in plain text",
    r"topic=rounded|answer=3\.14159\.|(gold|answer)=[\d.]{16}": "decimals of an irrational constant",
    r"topic=numbers|topic=unevaluated": "repeating decimals",
    r"topic=a solution's box": "a unit outside of text",
    r"topic=percent": "percent on one side",
    r"topic=(units|money|currency|compound|words that|never)|(gold=£|answer=EUR)": (
        "units converted, scales and attached words"
    ),
    r"topic=plain|topic=(notation|further).*(gold|answer)=[^\n]*(\*\*|\boo\b|[Aa]bs\(|\bpi\b|\*I|\^-)": (
        "the notation of programs"
    ),
    r"topic=(notation|wrappers)": "what stands around the answer",
    r"topic=plus-minus|topic=sets|gold=[^\n]*\\pm(?!od)": "plus-minus as two numbers",
    r"topic=qualifiers|why=a condition|why=[^\n]*constant is named|answer=a_n=2\^n": "a condition behind the answer",
    r"gold=[^\n]*\+ ?[Cc]\n": "a constant of integration",
    r"topic=(matrices|tuples|points)|topic=further.*(langle|gold=[A-Z]\()": "vectors and points",
    r"topic=(assignments|named)": "a name beside the value",
    r"\\circ|°": "degrees",
    r"sqrt\[[35]\]|\^\{1/3\}": "odd roots of negative numbers",
    r"(gold|answer)=[^\n]*mod\b": "residues",
    r"topic=(intervals|set builder|further).*(gold|answer)=[^\n]*([<>[\]]|\\le|\\in|\\ne)": (
        "an inequality for an interval"
    ),
    r"topic=number bases": "the value of a numeral with a base",
    r"topic=thousands": "thousands",
    r"topic=words": "text compared as text",
    r"begin\{cases\}": "equations in a cases environment",
    r"topic=(symbols|letters)|\\(var)?(epsilon|phi)": "letters with an index, primes and shapes of letters",
    r"topic=expressions.*answer=[^\n]*(sin|exp|cos|log)": "functions in other words",
    r"topic=(expressions|equations)": "equal after more algebra",
}


def find_cause(difference: dict[str, Any]) -> str:
    """The cause of a difference (`differences.py`).

    Raises:
        LookupError: None fits, so that one is to be written.
    """
    ours = difference["ours"]
    described = (
        f"right={difference['right']} topic={difference['topic']} outcome={ours['verdict']} rule={ours['rule']}\n"
        f"why={difference['why']}\ngold={difference['gold']}\nanswer={ours['answer']}\n{difference['completion']}"
    )
    for pattern, cause in (BY_LIGHTEVAL if difference["lighteval"]["pays"] else BY_US).items():
        if re.search(pattern, described, re.DOTALL):
            return cause
    raise LookupError(f"no cause for {difference}")
