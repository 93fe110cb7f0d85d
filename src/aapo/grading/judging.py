"""Which completions are right: the verdict of the reward function that judges.

A reward says what a completion is worth to training, and two functions that agree on the answer may pay it differently:
`len` pays a long right answer less than a half, `code` a program that passes three tests of five more. So what is right
is read from verdicts, and from a reward only where a threshold for it was declared.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from aapo.errors import InputError, nearest
from aapo.grading.registry import REWARDS
from aapo.ranges import check_all

VERDICT = "verdict/"
# Shipped reward functions that log verdicts; those of others are known once they have logged them.
VERDICT_REWARDS = ("accuracy", "code", "cosine", "len", "reasoning_gym")
RIGHT, UNREADABLE = "correct", "unparseable_gold"
_DECLARE = (
    "set judge_threshold, so that a completion is right where it pays at least that, or log its verdicts as "
    f"log_extra('{VERDICT}NAME', [...]), '{RIGHT}' for right ones"
)


@dataclass(frozen=True)
class Judge:
    """Says which completions are right.

    Attributes:
        name: The reward function that judges; None takes the first that logs verdicts.
        threshold: Of a function that logs none: a completion is right where its reward is at least this.
    """

    name: str | None = None
    threshold: float | None = None

    def verdicts(self, names: Sequence[str], logged: Collection[str]) -> str | None:
        """The column of the verdicts that count, such as `verdict/accuracy`; None where there are none.

        Args:
            names: The reward functions, in their order.
            logged: The columns that were logged.
        """
        if self.name is not None:
            return column if (column := f"{VERDICT}{self.name}") in logged else None
        # A function that calls another logs the other's verdicts.
        others = sorted(column for column in logged if column.startswith(VERDICT))
        return next((column for column in [*(f"{VERDICT}{name}" for name in names), *others] if column in logged), None)

    def correct(
        self, rewards: Mapping[str, Sequence[float | None]], notes: Mapping[str, Sequence[str | None]]
    ) -> list[float | None]:
        """1.0 for each right completion, 0.0 for a wrong one, None where nothing says.

        By the verdicts, `correct` is right; nothing said and `unparseable_gold` are None; everything else, such as
        `wrong`, `no_answer` and `timeout`, is wrong. Where no function logs verdicts and no threshold is declared, all
        are None.

        Args:
            rewards: By reward function, in their order, one reward a completion; None or NaN where unscored.
            notes: By column, what the functions logged of each completion.

        Raises:
            InputError: The function that was named does not judge, or the threshold has no effect.
        """
        column = self.verdicts(list(rewards), notes)
        if column is not None:
            if self.threshold is not None:
                raise InputError(_no_effect(column.removeprefix(VERDICT)))
            return [None if said in (None, UNREADABLE) else float(said == RIGHT) for said in notes[column]]
        values = list(rewards[self.name] if self.name is not None else next(iter(rewards.values())))
        if self.threshold is not None:
            return [None if value is None or isnan(value) else float(value >= self.threshold) for value in values]
        if self.name is not None:
            raise InputError(f"judge is {self.name}, which logs no verdicts; {_DECLARE}")
        return [None] * len(values)

    def check(self, names: Sequence[str]) -> None:
        """Check that one of these reward functions can judge so, as far as it is known before they are called.

        Raises:
            InputError: None can; the message says what to set.
        """
        check_all({"judge_threshold": self.threshold})
        if self.name is not None and self.name not in names:
            raise InputError(
                f"judge is {self.name!r}{nearest(self.name, names)}; it must be one of the reward functions, "
                f"{', '.join(names)}"
            )
        if self.threshold is None:
            if self.name in REWARDS and self.name not in VERDICT_REWARDS:
                raise InputError(f"judge is {self.name}, which logs no verdicts; {_DECLARE}")
            return
        if self.name is None and len(names) > 1:
            raise InputError(
                f"judge_threshold is {self.threshold}, and which of {', '.join(names)} it is for is not said; set judge"
            )
        if (judge := self.name or names[0]) in VERDICT_REWARDS:
            raise InputError(_no_effect(judge))

    def known(self, names: Sequence[str]) -> bool:
        """Whether something is known to say what is right, before the functions are called."""
        return self.threshold is not None or self.name is not None or any(name in VERDICT_REWARDS for name in names)

    def describe(self, names: Sequence[str]) -> str:
        """In words what says that a completion is right, as far as it is known before the functions are called."""
        if self.threshold is not None:
            return f"where {self.name or names[0]} pays at least {self.threshold:g}"
        if (judge := self.name or next((name for name in names if name in VERDICT_REWARDS), None)) is not None:
            return f"by the verdicts of {judge}"
        return (
            "not known, unless a reward function logs verdicts, and without it there is no accuracy; set judge and "
            "judge_threshold"
        )


BY_VERDICT = Judge()
"""The verdicts of the first reward function that logs any."""


def _no_effect(name: str) -> str:
    return f"judge_threshold has no effect, because {name} logs verdicts; remove it"
