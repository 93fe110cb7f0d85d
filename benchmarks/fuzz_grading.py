"""Coverage-guided fuzzing of the grader, in one process, without math-verify.

Looks for exceptions, for comparisons that take longer than a second, for `normalize` not being idempotent, and for
verdicts that harmless text around the answer changes. Needs atheris:

    python benchmarks/fuzz_grading.py -max_total_time=300 -max_len=400 CORPUS

A failing input is written to crash-*; run the script with that file to see it again. What a crash shows goes to
tests/unit/grading_cases.json.
"""

import json
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["aapo.grading"]):  # type: ignore[reportAttributeAccessIssue]
    from aapo.grading.equality import equal
    from aapo.grading.extraction import CONVENTIONS, extract_answer, gold_answer
    from aapo.grading.limits import MAX_CHARACTERS, MAX_NESTING, is_costly, nesting
    from aapo.grading.notation import normalize
    from aapo.grading.reading import read

CASES = Path(__file__).parents[1] / "tests" / "unit" / "grading_cases.json"
MAX_SECONDS = 1.0
# Around these an answer must stay what it is. Its own braces and tags may reach into the text around it.
BEFORE = "We compute.\n\nTherefore the result is $"
AFTER = "$, as one sees at once.\n"
REACHING = ("\\", "{", "}", "<", "####")


def undecided(gold: str, answer: str) -> None:
    """The oracle of the trainer's process."""


def compare(gold: str, answer: str) -> bool | None:
    """The verdict without math-verify, None where the grader would ask a worker or refuse."""
    if max(nesting(gold), nesting(answer)) > MAX_NESTING or max(len(gold), len(answer)) > MAX_CHARACTERS:
        return None
    is_costly(answer)
    return equal(read(gold), read(answer), undecided)


def check(gold: str, text: str) -> None:
    """Run the grader on one pair and raise AssertionError where a property fails."""
    began = time.perf_counter()
    for convention in (None, *CONVENTIONS):
        extract_answer(text, convention)
    gold_text, answer = normalize(gold_answer(gold)), normalize(text)
    assert normalize(answer) == answer, ("not idempotent", text, answer, normalize(answer))
    compare(gold_text, answer)
    if answer:
        itself = compare(answer, answer)
        assert itself is not False, ("not itself", answer)
    if not any(part in text for part in REACHING):
        boxed = rf"\boxed{{{text}}}"
        assert extract_answer(boxed) == extract_answer(BEFORE + boxed + AFTER), ("surroundings", text)
    assert time.perf_counter() - began < MAX_SECONDS, ("slow", gold, text)


def fuzz(data: bytes) -> None:
    """Split the fuzzer's bytes into a gold answer and a text."""
    gold, _, text = data.decode("utf-8", "surrogateescape").partition("\x1f")
    check(gold, text)


def write_seeds(folder: Path) -> None:
    """The grading cases as a first corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(json.loads(CASES.read_text())):
        answer = extract_answer(case["completion"], case.get("convention")) or case["completion"]
        (folder / f"case-{number}").write_bytes(f"{case['gold']}\x1f{answer}".encode())


def main() -> None:
    """Fuzz with libFuzzer's own arguments."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders and not folders[0].is_file():
        write_seeds(folders[0])
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
