"""A replay as two tables: what each algorithm's advantages do, and how they agree with the run's own."""

from collections.abc import Sequence
from math import isfinite

from aapo.evaluation import Estimate, ScoreTable
from aapo.experiments.replay import AlgorithmReplay, Replay

# Quantity, heading, format of its number, factor.
Column = tuple[str, str, str, float]

SIGNAL: Sequence[Column] = (
    ("dead_frac", "dead %", ".1f", 100),
    ("dead_after_margin_frac", "still dead %", ".1f", 100),
    ("pushing_frac", "push %", ".1f", 100),
    ("mean_size", "mean |A|", ".3f", 1),
    ("bias", "net bias", "+.3f", 1),
)
AGREEMENT: Sequence[Column] = (
    ("both_push_frac", "both push %", ".1f", 100),
    ("same_sign_frac", "same sign %", ".1f", 100),
    ("correlation", "Pearson r", ".3f", 1),
    ("correlation_within_steps", "r in steps", ".3f", 1),
    ("token_cosine", "token cosine", ".3f", 1),
)


def replay_tables(replay: Replay) -> list[ScoreTable]:
    """The two tables; an empty cell where a quantity is not defined, no interval where there is none."""
    signal = [_row("this run", replay.own, SIGNAL), *(_row(item.name, item, SIGNAL) for item in replay.algorithms)]
    agreement = [_row(item.name, item, AGREEMENT) for item in replay.algorithms]
    return [
        ScoreTable(["algorithm", *(column[1] for column in SIGNAL)], signal, []),
        ScoreTable([f"against {replay.own.name}", *(column[1] for column in AGREEMENT)], agreement, [_sizes(replay)]),
    ]


def _sizes(replay: Replay) -> str:
    known = replay.num_reference_samples
    where = "stored with the rollouts" if replay.bank is None else f"of the bank {replay.bank}"
    return (
        f"{len(replay.steps_S)} steps, {replay.num_groups} groups, {replay.num_samples} samples"
        + (f", {replay.num_unscored} without a reward" if replay.num_unscored else "")
        + (f"; {known} reference rewards a prompt, {where}" if known else "; no reference rewards")
        + ". 95% intervals over steps."
    )


def _row(name: str, item: AlgorithmReplay, columns: Sequence[Column]) -> list[str]:
    return [name, *(_cell(getattr(item.whole, key), form, factor) for key, _, form, factor in columns)]


def _cell(value: Estimate, form: str, factor: float) -> str:
    if not isfinite(value.estimate):
        return ""
    text = format(factor * value.estimate, form)
    if not isfinite(value.low + value.high):
        return text
    return f"{text} [{format(factor * value.low, form)}, {format(factor * value.high, form)}]"
