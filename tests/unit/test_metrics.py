from pathlib import Path

import torch

from aapo.metrics import METRICS, markdown_table
from aapo.objective import augmented_advantages, objective, signal_diagnostics


def test_the_documented_table_is_the_declared_one():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert markdown_table() in page.read_text(encoding="utf-8")


def test_every_diagnostic_is_declared():
    advantages = augmented_advantages(objective("aapo"), torch.eye(2), torch.zeros(2, 1))
    assert set(signal_diagnostics(advantages, torch.eye(2))) <= set(METRICS)
