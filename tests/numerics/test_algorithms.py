"""The named algorithms on one worked example each, and what `Objective` and its makers refuse.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, B sequences, T completion tokens.
"""

import math
import re

import pytest
import torch

from aapo.errors import InputError
from aapo.objective import (
    ALGORITHMS,
    OBJECTIVE_FIELDS,
    Objective,
    algorithms,
    augmented_advantages,
    objective,
    policy_loss,
    register,
)


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


# One right answer of four: mean 1/4, sample std 1/2; the reference is right once of four. And a dead group, all right,
# where the reference is right three times of four.
REWARDS_PG = f64([[1, 0, 0, 0], [1, 1, 1, 1]])
REFERENCE_PK = f64([[0, 1, 0, 0], [1, 1, 0, 1]])

RIGHT, WRONG = 0.75 / 0.5001, -0.25 / 0.5001
AUGMENTED = {
    # margins 0.28 * (1 - 1/4), -0.2 * 1/4; 0.28 * (1 - 3/4)
    "aapo": [[RIGHT + 0.21, WRONG - 0.05, WRONG - 0.05, WRONG - 0.05], [0.07] * 4],
    "grpo": [[RIGHT, WRONG, WRONG, WRONG], [0] * 4],
    "dr_grpo": [[0.75, -0.25, -0.25, -0.25], [0] * 4],
    "dapo": [[RIGHT, WRONG, WRONG, WRONG], [0] * 4],
    # alpha = 2 / (2 - 1)
    "gpg": [[1.5, -0.5, -0.5, -0.5], [0] * 4],
    "rloo": [[1, -1 / 3, -1 / 3, -1 / 3], [0] * 4],
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmented_advantages_of_the_named_algorithms(name):
    result = augmented_advantages(objective(name), REWARDS_PG, REFERENCE_PK)
    torch.testing.assert_close(result.augmented_PG, f64(AUGMENTED[name]), rtol=0, atol=1e-12)


# Completion 0 has advantage 1 and probabilities 0.6, 0.5 (0.4, 0.5 at rollout time): ratios 1.5 and 1.
# Completion 1 has advantage -1 and probability 0.2 (0.4 at rollout time): ratio 0.5, clipped to 0.8.
CROSS_ENTROPY = -1.5 * math.log(0.6) - math.log(0.5) + 0.5 * math.log(0.2)
LOSSES = {
    "aapo": CROSS_ENTROPY / 3,  # 3 tokens
    "grpo": ((-1.2 - 1) / 2 + 0.8 / 1) / 2,  # the mean of each completion, then of both
    "dr_grpo": (-1.2 - 1 + 0.8) / (2 * 4),  # 2 completions of at most 4 tokens
    "dapo": (-1.28 - 1 + 0.8) / 3,  # 3 tokens, clipped higher
    "gpg": CROSS_ENTROPY / 3,
    "rloo": CROSS_ENTROPY / (2 * 4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_named_algorithms(name):
    loss = policy_loss(
        objective(name),
        f64([[0.6, 0.5], [0.2, 0.9]]).log(),
        f64([1, -1]),
        f64([[1, 1], [1, 0]]),
        max_completion_length=4,
        old_logprobs_BT=f64([[0.4, 0.5], [0.4, 0.1]]).log(),
    )
    assert loss.item() == pytest.approx(LOSSES[name], abs=1e-12)


def test_every_named_algorithm_is_tested_here():
    assert set(ALGORITHMS) == set(AUGMENTED) == set(LOSSES)


def test_only_aapo_reads_reference_rewards():
    assert [name for name, point in ALGORITHMS.items() if point.needs_reference] == ["aapo"]
    assert Objective(margin="paired").needs_reference


def test_no_shipped_algorithm_sets_a_field_that_does_nothing():
    default = Objective()
    for point in ALGORITHMS.values():
        changed = [field for field in OBJECTIVE_FIELDS if getattr(point, field) != getattr(default, field)]
        assert [point.ineffective(field) for field in changed] == [None] * len(changed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "mean"}, "baseline is 'mean'; it must be one of group_mean, leave_one_out, none"),
        ({"scale": "std"}, "scale is 'std'; it must be one of group, batch, none"),
        ({"margin": "average"}, "margin is 'average'; it must be one of expected, paired, none"),
        ({"margin": None}, "margin is None; it must be one of expected, paired, none"),
        ({"loss": "ppo"}, "loss is 'ppo'; it must be one of cross_entropy, clipped_surrogate"),
        ({"aggregation": "sum"}, "aggregation is 'sum'; it must be one of token_mean, sequence_mean, constant"),
        ({"margin_low": 0.3}, "margin_low is 0.3; it must be <= 0 (AAPO uses -0.2)"),
        ({"margin_high": -0.1}, "margin_high is -0.1; it must be >= 0 (AAPO uses 0.28)"),
        (
            {"margin_low": 0.0, "margin_high": 0.0},
            "margin_low is 0.0 and margin_high 0.0; margin_low must be below margin_high (for no margin set margin to "
            "none)",
        ),
        ({"clip_low": 0.0}, "clip_low is 0.0; it must be > 0"),
        ({"clip_high": -0.25}, "clip_high is -0.25; it must be > 0"),
        ({"max_importance_weight": 0}, "max_importance_weight is 0; it must be > 0"),
        ({"rescale_dead_groups": 1}, "rescale_dead_groups is 1; it must be true or false"),
        ({"rescale_dead_groups": "false"}, "rescale_dead_groups is 'false'; it must be true or false"),
        ({"rescale_dead_groups": None}, "rescale_dead_groups is None; it must be true or false"),
    ],
)
def test_objective_refuses_a_wrong_value(fields, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Objective(**fields)


@pytest.mark.parametrize("name", ["margin_low", "margin_high", "clip_low", "clip_high", "max_importance_weight"])
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
    with pytest.raises(InputError, match=f"^{name} is {shown}; it must be a finite number$"):
        Objective(**{name: value})


def test_objective_refuses_no_baseline_over_the_deviation_of_the_group():
    message = (
        "scale is group and baseline none; rewards that are not centred cannot be divided by their group's spread, so "
        "choose a baseline or no scale"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Objective(baseline="none")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective("aapo", baseline="none")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective("gpg", baseline="none", scale="group")
    for scale in ("batch", "none"):
        assert objective("aapo", baseline="none", scale=scale).scale == scale


def test_objective_takes_a_bound_at_zero():
    assert Objective(margin_low=0).margin_low == 0
    assert Objective(margin_high=0).margin_high == 0


def test_objective_replaces_fields_and_takes_none_for_unchanged():
    point = objective("aapo", scale="none", margin_high=0.5, margin_low=None, margin=None)
    assert point == Objective(scale="none", margin="expected", margin_low=-0.2, margin_high=0.5)
    assert objective("aapo") == ALGORITHMS["aapo"]


def test_objective_refuses_an_unknown_name_and_names_the_nearest():
    allowed = "aapo, grpo, dr_grpo, dapo, gpg, rloo"
    with pytest.raises(InputError) as near:
        objective("drgrpo")
    assert str(near.value) == f"algorithm is 'drgrpo'; it must be one of {allowed} (did you mean dr_grpo?)"
    with pytest.raises(InputError) as far:
        objective("zzz")
    assert str(far.value) == f"algorithm is 'zzz'; it must be one of {allowed}"


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
    with pytest.raises(InputError, match=re.escape("margin_low is 0.1; it must be <= 0")):
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
    ],
)
def test_ineffective_fields(point, ineffective):
    assert {field for field in OBJECTIVE_FIELDS if point.ineffective(field)} == ineffective


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
    message = f"{field} is set to {value} but has no effect, because {reason}; remove it"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        objective(name, **{field: value})


def test_a_change_may_make_another_effective():
    assert objective("grpo", margin="expected", margin_low=-0.1).margin_low == -0.1
    with pytest.raises(InputError, match=re.escape("margin_low is set to -0.1 but has no effect")):
        objective("aapo", margin="none", margin_low=-0.1)


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, so that what a test registers is gone after it."""
    copy = dict(ALGORITHMS)
    monkeypatch.setattr(algorithms, "ALGORITHMS", copy)
    return copy


def test_a_registered_algorithm_is_found_by_name(registry):
    point = Objective(baseline="leave_one_out", scale="none", margin="expected")
    register("mine", point)
    assert registry["mine"] is point
    assert objective("mine") == point
    assert objective("mine", margin_high=1.0).margin_high == 1


def test_register_refuses_a_taken_name(registry):
    with pytest.raises(InputError, match=r"^algorithm 'grpo' exists already; choose another name$"):
        register("grpo", Objective())
    assert registry == ALGORITHMS
