"""A run on a Ray cluster of two nodes, with verl's own `main_ppo` on CPUs: it learns, is killed, and goes on."""

import os
import signal
import time
from itertools import pairwise

import psutil
import pytest
import torch

from aapo.objective import augmented_advantages, objective
from aapo.runs import RunDirectory

pytestmark = pytest.mark.verl

STEPS, KILLED_AFTER, EVERY = 12, 4, 3
MINUTES = 60


def wait_for(condition, process, what):
    end = time.monotonic() + 20 * MINUTES
    while not condition():
        assert process.poll() is None, (what, process.stderr.read())
        assert time.monotonic() < end, what
        time.sleep(1)


def workers_of(process):
    """The training processes that the nodes have started."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "WorkerDict" in "".join(child.cmdline())
    ]


def mean(rows, key):
    return sum(row[key] for row in rows) / len(rows)


def test_a_run_that_lost_a_worker_goes_on_and_its_model_is_used_everywhere(nodes, write_recipe, aapo, tmp_path):
    cluster, address = nodes
    recipe = write_recipe(address, max_steps=STEPS, save_steps=EVERY, num_eval_prompts=50, eval_num_samples=2)
    run = RunDirectory(tmp_path / "run")
    first = aapo("cluster", recipe, "--output_dir", run.path)
    wait_for(lambda: len(run.metrics()) >= KILLED_AFTER, first, "the first steps")
    found = workers_of(cluster)
    assert len(found) == 2, "one process a node"
    os.kill(found[0].pid, signal.SIGKILL)
    _, errors = first.communicate(timeout=10 * MINUTES)
    assert first.returncode == 1, errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("aapo: verl ended with exit code 1: ") and line.endswith("newest checkpoint with --resume")
    saved = int((run.checkpoints / "latest_checkpointed_iteration.txt").read_text())
    assert saved % EVERY == 0 and not run.model.exists()

    again = aapo("cluster", recipe, "--output_dir", run.path, "--resume")
    printed, errors = again.communicate(timeout=40 * MINUTES)
    assert again.returncode == 0, errors
    assert f"going on from step {saved}" in printed and "report " in printed

    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert mean(rows[-3:], "rollout/accuracy") > mean(rows[:3], "rollout/accuracy") + 0.05
    assert mean(rows[-3:], "reward") > mean(rows[:3], "reward")
    assert all(row["seconds"] > before["seconds"] for before, row in pairwise(rows))
    check_advantages(run, rows)

    saved_folder = run.checkpoints / f"global_step_{STEPS}" / "actor" / "huggingface"
    few = ("--num_problems", 5, "--num-samples", 1, "--max_completion_length", 64)
    done(aapo("eval", saved_folder, "--tasks", "reasoning_gym:basic_arithmetic", *few, "--output", "evaluated"))
    done(aapo("publish", run.path, "--output", "published"))
    assert "on verl 0.9.1" in (tmp_path / "published" / "README.md").read_text()
    assert "<think>" in done(aapo("chat", run.path), "Calculate 123 + 456.")


def done(process, given=""):
    """What a process prints that ends well."""
    printed, errors = process.communicate(given, timeout=10 * MINUTES)
    assert process.returncode == 0, errors
    return printed


def check_advantages(run, rows):
    """That verl trained on the objective's advantages, by the rewards and reference rewards of each step."""
    for row in rows:
        stored = run.rollouts(row["step"])
        rewards_PG, augmented_PG = (
            torch.tensor([item[key] for item in stored]).view(-1, 8) for key in ("reward", "augmented")
        )
        reference_PK = torch.tensor([item["reference_rewards"] for item in stored])[::8]
        expected = augmented_advantages(objective("aapo"), rewards_PG, reference_PK).augmented_PG
        torch.testing.assert_close(augmented_PG, expected, atol=1e-6, rtol=0)
        tokens = torch.tensor([item["completion_tokens"] for item in stored]).double()
        of_tokens = (augmented_PG.flatten().double() * tokens).sum() / tokens.sum()
        assert row["verl/critic/advantages/mean"] == pytest.approx(of_tokens.item(), abs=1e-6)
        assert row["verl/critic/advantages/max"] == pytest.approx(augmented_PG.max().item(), abs=1e-6)
