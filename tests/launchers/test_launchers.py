"""The shipped launcher files on two CPU processes: they take effect, train what one process trains, and resume.

make test-deepspeed
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from aapo.runs import RunDirectory

# What accelerate is to run: by torchrun on four processes, by each shipped file on two.
LAUNCHERS = {
    "torchrun": {"type": "MULTI_CPU", "processes": 4, "zero_stage": None, "offload": None, "fsdp_version": None},
    "ddp": {"type": "MULTI_CPU", "processes": 2, "zero_stage": None, "offload": None, "fsdp_version": None},
    "fsdp2": {"type": "FSDP", "processes": 2, "zero_stage": None, "offload": None, "fsdp_version": 2},
    "zero2": {"type": "DEEPSPEED", "processes": 2, "zero_stage": 2, "offload": "none", "fsdp_version": None},
    "zero2-offload": {"type": "DEEPSPEED", "processes": 2, "zero_stage": 2, "offload": "cpu", "fsdp_version": None},
    "zero3": {"type": "DEEPSPEED", "processes": 2, "zero_stage": 3, "offload": "none", "fsdp_version": None},
}


def marked(*names):
    """The launchers as parameters; those by DeepSpeed need its environment."""
    return [
        pytest.param(name, marks=pytest.mark.deepspeed if name.startswith("zero") else pytest.mark.slow)
        for name in names
    ]


# Eight tokens are left, the end token among them, so that completions end at different lengths on the processes; the
# bank grows when a prompt is met, since draws are weighted; the last batch of the evaluation is uneven.
LEFT = 8
RECIPE = {
    "dataset_name": "rows.jsonl", "num_eval_prompts": 5, "eval_num_samples": 1, "reward_funcs": "mine.py:even",
    "judge": "even", "judge_threshold": 0.5, "algorithm": "aapo", "num_reference_samples": 2, "num_generations": 4,
    "weighted_sample": True, "sample_strategy": "soft", "max_completion_length": 24, "learning_rate": 1.0e-3,
    "lr_scheduler_type": "constant", "max_steps": 4, "save_steps": 2, "activation_checkpointing": False, "bf16": False,
    "seed": 1,
}  # fmt: skip
# Dies on the second process once the first checkpoint is whole.
REWARD = """
import os, signal
from pathlib import Path
def even(completion_ids, **columns):
    whole = Path(os.environ.get("DIES", "")) / "checkpoints" / "checkpoint-2" / "whole"
    if os.environ.get("DIES") and os.environ["RANK"] == "1" and whole.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]
