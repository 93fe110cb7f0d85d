"""The named algorithms on one worked example each, and what `Objective` and its makers refuse.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, B sequences, T completion tokens.
"""

import math
import re

import pytest
import torch

from aapo.errors import InputError
from aapo.fields import inert
from aapo.objective import (
    ALGORITHMS,
    AXIS_RULES,
    COLLECTION_FIELDS,
    OBJECTIVE_FIELDS,
    Algorithm,
    Collection,
    Objective,
    algorithms,
    augmented_advantages,
    objective,
    policy_loss,
    register,
)

MARGIN_NAMES = (
    "it must be none, expected, paired, scaled, centred, surprise, demanding, or a function of your own as "
    "path/to/file.py:NAME or package.module:NAME"
)


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


# One right answer of four: mean 1/4, sample std 1/2; the reference is right once of four. And a dead group, all right,
# where the reference is right three times of four.
REWARDS_PG = f64([[1, 0, 0, 0], [1, 1, 1, 1]])
REFERENCE_PK = f64([[0, 1, 0, 0], [1, 1, 0, 1]])

RIGHT, WRONG = 0.75 / 0.5001, -0.25 / 0.5001
# All eight rewards have mean 5/8 and squared deviations 5 - 8 * 25/64 = 15/8, over 8 - 1.
BATCH_STD = math.sqrt(15 / 8 / 7) + 1e-4
# With one more reward of 1: mean 2/5, squared deviations 2 * 9/25 + 3 * 4/25 = 6/5, over 5 - 1.
VIRTUAL_STD = math.sqrt(6 / 5 / 4) + 1e-4
# The value of a prompt: half the log of the mean of exp(2 r_ref).
VALUES = [math.log((3 + math.exp(2)) / 4) / 2, math.log((1 + 3 * math.exp(2)) / 4) / 2]
GROUP_RELATIVE = [[RIGHT, WRONG, WRONG, WRONG], [0] * 4]
AUGMENTED = {
    # margins 0.28 * (1 - 1/4), -0.2 * 1/4; 0.28 * (1 - 3/4)
    "aapo": [[RIGHT + 0.21, WRONG - 0.05, WRONG - 0.05, WRONG - 0.05], [0.07] * 4],
    # 1, 0, 0, 0 against 0, 1, 0, 0; 1, 1, 1, 1 against 1, 1, 0, 1
    "aapo-paired": [[RIGHT + 0.28, WRONG - 0.2, WRONG, WRONG], [0, 0, 0.28, 0]],
    "grpo": GROUP_RELATIVE,
    "grpo-2g": GROUP_RELATIVE,
    "dr_grpo": [[0.75, -0.25, -0.25, -0.25], [0] * 4],
    "dapo": GROUP_RELATIVE,
    # alpha = 2 / (2 - 1)
    "gpg": [[1.5, -0.5, -0.5, -0.5], [0] * 4],
    "rloo": [[1, -1 / 3, -1 / 3, -1 / 3], [0] * 4],
    # The dead group is above the mean of the batch.
    "reinforce++": [[3 / 8 / BATCH_STD, *[-5 / 8 / BATCH_STD] * 3], [3 / 8 / BATCH_STD] * 4],
    "gspo": GROUP_RELATIVE,
    "cispo": GROUP_RELATIVE,
    "ngrpo": [[0.6 / VIRTUAL_STD, *[-0.4 / VIRTUAL_STD] * 3], [0] * 4],
    "maxrl": [[0.75 / 0.2501, *[-0.25 / 0.2501] * 3], [0] * 4],
    "a2po": [[1 - VALUES[0], *[-VALUES[0]] * 3], [1 - VALUES[1]] * 4],
    "opo": [[0.75, -0.25, -0.25, -0.25], [0] * 4],  # lengths are not given, so all count as equal
    # In units of the deviation of all eight, whose mean is 0.
    "gdpo": [[value / (math.sqrt((RIGHT**2 + 3 * WRONG**2) / 7) + 1e-4) for value in GROUP_RELATIVE[0]], [0] * 4],
    "rl_zvp": GROUP_RELATIVE,
    "grpo-entropy": GROUP_RELATIVE,
    "reinforce-ada": [[0.75, -0.25, -0.25, -0.25], [0] * 4],  # nothing but the group was drawn
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmented_advantages_of_the_named_algorithms(name):
    result = augmented_advantages(objective(name), REWARDS_PG, REFERENCE_PK)
    torch.testing.assert_close(result.augmented_PG, f64(AUGMENTED[name]), rtol=0, atol=1e-12)


# Beside the first group four wrong ones were drawn, of which one could not be scored: once of seven right, mean 1/7,
# squared deviations 36/49 + 6 * 1/49 = 6/7, over 7 - 1. Beside the second a wrong one: 4/5, 4 * 1/25 + 16/25, over 4.
# Of all twelve: 5/12, squared deviations 5 * 49/144 + 7 * 25/144 = 35/12, over 12 - 1.
SPARE_PX = f64([[0, 0, math.nan, 0], [0, math.nan, math.nan, math.nan]])
ALL_STD = [math.sqrt(1 / 7) + 1e-4, math.sqrt(1 / 5) + 1e-4, math.sqrt(35 / 12 / 11) + 1e-4]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reinforce-ada", [[6 / 7, *[-1 / 7] * 3], [1 / 5] * 4]),
        ("grpo", [[6 / 7 / ALL_STD[0], *[-1 / 7 / ALL_STD[0]] * 3], [1 / 5 / ALL_STD[1]] * 4]),
        ("rloo", [[1, *[-1 / 6] * 3], [1 / 4] * 4]),
        ("reinforce++", [[7 / 12 / ALL_STD[2], *[-5 / 12 / ALL_STD[2]] * 3], [7 / 12 / ALL_STD[2]] * 4]),
        ("opo", AUGMENTED["opo"]),  # a function of its own sees what is trained on
    ],
)
def test_means_and_deviations_are_of_all_that_was_drawn(name, expected):
    result = augmented_advantages(objective(name), REWARDS_PG, spare_PX=SPARE_PX)
    torch.testing.assert_close(result.augmented_PG, f64(expected), rtol=0, atol=1e-12)
    assert result.dead_P.tolist() == [False, False]
    # Padding is nothing.
    padded_PX = torch.cat([SPARE_PX, f64([[math.nan] * 3] * 2)], 1)
    padded = augmented_advantages(objective(name), REWARDS_PG, spare_PX=padded_PX)
    torch.testing.assert_close(padded.augmented_PG, result.augmented_PG)


