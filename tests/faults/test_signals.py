"""Ctrl-C, SIGTERM and SIGUSR1 at every stage, on one process and on two; processes that lose another one."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aapo.runs import RunDirectory
from faulty import evaluated, outcome, rows

pytestmark = pytest.mark.faults
SLOW = {"AAPO_SLOW": "0.5"}  # what a call of the reward function takes, so that there is time to send something
TRAIN = ("train", "mine.yaml", "--output_dir")


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def last_words(command):
    return [line for line in command.output().splitlines() if line.startswith("aapo: ")]


def steps(run):
    return len(RunDirectory(run).metrics())


def newest(run):
    return max(int(path.parent.name.split("-")[1]) for path in run.glob("checkpoints/checkpoint-*/whole"))


@pytest.fixture
def trained(make_workplace):
    """A place with a recipe of which the bank is there, and what its training comes to."""
    place = make_workplace("place")
    place.run(*TRAIN, "whole")
    return place, outcome(place.folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_training_stops_after_its_step_and_resume_reaches_the_same(trained, number):
    place, expected = trained
    run = place.folder / "run"
    command = place.start(*TRAIN, "run", **SLOW)
    wait_for(lambda: steps(run) >= 1)
    command.signal(number)
    assert command.wait() == 1
    assert last_words(command) == ["aapo: interrupted; a checkpoint is saved, go on with `aapo train run --resume`"]
    assert f"{number.name}: stopping after this step and saving a checkpoint" in command.output()
    assert newest(run) == steps(run) < 6
    place.run("train", "run", "--resume")
    assert outcome(run) == expected


def test_a_second_signal_stops_at_once_and_leaves_whole_files(trained):
    place, expected = trained
    run = place.folder / "run"
    command = place.start(*TRAIN, "run", AAPO_SLOW="30")
    wait_for(lambda: "1/6" in command.output() or "to do" in command.output())
    time.sleep(2)
    command.signal(signal.SIGTERM)
    wait_for(lambda: "once more stops at once" in command.output())
    command.signal(signal.SIGTERM)
    assert command.wait(25) == 1  # the step would take longer
    assert last_words(command) == [
        "aapo: stopped by SIGTERM; what is done so far is kept, go on with `aapo train run --resume`"
    ]
    place.run("train", "run", "--resume")
    assert outcome(run) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_outside_training_says_in_one_line_what_is_kept_and_how_to_go_on(trained, number):
    place, expected = trained
    how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    bank = ("bank", "build", "mine.yaml", "--all", "--output")
    evaluate = ("eval", "whole", "--tasks", "held_out", "--num-samples", 8, "--batch-size", 2, "--output")

    def stopped(words, *arguments, when):
        command = place.start(*arguments, **SLOW)
        wait_for(lambda: when in command.output())
        time.sleep(0.5)
        command.signal(number)
        assert command.wait(30) == 1, command.output()
        assert last_words(command) == [f"aapo: {how}; {words}"]

    kept = "the samples and scores so far are kept; the same command goes on from them"
    stopped(kept, *bank, "bank", when="reference bank: 48 to do")
    place.run(*bank, "bank")
    place.run(*bank, "bank-at-once")
    assert rows(place.folder / "bank") == rows(place.folder / "bank-at-once")

    stopped(kept, *evaluate, "evaluated", when="evaluating")
    place.run(*evaluate, "evaluated")
    place.apart("another-cache").run(*evaluate, "evaluated-at-once")
    assert evaluated(place.folder / "evaluated") == evaluated(place.folder / "evaluated-at-once")

    place = place.apart("third-cache")  # where the base is not evaluated yet
    words = "what is done so far is kept, go on with `aapo train run --resume`"
    stopped(words, *TRAIN, "run", when="evaluating base")
    place.run("train", "run", "--resume")
    assert outcome(place.folder / "run") == expected


def test_two_processes_stop_after_the_same_step_whichever_gets_the_signal(make_workplace):
    place = make_workplace("two", per_device_train_batch_size=4)
    whole = place.start_ranks(2, *TRAIN, "whole")
    assert [command.wait() for command in whole] == [0, 0]
    for number, receivers in ((signal.SIGTERM, (1,)), (signal.SIGUSR1, (0, 1))):
        run = place.folder / number.name
        ranks = place.start_ranks(2, *TRAIN, run.name, **SLOW)
        wait_for(lambda run=run: steps(run) >= 1)
        for receiver in receivers:
            ranks[receiver].signal(number)
        assert [command.wait() for command in ranks] == [1, 1]
        assert newest(run) == steps(run) < 6
        ranks = place.start_ranks(2, "train", run.name, "--resume")
        assert [command.wait() for command in ranks] == [0, 0], ranks[0].output()
        assert outcome(run) == outcome(place.folder / "whole")


def launched(place, *arguments, module="aapo.torchrun", **environment):
    return subprocess.Popen(
        [sys.executable, "-m", module, "--standalone", "--nproc_per_node=2", "-m", "aapo", *map(str, arguments)],
        cwd=place.folder, env={**os.environ, "AAPO_CACHE": str(place.folder / "cache"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("module", "code"), [("aapo.torchrun", 2), ("torch.distributed.run", 1)])
def test_wrong_input_is_said_once_under_torchrun(make_workplace, module, code):
    place = make_workplace("launched")
    process = launched(place, "train", "mine.yaml", "--learning_rat", 1, module=module)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code
    said = [line for line in out.splitlines() if line.startswith("aapo: ")]
    assert said == ["aapo: unknown field 'learning_rat' (did you mean learning_rate?)"]
    if module == "aapo.torchrun":
        assert len(out.splitlines()) == 1


def ranks_of(launcher):
    """Pids of the launcher's processes by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return {int(rank): int(pid) for pid in children if (rank := variable(pid, "LOCAL_RANK"))}


