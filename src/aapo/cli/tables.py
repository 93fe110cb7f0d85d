"""Tables on the terminal."""

from rich import box
from rich.table import Table

from aapo.evaluation import ScoreTable
from aapo.progress import console

WIDE_COLUMNS = 4
NAME_COLUMNS, WORD_COLUMNS = ("model", "task"), ("task", "verdict")


def print_table(table: ScoreTable) -> None:
    """Print a table to the terminal."""
    shown = Table(caption="\n".join(table.notes) or None, caption_justify="left", box=box.SIMPLE_HEAD)
    narrow = len(table.columns) > WIDE_COLUMNS
    for index, column in enumerate(table.columns):
        words = index == 0 or column in WORD_COLUMNS
        head = column if words or not narrow else column.replace(" x ", "x").replace(" ", "\n")
        shown.add_column(head, justify="left" if words else "right", overflow="fold", no_wrap=column in NAME_COLUMNS)
    for row in table.rows:
        shown.add_row(*(cell.replace(" [", "\n[") if narrow else cell for cell in row))
    console.print(shown)