def test_the_overlong_penalty_counts_in_the_rewards_of_what_is_spare():
    # The last fifth of 20 tokens is 4: 18 cost a half, 20 one. Drawn for the first: 1, 0, 0, 0, -1/2, -1: mean -1/12.
    spare = {"spare_PX": f64([[0, 0], [1, math.nan]]), "spare_lengths_PX": torch.tensor([[18, 20], [5, 0]])}
    point, lengths_PG = objective("reinforce-ada", overlong_buffer=0.2), torch.full((2, 4), 5)
    result = augmented_advantages(point, REWARDS_PG, lengths_PG=lengths_PG, max_completion_length=20, **spare)
    torch.testing.assert_close(result.augmented_PG, f64([[13 / 12, *[1 / 12] * 3], [0] * 4]), rtol=0, atol=1e-7)
    assert result.dead_P.tolist() == [False, True]


def test_an_advantage_function_may_read_what_is_spare():
    def over_the_highest(groups):
        drawn_PD = torch.cat([groups.rewards_PG, groups.spare_PX], 1)
        return groups.rewards_PG - drawn_PD.nan_to_num(-torch.inf).amax(1, keepdim=True)

    rewards_PG, spare_PX = f64([[1, 0], [0, 1]]), f64([[3, math.nan], [0, 0.5]])
    result = augmented_advantages(Objective(advantage=over_the_highest), rewards_PG, spare_PX=spare_PX)
    assert result.augmented_PG.tolist() == [[-2, -3], [-1, 0]]


