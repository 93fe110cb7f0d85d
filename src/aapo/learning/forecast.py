"""How many groups will have a gradient, from the reference model's samples alone, before a group is drawn.

Shapes: P prompts, K reference samples per prompt, G rollouts per prompt, N groups that are drawn.
"""

from typing import NamedTuple

import numpy as np
import scipy  # whose parts are loaded when they are asked for
import torch

from aapo.objective import Objective, augmented_advantages, silent_groups

# Shares of so many groups are known to half a point (standard error, at worst).
NUM_GROUPS = 10_000
STRENGTHS = np.geomspace(0.1, 1000.0, 41)
# Standard deviation of the prior of log strength.
SPREAD = np.log(10.0)


class ReferenceSamples(NamedTuple):
    """What is known of the reference samples of a run's prompts.

    Attributes:
        rewards_PK: Weighted sums of the reward functions; NaN where none could score.
        correct_PK: 1 right, 0 wrong, NaN where nothing says.
        lengths_PK: Completion tokens.
        truncated_PK: Whether the completion was cut at the token limit.
    """

    rewards_PK: np.ndarray
    correct_PK: np.ndarray
    lengths_PK: np.ndarray
    truncated_PK: np.ndarray


class GroupForecast(NamedTuple):
    """Expected shares of the groups of a run's first steps; those of no prompt are NaN.

    Attributes:
        dead_frac: Dead groups: all G rewards are equal.
        dead_after_margin_frac: Groups without a gradient, the margin counted.
        all_right_frac: Groups of which every completion is right.
        all_wrong_frac: Groups of which every completion is wrong.
        learnable: Whether any group can have a gradient: false where all samples have one reward, the margin of that
            reward is zero, too, and no token is pushed by what is right.
    """

    dead_frac: float
    dead_after_margin_frac: float
    all_right_frac: float
    all_wrong_frac: float
    learnable: bool


def forecast_groups(
    objective: Objective,
    samples: ReferenceSamples,
    num_rollouts: int,
    max_completion_length: int | None = None,
    seed: int = 0,
) -> GroupForecast:
    """The groups that the objective would get from a policy that still is the reference model.

    10,000 groups are drawn (`draw_groups`) and go through `augmented_advantages` as a training batch does. With two
    rewards a group's draws are beta-binomial, and the share of dead groups of a prompt with c of K right is

        prod_{i<G} (s m + c + i) / (s + K + i)  +  prod_{i<G} (s (1 - m) + K - c + i) / (s + K + i)

    with m the bank's pass rate and s the `prior_strength`, up to a standard error of half a point. Prompts weigh alike:
    neither weighted draws nor a refill is counted, and what the policy learns changes the shares.

    Args:
        objective: Gives advantage and margin.
        samples: The bank's.
        num_rollouts: G.
        max_completion_length: The token limit of a completion, for an overlong penalty.
        seed: Of the draws.
    """
    if not len(samples.rewards_PK):
        return GroupForecast(*[float("nan")] * 4, learnable=False)
    rng = np.random.default_rng(seed)
    prompts_N = np.resize(rng.permutation(len(samples.rewards_PK)), NUM_GROUPS)
    chosen_NG = draw_groups(prompts_N, samples.rewards_PK.shape, num_rollouts, prior_strength(samples.rewards_PK), rng)
    rewards_NG, correct_NG, lengths_NG, truncated_NG = (
        torch.from_numpy(values_PK.reshape(-1)[chosen_NG]) for values_PK in samples
    )
    found = augmented_advantages(
        objective,
        rewards_NG,
        torch.from_numpy(samples.rewards_PK[prompts_N]),
        correct_PG=correct_NG,
        lengths_PG=lengths_NG,
        truncated_PG=truncated_NG,
        max_completion_length=max_completion_length,
    )
    silent_N = silent_groups(found.augmented_PG)
    rewards = samples.rewards_PK[~np.isnan(samples.rewards_PK)].round(6)
    return GroupForecast(
        dead_frac=float(found.dead_P.double().mean()),
        dead_after_margin_frac=float(silent_N.double().mean()),
        all_right_frac=float((correct_NG == 1).all(1).double().mean()),
        all_wrong_frac=float((correct_NG == 0).all(1).double().mean()),
        learnable=len(np.unique(rewards)) > 1 or not bool(silent_N.all()) or objective.reads_verdicts,
    )


def draw_groups(
    prompts_N: np.ndarray, shape: tuple[int, ...], num_rollouts: int, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Which samples of the bank G rollouts of each prompt are like, shape (N, G): places among all P * K.

    Polya's urn: rollout i is like one of the prompt's own K samples or of the i rollouts before it, each with
    probability 1 / (K + i + s), else like any sample of the bank. That draws from the posterior of the prompt's own
    distribution under a Dirichlet prior whose mean is the bank's distribution and whose weight is that of s samples, so
    that K = 2 samples that are both wrong do not make a prompt one that is never solved. The strength 0 would.

    Args:
        prompts_N: The prompt of each group.
        shape: P and K.
        num_rollouts: G.
        strength: s.
        rng: Draws.
    """
    (num_prompts, num_samples), size = shape, len(prompts_N)
    own_NK = prompts_N[:, None] * num_samples + np.arange(num_samples)
    urn = np.concatenate([own_NK, np.zeros((size, num_rollouts), int)], axis=1)
    for place in range(num_samples, num_samples + num_rollouts):
        is_own_N = rng.random(size) * (place + strength) < place
        own_N = urn[np.arange(size), rng.integers(0, place, size)]
        urn[:, place] = np.where(is_own_N, own_N, rng.integers(0, num_prompts * num_samples, size))
    return urn[:, num_samples:]


def prior_strength(rewards_PK: np.ndarray) -> float:
    """How alike the prompts are, as a number of samples s between 0.1 and 1,000.

    The s that makes the bank most likely, each prompt's rewards being Dirichlet-multinomial with the bank's shares m_v
    of each reward v as their mean:

        sum_p [ln Gamma(s) - ln Gamma(s + K) + sum_v (ln Gamma(s m_v + n_pv) - ln Gamma(s m_v))] - (ln s / ln 10)^2 / 2

    The last term, a prior about 1, decides where the bank does not say: with K = 1, or a single reward. NaN counts as a
    reward of its own.
    """
    (num_prompts, num_samples), s = rewards_PK.shape, STRENGTHS[:, None]
    _, kinds, counts_V = np.unique(rewards_PK.round(6), return_inverse=True, return_counts=True)
    prompts = np.repeat(np.arange(num_prompts), num_samples)
    pairs, counts_pv = np.unique(prompts * len(counts_V) + kinds.reshape(-1), return_counts=True)
    prior_pv = s * (counts_V / rewards_PK.size)[pairs % len(counts_V)]
    likelihood = (scipy.special.gammaln(prior_pv + counts_pv) - scipy.special.gammaln(prior_pv)).sum(1)
    likelihood += num_prompts * (scipy.special.gammaln(s) - scipy.special.gammaln(s + num_samples))[:, 0]
    return float(STRENGTHS[np.argmax(likelihood - (np.log(STRENGTHS) / SPREAD) ** 2 / 2)])
