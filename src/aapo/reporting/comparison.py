"""What the evaluation says: base against trained model, each with its 95% interval, and the verdict in words."""

import json
import math
from typing import NamedTuple

from aapo.runs import RunDirectory

PRINTED_POINTS = 0.05


class Estimate(NamedTuple):
    """An accuracy (a fraction) of one model on one task, its 95% interval and the size of the sample."""

    value: float
    low: float
    high: float
    num_problems: int
    num_samples: int

    def __str__(self) -> str:
        """Such as `31.2% [28.0, 34.5]`."""
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def size(self) -> str:
        """Such as `200 problems, 4 samples each`."""
        problems = "1 problem" if self.num_problems == 1 else f"{self.num_problems} problems"
        return f"{problems}, {self.num_samples} {'sample' if self.num_samples == 1 else 'samples'} each"


class Change(NamedTuple):
    """From the base to the trained model on one task by one metric."""

    task: str
    metric: str
    base: Estimate
    trained: Estimate

    @property
    def points(self) -> float:
        """Trained minus base, in percentage points."""
        return 100 * (self.trained.value - self.base.value)

    @property
    def outside_noise(self) -> bool:
        """Whether the two 95% intervals are disjoint; touching intervals are not."""
        return self.trained.low > self.base.high or self.trained.high < self.base.low

    @property
    def noise(self) -> str:
        """`outside the noise` or `inside the noise`."""
        return "outside the noise" if self.outside_noise else "inside the noise"

    @property
    def sentence(self) -> str:
        """Such as `accuracy rose from 31.2% [28.0, 34.5] to 78.9% [76.1, 81.5], outside the noise`."""
        quantity = "accuracy" if self.metric.startswith("avg@") else self.metric
        verb = "rose" if self.points > 0 else "fell"
        if not self.outside_noise and abs(self.points) < PRINTED_POINTS:
            verb = "stayed level"
        return f"{quantity} {verb} from {self.base} to {self.trained}, {self.noise}"


class Comparison(NamedTuple):
    """The base and the trained model on one task by one metric; `None` where a model has no estimate."""

    task: str
    metric: str
    base: Estimate | None
    trained: Estimate | None

    @property
    def change(self) -> Change | None:
        """From base to trained, if both have an estimate."""
        return Change(self.task, self.metric, self.base, self.trained) if self.base and self.trained else None


class Verdict(NamedTuple):
    """The evaluation in words: a headline, sentences under it, and `better`, `worse`, `unclear` or `absent`."""

    headline: str
    details: list[str]
    tone: str


def read_comparisons(run: RunDirectory) -> list[Comparison]:
    """One comparison a task and metric, in the order of `evaluation/results.json`; empty if there is no evaluation.

    A row whose estimate is null or NaN says that nothing could be scored, and counts as not evaluated.
    """
    file = run.evaluation / "results.json"
    if not file.exists():
        return []
    models: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")):
        found = models.setdefault((row["task"], row["metric"]), {})
        if row["estimate"] is not None and math.isfinite(row["estimate"]):
            numbers = (row["estimate"], row["low"], row["high"], row["num_problems"], row["num_samples"])
            found[row["model"]] = Estimate(*numbers)
    return [Comparison(*key, found.get("base"), found.get("trained")) for key, found in models.items() if found]


def headline_changes(comparisons: list[Comparison]) -> list[Change]:
    """The changes that the verdict is about: mean accuracy (`avg@k`) where it was measured, else every metric."""
    both = [change for row in comparisons if (change := row.change)]
    return [change for change in both if change.metric.startswith("avg@")] or both


def judge(comparisons: list[Comparison]) -> Verdict:
    """The verdict on a run: whether its held-out accuracy changed by more than the 95% intervals allow for."""
    changes = headline_changes(comparisons)
    if not changes:
        return _judge_without_pair(comparisons)
    if len(changes) > 1:
        return _judge_many(changes)
    change = changes[0]
    if change.outside_noise:
        reading = "The 95% intervals are disjoint."
    else:
        reading = "The 95% intervals overlap, so this does not show that training changed anything."
    return Verdict(f"Held-out {change.sentence}", [f"{change.task}: {_size(change)}. {reading}"], _tone(changes))


def _judge_without_pair(comparisons: list[Comparison]) -> Verdict:
    if not comparisons:
        detail = (
            "Base and trained model have not been compared on held-out problems, so this page cannot say whether "
            "training helped; the numbers below come from training itself."
        )
        return Verdict("Not evaluated yet", [detail], "absent")
    details = []
    for row in comparisons:
        name, only = ("base", row.base) if row.base else ("trained", row.trained)
        assert only
        details.append(f"{row.task}, {row.metric}: the {name} model reaches {only} on {only.size}.")
    return Verdict("Only one of base and trained model was evaluated: nothing to compare", details, "absent")


def _judge_many(changes: list[Change]) -> Verdict:
    rose = sum(change.outside_noise and change.points > 0 for change in changes)
    fell = sum(change.outside_noise and change.points < 0 for change in changes)
    inside = len(changes) - rose - fell
    directions = [f"{verb} on {count}" for verb, count in (("rose", rose), ("fell", fell)) if count]
    if directions:
        headline = f"Held-out accuracy {' and '.join(directions)} of {len(changes)} measurements, outside the noise"
        headline += f"; {inside} {'is' if inside == 1 else 'are'} inside it" if inside else ""
    else:
        headline = f"Held-out accuracy changed inside the noise only, on all {len(changes)} measurements"
    details = [f"{change.task}: {change.sentence}; {_size(change)}." for change in changes]
    return Verdict(headline, details, _tone(changes))


def _size(change: Change) -> str:
    base, trained = change.base.size, change.trained.size
    size = trained if base == trained else f"{base} for base and {trained} for trained"
    return f"{size} ({change.metric})"


def _tone(changes: list[Change]) -> str:
    """`better` or `worse` where every change outside the noise goes that way, else `unclear`."""
    signs = {change.points > 0 for change in changes if change.outside_noise}
    if len(signs) != 1:
        return "unclear"
    return "better" if True in signs else "worse"