MARGIN = [[0.21, -0.05, -0.05, -0.05], [0.07] * 4]


@pytest.mark.parametrize("name", [name for name in AUGMENTED if name != "aapo-paired"])
def test_every_algorithm_takes_the_margin(name):
    result = augmented_advantages(objective(name, margin="expected"), REWARDS_PG, REFERENCE_PK)
    # The margin revives the second group, so GPG's alpha is 2 / 2, not 2 / 1.
    without = {**AUGMENTED, "aapo": GROUP_RELATIVE, "gpg": [[0.75, -0.25, -0.25, -0.25], [0] * 4]}[name]
    expected = [[a + m for a, m in zip(*rows, strict=True)] for rows in zip(without, MARGIN, strict=True)]
    torch.testing.assert_close(result.augmented_PG, f64(expected), rtol=0, atol=1e-12)


def test_dapo_shapes_the_rewards_that_are_compared_but_not_those_of_the_margin():
    # The last fifth of 20 tokens is 4: 16 tokens cost nothing, 18 half a reward, 20 a whole one.
    lengths_PG = torch.tensor([[16, 18, 20, 5], [16, 17, 16, 16]])
    result = augmented_advantages(
        objective("dapo", margin="expected"), REWARDS_PG, REFERENCE_PK, lengths_PG=lengths_PG, max_completion_length=20
    )
    # 1, -1/2, -1, 0: mean -1/8, squares 9/4, deviations 9/4 - 4/64 = 35/16, over 4 - 1.
    # 1, 3/4, 1, 1: mean 15/16, deviations (9 + 3) / 256 = 3/64 over 3: std 1/8; no longer dead.
    first, second = math.sqrt(35 / 16 / 3) + 1e-4, 1 / 8 + 1e-4
    advantage = [
        [(1 + 1 / 8) / first, (-1 / 2 + 1 / 8) / first, (-1 + 1 / 8) / first, 1 / 8 / first],
        [1 / 16 / second, -3 / 16 / second, 1 / 16 / second, 1 / 16 / second],
    ]
    torch.testing.assert_close(result.advantage_PG, f64(advantage), rtol=0, atol=1e-7)
    torch.testing.assert_close(result.margin_PG, f64(MARGIN), rtol=0, atol=1e-12)
    assert result.dead_P.tolist() == [False, False]