"""


@pytest.fixture(scope="module")
def workplace(tiny_folder, tmp_path_factory):
    """A folder with the recipe, its data and its reward."""
    folder = tmp_path_factory.mktemp("launchers")
    config = json.loads((tiny_folder / "config.json").read_text())
    suppressed = sorted({*range(config["vocab_size"] - LEFT + 1)} - {config["eos_token_id"]})
    recipe = {"model_name_or_path": str(tiny_folder), "generation_kwargs": {"suppress_tokens": suppressed}, **RECIPE}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [{"question": f"Calculate {n} + {n}.", "answer": str(2 * n)} for n in range(48)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(REWARD)
    return folder


def environment(folder, **variables):
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "AAPO_CACHE": str(folder / "cache"), "DS_ACCELERATOR": "cpu",
        "CCL_WORKER_COUNT": "1", **variables,
    }  # fmt: skip


def ran(workplace, folder, command, *flags, fails=False, **variables):
    """Run a command in the workplace with a cache of its own, which must succeed or fail; its run is in `folder`.

    A launcher has an exit code of its own for processes that fail.
    """
    done = subprocess.run(
        [*map(str, command), "train", "recipe.yaml", "--output_dir", str(folder / "run"), *flags],
        env=environment(folder, **variables), cwd=workplace, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def launch(workplace, launcher, *program):
    """`torchrun`, or `accelerate launch` with a shipped file, as `aapo launchers` prints it."""
    if launcher == "torchrun":
        count = LAUNCHERS[launcher]["processes"]
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *program]
    file = workplace / f"{launcher}.yaml"
    aapo = [sys.executable, "-m", "aapo", "launchers", launcher]
    file.write_text(subprocess.run(aapo, check=True, capture_output=True, text=True).stdout)
    options = ["--config_file", file, "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *program]


@pytest.fixture(scope="module")
def alone(workplace, tmp_path_factory):
    """The run of one process that nothing interrupts."""
    folder = tmp_path_factory.mktemp("alone")
    ran(workplace, folder, [sys.executable, "-m", "aapo"], "--per_device_train_batch_size", "8")
    return RunDirectory(folder / "run")


def trained(run):
    return load_file(run.model / "model.safetensors")


@pytest.mark.parametrize("launcher", marked(*LAUNCHERS))
def test_a_killed_and_resumed_run_of_several_processes_equals_that_of_one(launcher, workplace, alone, tmp_path):
    command = launch(workplace, launcher, Path(__file__).parent / "on_cpu.py")
    count = LAUNCHERS[launcher]["processes"]
    flags = ("--per_device_train_batch_size", str(8 // count))
    ran(workplace, tmp_path, command, *flags, fails=True, DIES=str(tmp_path / "run"))
    run = RunDirectory(tmp_path / "run")
    assert [row["step"] for row in run.metrics()] == [1, 2] and not run.model.exists()
    ran(workplace, tmp_path, command, *flags, "--resume")

    for rank in range(count):  # the launcher has taken effect
        facts = json.loads((workplace / f"launched-{rank}.json").read_text())
        assert facts == LAUNCHERS[launcher]
    # Summed in another order, float32 gradients differ by a few units in the last place; Adam's four steps of 1e-3 have
    # made of it 1e-6 at most where weights have moved by 4e-3.
    weights, expected = trained(run), trained(alone)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)
    for one, two in zip(alone.metrics(), run.metrics(), strict=True):
        for key in ("loss", "grad_norm", "reward", "margin/mean", "completions/mean_length", "bank/prompts"):
            assert one[key] == pytest.approx(two[key], rel=1e-4, abs=1e-5), key
    lengths = set()
    for step in (1, 2, 3, 4):
        rows = [pq.read_table(each.samples / f"step-{step:06d}.parquet").to_pylist() for each in (alone, run)]
        assert [row["completion"] for row in rows[0]] == [row["completion"] for row in rows[1]]
        lengths |= {row["completion_tokens"] for row in rows[0]}
    assert len(lengths) > 3  # some ended early
    summaries = [json.loads((each.evaluation / "results.json").read_text()) for each in (alone, run)]
    assert summaries[0] == summaries[1]


def of_one_and_of_two(launcher, workplace, folder, *flags):
    """The runs of one process and of two, each of which has half the batch."""
    alone, command = [sys.executable, "-m", "aapo"], launch(workplace, launcher, Path(__file__).parent / "on_cpu.py")
    ran(workplace, folder / "alone", alone, *flags, "--per_device_train_batch_size", "8")
    ran(workplace, folder / "two", command, *flags, "--per_device_train_batch_size", "4")
    return RunDirectory(folder / "alone" / "run"), RunDirectory(folder / "two" / "run")


@pytest.mark.parametrize("launcher", marked("fsdp2", "zero3"))
def test_adapters_train_where_the_weights_are_spread(launcher, workplace, tmp_path):
    flags = ("--use_peft", "true", "--lora_target_modules", "q_proj,v_proj", "--lora_dropout", "0")
    runs = of_one_and_of_two(launcher, workplace, tmp_path, *flags)
    one, two = (load_file(run.model / "adapter_model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("launcher", marked("fsdp2", "zero3"))
def test_dead_groups_are_drawn_again_where_the_weights_are_spread(launcher, workplace, tmp_path):
    flags = (
        "--algorithm", "grpo", "--min_live_frac", "1", "--max_refill_rounds", "2", "--num_generations", "2",
        "--num_reference_samples", "null", "--max_steps", "2",
    )  # fmt: skip
    one, two = (run.metrics() for run in of_one_and_of_two(launcher, workplace, tmp_path, *flags))
    assert sum(row["rollout/refill_rounds"] for row in one) > 0
    for a, b in zip(one, two, strict=True):
        for key in ("rollout/refill_rounds", "reward", "loss"):
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_launcher_without_effect_ends_the_run_in_one_line(workplace, tmp_path):
    done = ran(workplace, tmp_path, launch(workplace, "fsdp2", "-m", "aapo"), fails=True)
    assert "aapo: accelerate launch was asked for FSDP and runs MULTI_CPU" in done.stderr
