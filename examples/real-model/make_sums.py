"""Writes one-digit sums in several wordings: train.jsonl and test.jsonl, whose sums are in no wording of the other.

python examples/real-model/make_sums.py sums
"""

import argparse
import json
import random
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path

from aapo.files import write_text

WORDINGS = (
    "What is {a} + {b}?",
    "Calculate {a} + {b}.",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "I have {a} apples and buy {b} more. How many apples do I have?",
)
NUM_HELD_OUT = 11  # of the 55 pairs of digits


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    pairs = list(combinations_with_replacement(range(10), 2))
    random.Random(0).shuffle(pairs)
    for name, chosen in (("test", pairs[:NUM_HELD_OUT]), ("train", pairs[NUM_HELD_OUT:])):
        rows = list(sums(chosen))
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{folder / name}.jsonl: {len(rows)} problems")


def sums(pairs: list[tuple[int, int]]) -> Iterator[dict[str, str]]:
    """The pairs in both orders and all wordings."""
    for a, b in sorted({order for pair in pairs for order in (pair, pair[::-1])}):
        for wording in WORDINGS:
            yield {"question": wording.format(a=a, b=b), "answer": str(a + b)}


if __name__ == "__main__":
    main()
