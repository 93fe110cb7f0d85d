"""Full disks at many fillings; two jobs that write into one bank."""

import os
import subprocess

import pytest

from faulty import Workplace, evaluated, outcome, rows

pytestmark = pytest.mark.faults
TRAIN = ("train", "mine.yaml", "--output_dir")
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte, as a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can be made by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def resize(disk, pages):
    subprocess.run(["mount", "-o", f"remount,size={pages * PAGE}", disk], check=True)


def used(disk):
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_bsize // PAGE


def assert_full(command):
    """It ended with one line that names what could not be written."""
    assert command.wait() == 1, command.output()
    said = [line for line in command.output().splitlines() if line.startswith("aapo: ")]
    assert len(said) == 1 and said[0].startswith("aapo: the disk is full: disk/"), said
    assert "Traceback" not in command.output()
    return said[0].split()[5]


def filled(place, disk, whole, command, again):
    """Run the command with less room than its `whole` pages again and again; what could not be written."""
    full_at = set()
    for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        resize(disk, max(2, int(share * whole)))
        tried = place.start(*command(), FAULTY_ROOM="1")
        full_at.add(assert_full(tried))
        resize(disk, 10**5)
        place.run(*again())
        yield
        subprocess.run(f"rm -rf {disk}/*", shell=True, check=True)
    assert len(full_at) > 1, full_at


def test_a_full_disk_under_training_is_named_and_resume_goes_on_when_there_is_room(make_workplace, small_disk):
    place = make_workplace("place")
    resize(small_disk, 10**5)
    (place.folder / "disk").symlink_to(small_disk)
    place.run(*TRAIN, "disk/run")
    expected, whole = outcome(small_disk / "run"), used(small_disk)
    subprocess.run(f"rm -rf {small_disk}/*", shell=True, check=True)

    def again():
        return (*TRAIN, "disk/run", *(["--resume"] if (small_disk / "run" / "recipe.yaml").exists() else []))

    for _ in filled(place, small_disk, whole, lambda: (*TRAIN, "disk/run"), again):
        assert outcome(small_disk / "run") == expected


def test_a_full_disk_under_a_bank_and_an_evaluation_is_named_and_the_same_command_goes_on(make_workplace, small_disk):
    place = make_workplace("place")
    resize(small_disk, 10**5)
    (place.folder / "disk").symlink_to(small_disk)
    build = ("bank", "build", "mine.yaml", "--all", "--output", "disk/bank")
    place.run(*build)
    expected, whole = rows(small_disk / "bank"), used(small_disk)
    subprocess.run(f"rm -rf {small_disk}/*", shell=True, check=True)
    for _ in filled(place, small_disk, whole, lambda: build, lambda: build):
        assert rows(small_disk / "bank") == expected

    place.run(*TRAIN, "run")
    evaluate = ("eval", "run", "--tasks", "held_out", "--num-samples", 4, "--output", "disk/results")
    place.run(*evaluate)
    expected, whole = evaluated(small_disk / "results"), used(small_disk)
    subprocess.run(f"rm -rf {small_disk}/*", shell=True, check=True)
    for _ in filled(place, small_disk, whole, lambda: evaluate, lambda: evaluate):
        assert evaluated(small_disk / "results") == expected


def test_two_jobs_grow_one_bank_and_one_that_is_killed_costs_the_other_nothing(make_workplace):
    place: Workplace = make_workplace("place")
    build = ("bank", "build", "mine.yaml", "--all", "--output")
    whole = place.run(*build, "whole")
    for name, kill in (("both", False), ("one", True)):
        jobs = [place.start(*build, name) for _ in range(2)]
        if kill:
            jobs[0].process.join(whole.seconds / 2)
            jobs[0].kill()
        assert jobs[1].wait() == 0 and jobs[0].wait() in ((-9, 0) if kill else (0,))
        place.run(*build, name)
        assert rows(place.folder / name) == rows(place.folder / "whole")
