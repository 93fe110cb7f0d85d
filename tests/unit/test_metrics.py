from pathlib import Path

import pytest

from aapo.metrics import METRICS, markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_documented_table_is_the_declared_one():
    assert markdown_table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", METRICS)
def test_a_row_of_the_table_has_three_cells(key):
    (row,) = (line for line in markdown_table().splitlines() if line.startswith(f"| `{key}` "))
    assert row.count("|") == 4 and row.endswith(". |")
