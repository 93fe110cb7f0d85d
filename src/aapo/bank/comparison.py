"""What changes when a bank's samples are scored anew."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aapo.bank.reference import ReferenceBank
from aapo.grading import VERDICT


@dataclass(frozen=True)
class ScoreChange:
    """One reward function's scores of the same samples, before and after.

    Attributes:
        name: The reward function.
        before: Its mean reward over the samples that it could score; None where the older set is not of this function.
        after: The same in the newer set; None where no sample could be scored.
        num_compared: Samples that both sets have scores of.
        num_changed: Those whose verdict differs, or where it logs no verdicts, whose reward.
        verdicts: Number of samples by (old verdict, new verdict); empty where a set has no verdicts.
    """

    name: str
    before: float | None
    after: float | None
    num_compared: int
    num_changed: int
    verdicts: dict[tuple[str, str], int]


def compare_scores(before: ReferenceBank | None, after: ReferenceBank) -> list[ScoreChange]:
    """The changes of each of the newer set's reward functions, matched by prompt and sample.

    Args:
        before: The bank by an older score set; None when there is none.
        after: The same bank by a newer one.
    """
    return [_change(name, before, after) for name in after.identity["rewards"]]


def _change(name: str, before: ReferenceBank | None, after: ReferenceBank) -> ScoreChange:
    reward, verdict = f"reward/{name}", f"{VERDICT}{name}"
    new = {row["key"]: row for row in after.rows([reward, verdict])}
    if before is None or name not in before.identity["rewards"]:
        return ScoreChange(name, None, _mean(value for row in new.values() for value in row[reward]), 0, 0, {})
    pairs = [(row, new[row["key"]]) for row in before.rows([reward, verdict]) if row["key"] in new]
    rewards = [pair for old, now in pairs for pair in zip(old[reward], now[reward], strict=True)]
    both = [(old[verdict], now[verdict]) for old, now in pairs]
    verdicts: Counter[tuple[str, str]] = Counter()
    if both and all(old and now for old, now in both):
        verdicts.update((str(a), str(b)) for old, now in both for a, b in zip(old, now, strict=True))
        changed = sum(count for (old, now), count in verdicts.items() if old != now)
    else:
        changed = sum(old != now for old, now in rewards)
    old_mean, new_mean = (_mean(values) for values in (zip(*rewards, strict=True) if rewards else ((), ())))
    return ScoreChange(name, old_mean, new_mean, len(rewards), changed, dict(verdicts.most_common()))


def _mean(values: Iterable[float | None]) -> float | None:
    scored = [value for value in values if value is not None]
    return sum(scored) / len(scored) if scored else None
