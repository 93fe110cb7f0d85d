"""Checkpoints of a run: which are whole, which is gone on from, which are removed.

CHECKPOINTS/checkpoint-N/whole      written last, JSON: of every file in the checkpoint its size and a hash
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aapo.errors import InputError
from aapo.files import write_json
from aapo.stored import read_json

WHOLE = "whole"
# A file of up to 16 MiB is hashed all, a larger one in so many blocks, evenly spaced.
BLOCK_BYTES, NUM_BLOCKS = 2**16, 256


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was saved after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoint-N in `folder`, by step; a copy by another name, such as checkpoint-3.bak, is none."""
    named = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(named, key=step_of)


def mark_whole(checkpoint: Path) -> None:
    """Mark a checkpoint whose files are all there."""
    write_json(checkpoint / WHOLE, {"files": _contents(checkpoint)})


def marked(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that were saved to their end, by step; their files may be damaged since."""
    return [path for path in _checkpoints(folder) if (path / WHOLE).exists()]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where all is as it was saved."""
    if not (checkpoint / WHOLE).exists():
        return "its save was cut short"
    try:
        files: dict[str, Any] = read_json(checkpoint / WHOLE, "", ("files",))["files"]
    except InputError:
        return f"its mark `{WHOLE}` is damaged, or of an earlier version of aapo"
    there = _contents(checkpoint)
    for name, facts in files.items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != facts:
            return f"{name} is damaged"
    return None


def newest_whole(folder: Path, tell: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest checkpoint in `folder` that is as it was saved; None where none was ever saved to its end.

    Args:
        folder: Holds checkpoint-N.
        tell: Called with a line on each newer one that is passed over.

    Raises:
        InputError: All that were saved are damaged.
    """
    passed = []
    for checkpoint in reversed(_checkpoints(folder)):
        fault = damage(checkpoint)
        if fault is None:
            return checkpoint
        passed.append(f"{checkpoint}: {fault}")
        tell(f"{checkpoint} is passed over: {fault}")
    if marked(folder):
        raise InputError(
            f"no checkpoint is whole ({'; '.join(passed)}); put the files back, or delete {folder} to begin anew at "
            "the first step"
        )
    return None


def rotate(folder: Path, limit: int | None, keep: Sequence[str | None] = ()) -> None:
    """Remove what a newly marked checkpoint makes superfluous: saves that were cut short, and the oldest over a limit.

    Args:
        folder: Holds checkpoint-N, of which the newest is whole.
        limit: How many are kept; None or 0 keeps all.
        keep: Paths that stay, and count.
    """
    whole = marked(folder)
    superfluous = [path for path in _checkpoints(folder) if path not in whole]
    if limit:
        kept = {Path(path).resolve() for path in keep if path} | {whole[-1].resolve()}
        free = [path for path in whole if path.resolve() not in kept]
        superfluous += free[: max(0, len(whole) - max(limit, len(kept)))]
    for path in superfluous:
        (path / WHOLE).unlink(missing_ok=True)  # first, for a removal can be cut short, too
        shutil.rmtree(path, ignore_errors=True)


def _contents(checkpoint: Path) -> dict[str, list[Any]]:
    """Size and hash of every file of a checkpoint but its mark, by path in it."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / WHOLE)
    return {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, _hash(path)] for path in files}


def _hash(file: Path) -> str:
    size, found = file.stat().st_size, hashlib.blake2b(digest_size=16)
    apart = max(BLOCK_BYTES, -(-size // NUM_BLOCKS))
    with file.open("rb") as stream:
        for place in [*range(0, size, apart), max(0, size - BLOCK_BYTES)]:
            stream.seek(place)
            found.update(stream.read(BLOCK_BYTES))
    return found.hexdigest()
