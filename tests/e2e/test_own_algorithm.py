"""An algorithm of a user's own, in one file outside the package: named in a recipe, trained with, replayed."""

import json
from pathlib import Path

import pytest
import yaml

from aapo.cli.app import run
from aapo.runs import RunDirectory

ROOT = Path(__file__).parents[2]
REWARD = """
def even(completion_ids, **columns):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]
"""


@pytest.fixture
def recipe(tiny_folder, tmp_path, monkeypatch, cache):
    """A recipe in a folder of its own, in which the example lies as a user's file would."""
    monkeypatch.chdir(tmp_path)
    Path("my_algorithm.py").write_text((ROOT / "examples" / "my_algorithm.py").read_text(encoding="utf-8"))
    Path("my_reward.py").write_text(REWARD)
    rows = [{"prompt": [{"role": "user", "content": f"{n} + {n}"}], "answer": str(2 * n)} for n in range(8)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "data.jsonl", "num_eval_prompts": 0,
        "reward_funcs": ["my_reward.py:even"], "algorithm": "my_algorithm.py:HARD_FIRST", "num_reference_samples": 3,
        "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 6, "max_steps": 2,
        "save_strategy": "no", "activation_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 1,
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(fields))
    return "mine.yaml"


def test_an_own_algorithm_is_planned_trained_and_replayed(recipe, capsys):
    assert run(["train", recipe, "--dry-run", "--output_dir", "run"]) == 0
    assert "advantage: aapo_user_my_algorithm:hard_first" in capsys.readouterr().out
    assert run(["train", recipe, "--output_dir", "run"]) == 0
    trained = RunDirectory(Path("run"))
    assert trained.manifest()["algorithm"] == "my_algorithm.py:HARD_FIRST"
    pushed = 0
    for step in (1, 2):
        rows = trained.rollouts(step)
        for group in (rows[i : i + 4] for i in range(0, 16, 4)):
            weight = 1.5 - sum(group[0]["reference_rewards"]) / 3
            for row in group:
                others = sum(other["reward"] for other in group) - row["reward"]
                assert row["advantage"] == pytest.approx(weight * (row["reward"] - others / 3), abs=1e-6)
                differences = (row["reward"] - reward for reward in row["reference_rewards"])
                margin = sum(min(max(difference, -0.2), 0.28) for difference in differences) / 3
                assert row["augmented"] == pytest.approx(row["advantage"] + margin, abs=1e-6)
                pushed += row["advantage"] != 0
    assert pushed > 0

    names = "my_algorithm.py:HARD_FIRST,rloo"
    assert run(["replay", "run", "--algorithms", names, "--output", "replay.json"]) == 0
    read = json.loads(Path("replay.json").read_text())
    own, again = read["own"]["steps"], read["algorithms"][0]["steps"]
    assert again["bias"] == pytest.approx(own["bias"], abs=1e-6)


def test_a_margin_of_ones_own_is_planned_trained_and_replayed(recipe, capsys):
    Path("my_margin.py").write_text((ROOT / "examples" / "my_margin.py").read_text(encoding="utf-8"))
    own = ("--algorithm", "aapo", "--margin", "my_margin.py:over_the_mean", "--max_steps", "1")
    assert run(["train", recipe, *own, "--dry-run", "--output_dir", "run"]) == 0
    assert "margin: my_margin.py:over_the_mean" in capsys.readouterr().out
    assert run(["train", recipe, *own, "--output_dir", "run"]) == 0
    rows = RunDirectory(Path("run")).rollouts(1)
    for row in rows:
        difference = row["reward"] - sum(row["reference_rewards"]) / 3
        assert row["margin"] == pytest.approx(min(max(difference, -0.2), 0.28), abs=1e-6)
    (logged,) = RunDirectory(Path("run")).metrics()
    differences = [row["reward"] - sum(row["reference_rewards"]) / 3 for row in rows]
    assert logged["margin/clipped_low_frac"] == pytest.approx(sum(d < -0.2 for d in differences) / 16)
    assert logged["margin/clipped_high_frac"] == pytest.approx(sum(d > 0.28 for d in differences) / 16)
    assert len({row["margin"] for row in rows}) > 1
    assert run(["train", recipe, *own[:2], "--margin", "my_margin.py:gone", "--output_dir", "other"]) == 2
    assert "cannot load margin 'my_margin.py:gone'" in capsys.readouterr().err


def test_an_algorithm_that_is_not_there_is_one_line(recipe, capsys):
    assert run(["train", recipe, "--algorithm", "my_algorithm.py:HARDFIRST"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        "aapo: cannot load algorithm 'my_algorithm.py:HARDFIRST': module 'aapo_user_my_algorithm' has no attribute "
        "'HARDFIRST'"
    )
