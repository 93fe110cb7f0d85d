"""Which answers to one problem are the same answer, for majority votes."""

from collections.abc import Sequence

from aapo.grading import grade_many


def answer_classes(
    answers: Sequence[str | None], correct: Sequence[float | None], *, mathematical: bool
) -> list[int | None]:
    """A number for each answer, the same for answers that are equal; None without an answer.

    Right answers all equal the gold answer, so that only wrong ones are compared with each other.

    Args:
        answers: The extracted answers to one problem.
        correct: Whether each is right.
        mathematical: Compare as gold answers are compared (0.5 is 1/2), not as text.
    """
    right = 0
    texts: dict[str, int] = {}
    representatives: list[str] = []
    classes: list[int | None] = []
    for answer, is_right in zip(answers, correct, strict=True):
        if answer is None:
            classes.append(None)
        elif is_right == 1:
            classes.append(right)
        else:
            text = " ".join(answer.split())
            if text not in texts:
                texts[text] = _class_of(answer, representatives, mathematical) + 1
            classes.append(texts[text])
    return classes


def _class_of(answer: str, representatives: list[str], mathematical: bool) -> int:
    """The index of the representative that the answer equals; a new one where it equals none."""
    if mathematical and representatives:
        boxed = [f"\\boxed{{{answer}}}"] * len(representatives)
        for index, verdict in enumerate(grade_many(representatives, boxed, evaluated=False)):
            if verdict.outcome == "correct":
                return index
    representatives.append(answer)
    return len(representatives) - 1
