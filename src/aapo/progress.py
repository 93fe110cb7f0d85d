"""Progress that is always visible: a bar on a terminal, a line now and then elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from aapo.messages import visible

LINE_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
Update = Callable[[int, str], None]
Tell = Callable[[int, int], None]


class PlainConsole(Console):
    """Prints text as it is: a path or an answer may hold what Rich takes for markup, or a terminal for a command."""

    def on_broken_pipe(self) -> None:
        """Go on without output where nobody reads it, and Rich would exit: what was begun is worth more."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich's text of a string, control characters made visible."""
        return super().render_str(visible(text), **options)


console = PlainConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def progress(what: str, total: int, *, start: int = 0, visible: bool = True) -> Iterator[Update]:
    """A function to call with the amount done and a note, which shows it with the time left.

    Args:
        what: What is done, a few words.
        total: The amount that is all.
        start: The amount done before, by an interrupted run.
        visible: Off on all processes but the first.
    """
    if not visible or total <= 0:
        yield lambda done, note: None
    elif console.is_terminal:
        columns = (_column("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
        times = (TimeElapsedColumn(), _column("left"), TimeRemainingColumn(), _column("{task.fields[note]}"))
        with Progress(*columns, *times, console=console) as bar:
            task = bar.add_task(what, total=total, completed=start, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
    else:
        yield _lines(what, total, start)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Says that `what` is waited for after a minute, after two, four and so on, for it may hang."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = PATIENCE_SECONDS
        while not done.wait(wait):  # which doubles what has passed
            console.print(f"waiting for {what}, {time.monotonic() - began:.0f} s so far; Ctrl-C twice ends it at once")
            wait = time.monotonic() - began

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def told_progress(what: str, *, visible: bool = True) -> Iterator[Tell]:
    """A function to call with the amount done and the amount that is all, first of all with 0 done."""
    with ExitStack() as stack:
        update: Update | None = None

        def tell(done: int, total: int) -> None:
            nonlocal update
            if update is None:
                update = stack.enter_context(progress(what, total, visible=visible))
            update(done, "")

        yield tell


def progress_note(row: dict[str, Any]) -> str:
    """The live line: reward, accuracy, dead groups before and after the margin, margin, length, speed.

    A value that no completion could give, because none was scored, is a dash.
    """

    def shown(key: str, form: str) -> str:
        return "–" if row.get(key) is None else format(row[key], form)

    dead, after = (shown(f"signal/{name}_frac", ".2f") for name in ("dead_group", "dead_after_margin"))
    return (
        f"reward {shown('reward', '.2f')}  accuracy {shown('rollout/accuracy', '.2f')}  dead {dead}"
        + (f"→{after}" if after != dead else "")
        + f"  margin {shown('margin/mean', '+.3f')}  length {shown('completions/mean_length', '.0f')}"
        f"  {shown('rollout/tokens_per_second', '.0f')} tok/s"
    )


def _column(text: str) -> TextColumn:
    return TextColumn(text, markup=False)


def _lines(what: str, total: int, start: int) -> Update:
    """An update that prints at most every 10 seconds, and at the end."""
    began = last = time.monotonic()
    console.print(f"{what}: {start}/{total}" if start else f"{what}: {total} to do")

    def update(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_SECONDS:
            return
        last = now
        elapsed = now - began
        left = elapsed * (total - done) / max(done - start, 1)
        console.print(f"{what}: {done}/{total}, {elapsed:.0f} s, about {left:.0f} s left  {note}".rstrip())

    return update