# Completion 0 has advantage 1 and probabilities 0.6, 0.5 (0.4, 0.5 at rollout time): ratios 1.5 and 1.
# Completion 1 has advantage -1 and probability 0.2 (0.4 at rollout time): ratio 0.5.
# Completion 2 has advantage -1 and probabilities 0.6, 0.5 (0.2, 0.5 at rollout time): ratios 3 and 1.
# 3 completions, 5 tokens, at most 4 tokens a completion.
PROBABILITIES_BT, OLD_BT = f64([[0.6, 0.5], [0.2, 0.9], [0.6, 0.5]]), f64([[0.4, 0.5], [0.4, 0.1], [0.2, 0.5]])
ADVANTAGES_B, MASK_BT = f64([1, -1, -1]), f64([[1, 1], [1, 0], [1, 1]])
LOG_6, LOG_5, LOG_2 = math.log(0.6), math.log(0.5), math.log(0.2)
# Weights 1.5, 1; 0.5; 2, 1: the 3 is truncated.
CROSS_ENTROPY = -1.5 * LOG_6 - LOG_5 + 0.5 * LOG_2 + 2 * LOG_6 + LOG_5
LOSSES = {
    "aapo": CROSS_ENTROPY / 5,
    "aapo-paired": CROSS_ENTROPY / 5,
    # -1.2 and -1; 0.8; 3 and 1, since with a negative advantage nothing is clipped above. The mean of means.
    "grpo": ((-1.2 - 1) / 2 + 0.8 / 1 + (3 + 1) / 2) / 3,
    "grpo-2g": ((-1.2 - 1) / 2 + 0.8 / 1 + (3 + 1) / 2) / 3,
    "dr_grpo": (-1.2 - 1 + 0.8 + 3 + 1) / (3 * 4),
    "dapo": (-1.28 - 1 + 0.8 + 3 + 1) / 5,
    "gpg": CROSS_ENTROPY / 5,
    "rloo": CROSS_ENTROPY / (3 * 4),
    "reinforce++": (-1.2 - 1 + 0.8 + 3 + 1) / 5,
    # The completions' ratios are sqrt(1.5), clipped to 1.0004; 0.5, clipped to 0.9997; sqrt(3).
    "gspo": (-1.0004 + 0.9997 + math.sqrt(3)) / 3,
    "cispo": (CROSS_ENTROPY + LOG_6) / 5,  # weight 3 where aapo has 2
    # Clipped at 1.24 and 0.84.
    "ngrpo": (-1.24 - 1 + 0.84 + 3 + 1) / 5,
    "maxrl": (-1.2 - 1 + 0.8 + 3 + 1) / 5,
    "a2po": CROSS_ENTROPY / (3 * 4),
    "opo": CROSS_ENTROPY / (3 * 4),
    "gdpo": (-1.2 - 1 + 0.8 + 3 + 1) / 5,
    # Of advantages that tokens share; tests/numerics/test_tokens.py has those of their own.
    "rl_zvp": (-1.2 - 1 + 0.8 + 3 + 1) / 5,
    "grpo-entropy": (-1.2 - 1 + 0.8 + 3 + 1) / 5,
    "reinforce-ada": (-1.28 - 1 + 0.8 + 3 + 1) / 5,
}
# By log pi of each token. The loss of a clipped token, or completion, does not change.
GRADIENTS = {
    "aapo": [[-1.5 / 5, -1 / 5], [0.5 / 5, 0], [2 / 5, 1 / 5]],
    "aapo-paired": [[-1.5 / 5, -1 / 5], [0.5 / 5, 0], [2 / 5, 1 / 5]],
    "grpo": [[0, -1 / (2 * 3)], [0, 0], [3 / (2 * 3), 1 / (2 * 3)]],
    "grpo-2g": [[0, -1 / (2 * 3)], [0, 0], [3 / (2 * 3), 1 / (2 * 3)]],
    "dr_grpo": [[0, -1 / 12], [0, 0], [3 / 12, 1 / 12]],
    "dapo": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "gpg": [[-1.5 / 5, -1 / 5], [0.5 / 5, 0], [2 / 5, 1 / 5]],
    "rloo": [[-1.5 / 12, -1 / 12], [0.5 / 12, 0], [2 / 12, 1 / 12]],
    "reinforce++": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    # d sqrt(rho_1 rho_2) / d log pi_t = sqrt(rho_1 rho_2) / 2, for both tokens.
    "gspo": [[0, 0], [0, 0], [math.sqrt(3) / 2 / 3, math.sqrt(3) / 2 / 3]],
    "cispo": [[-1.5 / 5, -1 / 5], [0.5 / 5, 0], [3 / 5, 1 / 5]],
    "ngrpo": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "maxrl": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "a2po": [[-1.5 / 12, -1 / 12], [0.5 / 12, 0], [2 / 12, 1 / 12]],
    "opo": [[-1.5 / 12, -1 / 12], [0.5 / 12, 0], [2 / 12, 1 / 12]],
    "gdpo": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "rl_zvp": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "grpo-entropy": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
    "reinforce-ada": [[0, -1 / 5], [0, 0], [3 / 5, 1 / 5]],
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_of_the_named_algorithms(name):
    logprobs_BT = PROBABILITIES_BT.log().requires_grad_()
    loss = policy_loss(
        objective(name), logprobs_BT, ADVANTAGES_B, MASK_BT, max_completion_length=4, old_logprobs_BT=OLD_BT.log()
    )
    (gradient_BT,) = torch.autograd.grad(loss, logprobs_BT)
    assert loss.item() == pytest.approx(LOSSES[name], abs=1e-12)
    torch.testing.assert_close(gradient_BT, f64(GRADIENTS[name]), rtol=0, atol=1e-12)


def test_every_named_algorithm_is_tested_here():
    assert set(ALGORITHMS) == set(AUGMENTED) == set(LOSSES) == set(GRADIENTS)


def test_only_aapo_and_a2po_read_reference_rewards():
    reading = [name for name, point in ALGORITHMS.items() if point.objective.needs_reference]
    assert reading == ["aapo", "aapo-paired", "a2po"]
    assert Objective(margin="paired").needs_reference


def test_no_shipped_algorithm_sets_a_field_that_does_nothing():
    default = Objective()
    for name in ALGORITHMS:
        point = ALGORITHMS[name].objective
        changed = [field for field in OBJECTIVE_FIELDS if getattr(point, field) != getattr(default, field)]
        assert inert(AXIS_RULES, point, changed) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "mean"}, "baseline is 'mean'; it must be one of group_mean, leave_one_out, batch_mean, none"),
        ({"scale": "std"}, "scale is 'std'; it must be one of group, batch, none"),
        ({"margin": "average"}, f"margin is 'average'; {MARGIN_NAMES}"),
        ({"margin": "pared"}, f"margin is 'pared' (did you mean paired?); {MARGIN_NAMES}"),
        ({"margin": None}, f"margin is None; {MARGIN_NAMES}"),
        ({"loss": "ppo"}, "loss is 'ppo'; it must be one of cross_entropy, clipped_surrogate"),
        ({"ratio_level": "word"}, "ratio_level is 'word'; it must be one of token, sequence"),
        ({"aggregation": "sum"}, "aggregation is 'sum'; it must be one of token_mean, sequence_mean, constant"),
        ({"margin_low": 0.3}, "margin_low is 0.3; it must be a finite number <= 0 (AAPO uses -0.2)"),
        ({"margin_high": -0.1}, "margin_high is -0.1; it must be a finite number >= 0 (AAPO uses 0.28)"),
        (
            {"margin_low": 0.0, "margin_high": 0.0},
            "margin_low is 0.0 and margin_high 0.0; margin_low must be below margin_high (for no margin set margin to "
            "none)",
        ),
        ({"clip_low": 0.0}, "clip_low is 0.0; it must be a finite number > 0"),
        ({"clip_high": -0.25}, "clip_high is -0.25; it must be a finite number > 0"),
        ({"max_importance_weight": 0}, "max_importance_weight is 0; it must be a finite number > 0"),
        (
            {"overlong_buffer": 1.0},
            "overlong_buffer is 1.0; it must be a number in [0, 1) (a share of max_completion_length; DAPO uses 0.2)",
        ),
        (
            {"overlong_buffer": -0.1},
            "overlong_buffer is -0.1; it must be a number in [0, 1) (a share of max_completion_length; DAPO uses 0.2)",
        ),
        (
            {"min_live_frac": 1.5},
            "min_live_frac is 1.5; it must be a number from 0 to 1 (a share of the groups; DAPO uses 1, GPG 0.5)",
        ),
        ({"generations_factor": 0}, "generations_factor is 0; it must be a whole number from 1 to 64"),
        ({"generations_factor": 1.5}, "generations_factor is 1.5; it must be a whole number from 1 to 64"),
        ({"advantage": "mine"}, "advantage is 'mine'; it must be a function of Groups, or None"),
        ({"token_advantage": "mine"}, "token_advantage is 'mine'; it must be a function of Tokens, or None"),
        (
            {"reads_reference": True},
            "reads_reference is true but there is no advantage function to read them; remove it",
        ),
        (
            {"reads_verdicts": True},
            "reads_verdicts is true but there is no token_advantage to read them; remove it",
        ),
        ({"rescale_dead_groups": 1}, "rescale_dead_groups is 1; it must be true or false"),
        ({"rescale_dead_groups": "false"}, "rescale_dead_groups is 'false'; it must be true or false"),
    ],
)
def test_objective_refuses_a_wrong_value(fields, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        if fields.keys() <= {*COLLECTION_FIELDS}:
            Collection(**fields)
        Objective(**fields)


@pytest.mark.parametrize(
    "name",
    [
        "margin_low", "margin_high", "clip_low", "clip_high", "max_importance_weight", "overlong_buffer",
        "min_live_frac", "generations_factor",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ("0.2", "'0.2'"),  # YAML reads 1e-3 as text
        (True, "True"),  # a bool is an int to Python
        (None, "None"),
    ],
)
def test_objective_refuses_a_bound_that_is_not_a_finite_number(name, value, shown):
    with pytest.raises(InputError, match=f"^{name} is {shown}; it must be a (finite |whole )?number"):
        (Collection if name in COLLECTION_FIELDS else Objective)(**{name: value})


@pytest.mark.parametrize("baseline", ["none", "batch_mean"])
def test_objective_refuses_to_divide_by_the_deviation_of_a_group_what_is_not_centred_on_it(baseline):
    message = (
        f"scale is group and baseline {baseline}; rewards that are not centred on their group cannot be divided by its "
        "spread, so choose another baseline, or batch or none as the scale"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Objective(baseline=baseline)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective("aapo", baseline=baseline)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective("gpg", baseline=baseline, scale="group")
    for scale in ("batch", "none"):
        assert objective("aapo", baseline=baseline, scale=scale).scale == scale


def test_objective_takes_a_bound_at_zero():
    assert Objective(margin_low=0).margin_low == 0
    assert Objective(margin_high=0).margin_high == 0


def test_objective_replaces_fields_and_takes_none_for_unchanged():
    point = objective("aapo", scale="none", margin_high=0.5, margin_low=None, margin=None)
    assert point == Objective(scale="none", margin="expected", margin_low=-0.2, margin_high=0.5)
    assert objective("aapo") == ALGORITHMS["aapo"].objective


def test_objective_refuses_an_unknown_name_and_names_the_nearest():
    allowed = "aapo, aapo-paired, grpo, grpo-2g, dr_grpo, dapo, gpg, rloo, reinforce++, gspo, cispo, "
    allowed += "ngrpo, maxrl, a2po, opo, gdpo, rl_zvp, grpo-entropy, reinforce-ada"
    own = ", or your own as path/to/file.py:NAME or package.module:NAME"
    with pytest.raises(InputError) as near:
        objective("drgrpo")
    assert str(near.value) == f"algorithm is 'drgrpo'; it must be one of {allowed} (did you mean dr_grpo?){own}"
    with pytest.raises(InputError) as far:
        objective("zzz")
    assert str(far.value) == f"algorithm is 'zzz'; it must be one of {allowed}{own}"


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("margin_hihg", " (did you mean margin_high?)"),
        ("max_weight", " (did you mean max_importance_weight?)"),
        ("zzz", ""),
    ],
)
def test_objective_refuses_an_unknown_field_and_names_the_nearest(field, hint):
    with pytest.raises(InputError, match=f"^{re.escape(f'an objective has no field {field!r}{hint}')}$"):
        objective("aapo", **{field: 0.5})