def variable(pid, name):
    found = re.search(rf"(?:^|\0){name}=([^\0]*)".encode(), Path(f"/proc/{pid}/environ").read_bytes())
    return found and found[1].decode()


def test_under_torchrun_all_stop_with_a_checkpoint_and_the_dead_are_named(make_workplace):
    place = make_workplace("launched", per_device_train_batch_size=4)
    run = place.folder / "run"
    process = launched(place, *TRAIN, "run", **SLOW)
    wait_for(lambda: steps(run) >= 1)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and newest(run) == steps(run) < 6
    said = [line for line in out.splitlines() if line.startswith("aapo: ")]
    assert said == [
        "aapo: interrupted; a checkpoint is saved, go on with `aapo train run --resume`",
        "aapo: all processes were stopped by SIGUSR1",
    ]

    before = steps(run)
    process = launched(place, "train", "run", "--resume", **SLOW)
    wait_for(lambda: steps(run) > before)
    victim = ranks_of(process)[1]
    os.kill(victim, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    said = [line for line in out.splitlines() if line.startswith("aapo: ")]
    assert said == [
        f"aapo: process 1 of 2 (pid {victim}) has ended without a word, as one does that is killed when memory runs "
        "out; so the others stop, and what is on disk is whole",
        "aapo: process 1 was killed by signal 9 (SIGKILL), as happens when memory runs out",
    ]
    assert "Traceback" not in out


def test_processes_end_with_their_launcher(make_workplace):
    place = make_workplace("launched", per_device_train_batch_size=4)
    run = place.folder / "run"
    process = launched(place, *TRAIN, "run", module="torch.distributed.run", **SLOW)
    wait_for(lambda: steps(run) >= 1)
    pids = ranks_of(process).values()
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), seconds=60)
    assert newest(run) == steps(run) < 6


def test_a_run_whose_comparison_is_killed_stops_with_a_checkpoint(make_workplace):
    place = make_workplace("orphan", eval_strategy=None, eval_steps=None)
    compare = ("compare", "mine.yaml", "--algorithms", "grpo", "--seeds", "0", "--curve-points", 0, "--output", "out")
    command = place.start(*compare, **SLOW)
    run = place.folder / "out" / "runs" / "grpo" / "seed-0"
    wait_for(lambda: steps(run) >= 1)
    command.kill()
    with Path(f"{run}.lock").open() as lock:
        wait_for(lambda: is_free(lock), seconds=60)
    assert newest(run) == steps(run) < 6
    assert "aapo: interrupted; a checkpoint is saved" in (run.parent / "seed-0.log").read_text()
    # The lock that it leaves behind keeps nobody out.
    place.run(*compare)
    assert (place.folder / "out" / "summary.json").exists()


def is_free(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
