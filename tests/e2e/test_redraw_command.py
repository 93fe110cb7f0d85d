"""Reinforce-Ada at the command line: planned, trained, reported and replayed, and refused where it cannot be."""

import json
from pathlib import Path

import pytest
import yaml

from aapo.cli.app import run
from aapo.runs import RunDirectory

REWARD = """
def seldom(completion_ids, **columns):
    return [float(sum(ids) % 6 == 0) for ids in completion_ids]
"""


@pytest.fixture
def recipe(tiny_folder, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    Path("seldom_reward.py").write_text(REWARD)
    rows = [{"prompt": [{"role": "user", "content": f"{n} + {n}"}], "answer": str(2 * n)} for n in range(8)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "data.jsonl", "num_eval_prompts": 0,
        "reward_funcs": ["seldom_reward.py:seldom"], "judge_threshold": 1.0, "algorithm": "reinforce-ada",
        "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 6, "max_steps": 2,
        "save_strategy": "no", "activation_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 1,
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(fields))
    return "mine.yaml"


def test_a_run_that_draws_again_is_planned_trained_and_replayed(recipe, capsys):
    assert run(["train", recipe, "--dry-run", "--output_dir", "run", "--max_refill_rounds", "5"]) == 0
    plan = capsys.readouterr().out
    assert "redraw: balanced" in plan and "and up to 5 times as many to refill" in plan
    assert run(["train", recipe, "--output_dir", "run", "--max_refill_rounds", "5"]) == 0
    trained = RunDirectory(Path("run"))
    tokens, halved = 0, 0
    for step, logged in zip((1, 2), trained.metrics(), strict=True):
        rows = trained.rollouts(step)
        for group in (rows[i : i + 4] for i in range(0, 16, 4)):
            spare = group[0]["spare_rewards"]
            drawn = [row["reward"] for row in group] + spare
            assert len(drawn) % 4 == 0 and 4 <= len(drawn) <= 24
            assert len(drawn) == 24 or sum(drawn) >= 2
            kept = sum(row["correct"] for row in group)
            assert kept == min(2, sum(drawn))
            halved += kept == 2 and len(drawn) > 4
            tokens += sum(row["completion_tokens"] for row in group) + sum(group[0]["spare_tokens"])
            for row in group:
                assert row["spare_rewards"] == spare
                assert row["augmented"] == pytest.approx(row["reward"] - sum(drawn) / len(drawn), abs=1e-6)
        assert logged["rollout/generated_tokens"] == tokens
    assert halved > 0
    assert run(["replay", "run", "--algorithms", "reinforce-ada,rloo", "--output", "replay.json"]) == 0
    read = json.loads(Path("replay.json").read_text())
    for again, stored in zip(read["algorithms"][0]["steps"].values(), read["own"]["steps"].values(), strict=True):
        assert again == pytest.approx(stored, abs=1e-6)
    assert read["own"]["whole"]["bias"]["estimate"] > 0.01  # what is kept is right more often than what was drawn


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min_live_frac", "1"), "redraw is balanced and min_live_frac 1.0; a prompt is drawn again or gives way"),
        (("--redraw", "always"), "redraw is 'always'; it must be one of none, right, balanced"),
        (("--judge_threshold", "null"), "the algorithm reads what is right, and none of the reward"),
        (("--reward_funcs", "accuracy,len", "--judge_threshold", "null"), "redraw is balanced, and reward function"),
        (("--redraw", "none", "--max_refill_rounds", "2"), "max_refill_rounds is 2 but has no effect, because min_"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_drawn(recipe, capsys, flags, message):
    assert run(["train", recipe, *flags, "--output_dir", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"aapo: {message}") and not Path("run").exists()