def test_objective_refuses_a_wrong_change():
    with pytest.raises(InputError, match=re.escape("margin_low is 0.1; it must be a finite number <= 0")):
        objective("aapo", margin_low=0.1)


NO_MARGIN = "margin is none"
NO_RATIO_CLIP = "the loss is cross_entropy, which does not clip a ratio"
NO_WEIGHT = "the loss is clipped_surrogate, which clips the ratio itself"
ABOUT_MARGIN, ABOUT_CLIP = {"margin_low", "margin_high"}, {"clip_low", "clip_high"}


@pytest.mark.parametrize(
    ("point", "ineffective"),
    [
        (Objective(), ABOUT_MARGIN | ABOUT_CLIP),
        (Objective(margin="expected"), ABOUT_CLIP),
        (Objective(margin="paired"), ABOUT_CLIP),
        (Objective(loss="clipped_surrogate"), ABOUT_MARGIN | {"max_importance_weight"}),
        (Objective(loss="clipped_surrogate", margin="expected"), {"max_importance_weight"}),
        (Objective(advantage=lambda groups: groups.rewards_PG), ABOUT_MARGIN | ABOUT_CLIP | {"baseline", "scale"}),
    ],
)
def test_ineffective_fields(point, ineffective):
    assert set(inert(AXIS_RULES, point, OBJECTIVE_FIELDS)) == ineffective


