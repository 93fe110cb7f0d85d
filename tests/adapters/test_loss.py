"""The loss of a step: each term that TRL's configuration adds is TRL's, and what is counted of it is the step's."""

from types import SimpleNamespace

import pytest
import torch
from test_update import assert_same, make, reference_column
from trl import GRPOTrainer

from aapo.backends.trl.loss import LossTrainer, Tally
from aapo.engines import load_model
from aapo.objective import Objective

ALONE = SimpleNamespace(reduce=lambda tensor, reduction: tensor, gather=lambda tensor: tensor)


@pytest.mark.parametrize(("level", "shares"), [("token", (1 / 5, 2 / 5, 3 / 5)), ("sequence", (1 / 3, 1 / 3, 2 / 3))])
def test_clipped_shares_are_of_what_counts(level, shares):
    """Rows of 2, 2 and 1 tokens, and one that stands in for a process without rows."""
    ratios_BT = torch.tensor([[0.5, 1.0], [1.5, 1.5], [1.0, 9.0], [0.1, 0.1]])
    if level == "sequence":
        ratios_BT = torch.tensor([[0.5], [1.5], [1.0], [0.1]]).expand(4, 2)
    mask_BT = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]])
    trainer = SimpleNamespace(objective=Objective(loss="clipped_surrogate", ratio_level=level), _tally=Tally())
    LossTrainer._count_clipped(trainer, ratios_BT, torch.tensor([-1.0, 1.0, -1.0, -1.0]), mask_BT)
    means = trainer._tally.means(ALONE)
    found = [means[f"clip_ratio/{name}_mean"] for name in ("low", "high", "region")]
    assert found == pytest.approx(shares)


def test_limits_are_of_rows_that_have_a_token():
    trainer = SimpleNamespace(objective=Objective(loss="clipped_surrogate"), _tally=Tally())
    mask_BT = torch.tensor([[1, 1], [1, 1], [0, 0]])
    LossTrainer._count_clipped(trainer, torch.tensor([[0.5, 0.5], [0.5, 1.0], [9.0, 9.0]]), -torch.ones(3), mask_BT)
    # of the first row's tokens all are clipped, of the second's one of two
    assert trainer._tally.limits(ALONE) == {"clip_ratio/low_min": 0.5, "clip_ratio/high_max": 0.0}
    trainer._tally = Tally()
    LossTrainer._count_clipped(trainer, torch.ones(3, 2), torch.ones(3), 0 * mask_BT)
    assert trainer._tally.limits(ALONE) == {}
