"""Files on full disks, and what killed writers leave beside them."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from aapo.errors import AapoError
from aapo.files import (
    LEFTOVER_SECONDS,
    naming_full_disk,
    remove_leftovers,
    replacing,
    write_folder,
    write_json,
    write_parquet,
    write_text,
)
from aapo.processes import machine
from aapo.runs import RunDirectory

MANY = torch.arange(50_000, dtype=torch.float64)


@contextmanager
def full_disk():
    """A limit of 4 KiB a file, which fails a write as a full disk does; not for the tests' own output."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def saved(save):
    """What writes a checkpoint, as the trainer does: with a library, and without a temporary name."""

    def write(path):
        path.mkdir()
        with naming_full_disk(path):
            save(path / "part")

    return write


WRITERS = {
    "text": lambda path: write_text(path, "x" * 10_000),
    "json": lambda path: write_json(path, list(range(10_000))),
    "parquet": lambda path: write_parquet(path, pa.table({"a": np.random.default_rng(0).random(50_000)})),
    "folder": lambda path: write_folder(path, lambda folder: save_file({"a": MANY}, folder / "model.safetensors")),
    "checkpoint's weights": saved(lambda path: save_file({"a": MANY}, path)),
    "checkpoint's optimizer": saved(lambda path: torch.save({"a": MANY}, path)),
    "metrics": lambda path: RunDirectory(path.parent).append_metrics({"step": 2, "x": list(range(5_000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_that_names_what_could_not_be_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr("aapo.files._has_room", lambda path: False)  # a limit on files leaves room for smaller ones
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1})
    path = tmp_path / ("metrics.jsonl" if name == "metrics" else "new")
    with pytest.raises(AapoError) as raised, full_disk():
        WRITERS[name](path)
    assert str(raised.value).startswith(
        f"the disk is full: {path} could not be written, and nothing half-written counts"
    )
    assert not list(tmp_path.glob(".*.tmp"))
    assert path.exists() == (name == "metrics" or "checkpoint" in name)
    assert [row["step"] for row in run.metrics()] == [1]


def test_another_failure_of_a_writer_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="unexpected pos 5"), naming_full_disk(tmp_path):
        raise RuntimeError("unexpected pos 5 vs 7")
    with pytest.raises(PermissionError), replacing(tmp_path / "file"):
        raise PermissionError(13, "Permission denied")


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    return subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    ).stdout


def test_only_what_certainly_nobody_writes_any_more_is_removed(tmp_path, dead):
    old = time.time() - LEFTOVER_SECONDS - 60
    names = {
        f".a.json.{machine()}-{int(dead)}-x1.tmp": (False, False),  # its writer has ended
        f".b.json.{machine()}-{os.getpid()}-x2.tmp": (True, True),  # its writer lives, however long it takes
        f".c.json.00000000-{int(dead)}-x3.tmp": (True, False),  # of another machine: after a day
        ".d.json.x4.tmp": (True, False),  # of whom, nobody knows
        "e.json": (True, True),
        ".hidden": (True, True),
    }
    for age in (0, 1):
        for folder in ("", "inner"):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name in names:
                (tmp_path / folder / name).touch()
                if age:
                    os.utime(tmp_path / folder / name, (old, old))
        remove_leftovers(tmp_path)
        for folder in ("", "inner"):
            assert {name: (tmp_path / folder / name).exists() for name in names} == {
                name: stays[age] for name, stays in names.items()
            }


def test_a_later_writer_of_a_folder_removes_what_a_killed_one_left(tmp_path, dead):
    left = tmp_path / f".model.{machine()}-{int(dead)}-x.tmp"
    left.mkdir()
    (left / "weights").write_text("half")
    write_folder(tmp_path / "model", lambda folder: write_text(folder / "weights", "whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_writer_that_is_killed_leaves_a_name_that_says_who_it_was(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from aapo.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "a.json"])
    assert process.wait() == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".a.json.{machine()}-{process.pid}-")
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
