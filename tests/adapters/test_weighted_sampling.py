"""Prompts drawn by weight on the real trainer: resume, processes, refill, curriculum."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from test_trainer import Spy, even_sum_or_dead, make, sums

WEIGHTED = {
    "algorithm": "grpo", "weighted_sample": True, "sample_strategy": "soft", "per_device_train_batch_size": 12,
    "judge_threshold": 1.0,
}  # fmt: skip


def drawn(trainer) -> list[list[str]]:
    return [[row["answer"] for row in rows[:: trainer.num_generations]] for rows, _, _ in trainer.batches]


def test_prompts_that_are_always_right_are_not_drawn_again(tiny_folder, tmp_path):
    trainer = make(Spy, tiny_folder, tmp_path, sums(12), rewards=even_sum_or_dead, max_steps=8, **WEIGHTED)
    trainer.train()
    seen: dict[str, list[float]] = {answer: [] for answer in sums(12)["answer"]}
    for batch, (rows, _, captured) in zip(drawn(trainer), trainer.batches, strict=True):
        weighted = {answer for answer, values in seen.items() if not values or 0 < sum(values) < len(values)}
        assert len(set(batch)) == 3, "no prompt twice in a batch"
        assert set(batch) <= weighted or len(weighted) < 3, "weight 0 at a mean of 0 or 1"
        for row, value in zip(rows, captured.rewards_BF[:, 0].tolist(), strict=True):
            seen[row["answer"]].append(value)
    assert any(values and sum(values) == len(values) for values in seen.values()), "some were always right"
    log = trainer.state.log_history[0]
    assert log["prompts/seen_frac"] == 0 and log["prompts/effective_number"] == pytest.approx(12)


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws(tiny_folder, tmp_path):
    settings = {**WEIGHTED, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    whole = make(Spy, tiny_folder, tmp_path, sums(12), rewards=even_sum_or_dead, **settings)
    whole.train()
    assert (tmp_path / "checkpoint-3" / "prompts.json").exists()
    resumed = make(Spy, tiny_folder, tmp_path, sums(12), rewards=even_sum_or_dead, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert drawn(resumed) == drawn(whole)[3:]
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(parameter, dict(resumed.model.named_parameters())[name], atol=1e-6, rtol=0)


def test_a_refill_takes_the_prompts_that_weigh_most(tiny_folder, tmp_path):
    trainer = make(
        Spy, tiny_folder, tmp_path, sums(12), rewards=even_sum_or_dead, max_steps=3, min_live_frac=1.0,
        max_refill_rounds=20, rescale_dead_groups=True, **{**WEIGHTED, "algorithm": "gpg"},
    )  # fmt: skip
    trainer.train()
    assert sum(row["rollout/refill_rounds"] for row in trainer.state.log_history[:3]) >= 1
    for batch in drawn(trainer):
        assert len(set(batch)) == 3


def test_gpg_with_its_threshold_trains(tiny_folder, tmp_path):
    trainer = make(
        Spy, tiny_folder, tmp_path, sums(12), rewards=even_sum_or_dead, algorithm="gpg", min_live_frac=0.5,
        max_refill_rounds=20, per_device_train_batch_size=12, max_steps=2,
    )  # fmt: skip
    trainer.train()
    for row in trainer.state.log_history[:2]:
        assert row["signal/dead_group_frac"] <= 0.5 or row["rollout/refill_rounds"] == 20


def test_a_curriculum_goes_by_the_banks_pass_rates(tiny_folder, tmp_path):
    rows = sums(8)
    correct = [[1.0] * place + [0.0] * (8 - place) for place in range(8)]
    data = rows.add_column("reference_correct", correct).add_column("reference_rewards", [[0.0, 1.0]] * 8)
    trainer = make(
        Spy, tiny_folder, tmp_path, data, rewards=even_sum_or_dead, algorithm="grpo", curriculum="easy_to_hard",
        judge_threshold=1.0, per_device_train_batch_size=8, max_steps=4,
    )  # fmt: skip
    trainer.train()
    answers = rows["answer"]
    first = {answers.index(answer) for answer in drawn(trainer)[0]}
    assert first == {7, 6}, "the easiest quarter of eight"
    second = {answers.index(answer) for answer in drawn(trainer)[1]}
    assert second <= {7, 6, 5, 4, 3}, "0.25 + 0.75 * 0.25 / 0.5 of eight, rounded up"


def test_a_refill_goes_no_further_than_the_curriculum(tiny_folder, tmp_path):
    rows = sums(24)
    correct = [[1.0] * place + [0.0] * (24 - place) for place in range(24)]
    data = rows.add_column("reference_correct", correct).add_column("reference_rewards", [[0.0, 1.0]] * 24)
    trainer = make(
        Spy, tiny_folder, tmp_path, data, rewards=lambda completions, **_: [0.0] * len(completions), algorithm="grpo",
        curriculum="easy_to_hard", judge_threshold=1.0, per_device_train_batch_size=8, min_live_frac=1.0,
        max_refill_rounds=1,
    )  # fmt: skip
    trainer.train()
    assert trainer.num_drawn == 16, "two groups, and two in their place"
    refilled = {rows["answer"].index(answer) for answer in drawn(trainer)[0]}
    assert refilled <= {23, 22, 21, 20, 19, 18}, "the easiest quarter of 24"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_trainer import Spy, config, even_sum_or_dead, flat, load_model, load_tokenizer, sums
args = config({out!r}, per_device_train_batch_size=12 // int(sys.argv[1]), max_steps=3, ddp_backend="gloo",
              rollouts_dir={out!r} + "/" + sys.argv[1], algorithm="grpo", judge_threshold=1.0, weighted_sample=True,
              sample_strategy="soft")
trainer = Spy(model=load_model({folder!r}), reward_funcs=[even_sum_or_dead], args=args, train_dataset=sums(12),
              processing_class=load_tokenizer({folder!r}))
trainer.train()
assert trainer.accelerator.num_processes == int(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(tiny_folder, tmp_path):
    script = tmp_path / "script.py"
    fields = {"tests": str(Path(__file__).parent), "folder": str(tiny_folder), "out": str(tmp_path / "out")}
    script.write_text(SCRIPT.format(**fields))
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*launch, str(script), str(processes)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for step in (1, 2, 3):
        one, two = (
            pq.read_table(tmp_path / "out" / str(processes) / f"step-{step:06d}.parquet").to_pylist()
            for processes in (1, 2)
        )
        for key in ("prompt", "completion", "reward", "prompt_key"):
            assert [row[key] for row in one] == [row[key] for row in two]


def test_a_filter_by_pass_rate_needs_no_margin(tiny_folder, tmp_path, cache, capsys):
    from aapo.cli.app import run as aapo
    from aapo.runs import RunDirectory

    rows = tmp_path / "rows.jsonl"
    Dataset.from_list([{"question": f"{n}?", "answer": str(n)} for n in range(8)]).to_json(rows)
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {tiny_folder}\ndataset_name: {rows}\nnum_eval_prompts: 0\nconversational: false\n"
        "algorithm: grpo\nnum_generations: 2\nper_device_train_batch_size: 4\nmax_completion_length: 4\nmax_steps: 1\n"
        "bf16: false\nactivation_checkpointing: false\nsave_strategy: 'no'\nnum_reference_samples: 2\n"
        "max_reference_pass_rate: 0.5\npreflight: warn\n"
    )
    assert aapo(["train", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    assert "8 of 8 prompts have a reference pass rate within the bounds" in capsys.readouterr().out
    assert RunDirectory.open(tmp_path / "run").manifest()["num_train_prompts"] == 8, "a random model solves none"
    flags = ["--max_reference_pass_rate", "1.0", "--min_reference_pass_rate", "0.5"]
    assert aapo(["train", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "none"), *flags]) == 2
    assert "there are 0 training prompts and one batch takes 2" in capsys.readouterr().err