@pytest.mark.parametrize(
    ("name", "field", "value", "reason"),
    [
        ("grpo", "margin_low", -0.1, NO_MARGIN),
        ("gpg", "margin_high", 0.28, NO_MARGIN),  # the default, but the user wrote it
        ("aapo", "clip_low", 0.1, NO_RATIO_CLIP),
        ("rloo", "clip_high", 0.28, NO_RATIO_CLIP),
        ("dapo", "max_importance_weight", 3.0, NO_WEIGHT),
    ],
)
def test_objective_refuses_a_change_without_effect(name, field, value, reason):
    message = f"{field} is {value} but has no effect, because {reason}; remove it"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective(name, **{field: value})


def test_a_change_may_make_another_effective():
    assert objective("grpo", margin="expected", margin_low=-0.1).margin_low == -0.1
    with pytest.raises(InputError, match=re.escape("margin_low is -0.1 but has no effect")):
        objective("aapo", margin="none", margin_low=-0.1)


OWN = """
from aapo.fields import inert
from aapo.objective import Objective


def plain(groups):
    return groups.rewards_PG

PLAIN = Objective(advantage=plain, margin="expected")
WORD = "aapo"
"""


@pytest.fixture
def own_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_an_algorithm_of_a_users_own_file_is_found_by_its_place(own_file):
    point = objective(f"{own_file}:PLAIN", margin_high=0.5)
    assert (point.margin, point.margin_high, point.advantage.__name__) == ("expected", 0.5, "plain")
    assert point.describe()["advantage"] == "aapo_user_own:plain"
    assert {key: value for key, value in point.describe().items() if key != "advantage"} == {
        field: getattr(point, field) for field in OBJECTIVE_FIELDS if field != "advantage"
    }
    message = "scale is 'none' but has no effect, because the advantage is a function of its own; remove it"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective(f"{own_file}:PLAIN", scale="none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}:MISSING", "cannot load algorithm '{file}:MISSING': module 'aapo_user_own' has no attribute 'MISSING'"),
        ("nowhere.py:A", "cannot load algorithm 'nowhere.py:A': [Errno 2] No such file or directory: "),
        ("no.such.module:A", "cannot load algorithm 'no.such.module:A': No module named 'no'"),
        ("{file}:WORD", "algorithm '{file}:WORD' is a str; it must be an aapo.objective.Objective"),
        (
            "{file}:plain",
            "algorithm '{file}:plain' is a function; it must be an aapo.objective.Objective; declare one with "
            "Objective(advantage=plain)",
        ),
    ],
)
def test_an_algorithm_that_cannot_be_loaded_is_refused_in_one_line(own_file, name, message):
    with pytest.raises(InputError) as error:
        objective(name.format(file=own_file))
    assert str(error.value).startswith(message.format(file=own_file)) and "\n" not in str(error.value)


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, so that what a test registers is gone after it."""
    copy = dict(ALGORITHMS)
    monkeypatch.setattr(algorithms, "ALGORITHMS", copy)
    return copy


def test_a_registered_algorithm_is_found_by_name(registry):
    point = Objective(baseline="leave_one_out", scale="none", margin="expected")
    register("mine", point)
    assert registry["mine"] == Algorithm(point)
    assert objective("mine") == point
    assert objective("mine", margin_high=1.0).margin_high == 1


def test_register_refuses_a_taken_name(registry):
    with pytest.raises(InputError, match=r"^algorithm 'grpo' exists already; choose another name$"):
        register("grpo", Objective())
    assert registry == ALGORITHMS
