"""What a bank says about the reference model and the prompts."""

from dataclasses import dataclass

import numpy as np

from aapo.bank.reference import ReferenceBank
from aapo.grading import BY_VERDICT, VERDICT, Judge
from aapo.scoring import GradingShares, grading_shares


@dataclass(frozen=True)
class BankSummary:
    """A bank in numbers.

    Attributes:
        num_prompts: P.
        num_samples: K.
        pass_rate: Mean over prompts of the share of samples that are right; NaN where nothing says which are.
        histogram: Prompts by pass rate, in ten bins from 0 to 1; the last bin includes 1.
        all_right_frac: Share of prompts whose samples are all right.
        all_wrong_frac: Share of prompts whose samples are all wrong.
        mean_tokens: Mean completion tokens.
        max_tokens: Longest completion, in tokens.
        truncated_frac: Share of samples cut at the token limit.
        unscored_frac: Share of samples of which nothing says whether they are right.
        grading: Shares of samples with no answer, a timeout or an unparseable gold; None without verdicts.
    """

    num_prompts: int
    num_samples: int
    pass_rate: float
    histogram: tuple[int, ...]
    all_right_frac: float
    all_wrong_frac: float
    mean_tokens: float
    max_tokens: int
    truncated_frac: float
    unscored_frac: float
    grading: GradingShares | None


def summarize(bank: ReferenceBank, judge: Judge = BY_VERDICT) -> BankSummary:
    """The bank's summary, by what the judge says is right; an empty bank has NaN rates and 0 tokens."""
    num_samples = bank.num_samples
    if not len(bank):
        nan = float("nan")
        return BankSummary(0, num_samples, nan, (0,) * 10, nan, nan, nan, 0, nan, nan, None)
    verdicts = [name for name in bank.columns() if name.startswith(VERDICT)]
    rows = list(bank.rows(["num_tokens", "finish_reasons", *verdicts]))
    notes = {name: [note for row in rows for note in row[name] or [None] * num_samples] for name in verdicts}
    right_PK = np.array([bank.correct(row["key"], judge) for row in rows], dtype=float)
    scored = ~np.isnan(right_PK).all(1)
    pass_rate_P = np.nanmean(right_PK[scored], axis=1) if scored.any() else np.array([np.nan])
    tokens = np.array([row["num_tokens"] for row in rows])
    reasons = np.array([row["finish_reasons"] for row in rows])
    return BankSummary(
        num_prompts=len(rows),
        num_samples=num_samples,
        pass_rate=float(pass_rate_P.mean()),
        histogram=tuple(np.histogram(pass_rate_P[~np.isnan(pass_rate_P)], bins=10, range=(0, 1))[0].tolist()),
        all_right_frac=float((pass_rate_P == 1).mean()),
        all_wrong_frac=float((pass_rate_P == 0).mean()),
        mean_tokens=float(tokens.mean()),
        max_tokens=int(tokens.max()),
        truncated_frac=float((reasons == "length").mean()),
        unscored_frac=float(np.isnan(right_PK).mean()),
        grading=grading_shares(judge, list(bank.identity["rewards"]), notes),
    )
