"""The snippets of docs/elsewhere.md, each held against the objective."""

import re
import sys
from math import sqrt
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from trl import GRPOConfig

from aapo.objective import augmented_advantages, objective

PAGE = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")
REWARDS_PG = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
REFERENCE_PK = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
HALF = 0.5 / (sqrt(0.5) + 1e-4)
# the margin: of 1 over (0, 1) 0.14, of 0 -0.1; of 1 over (0, 0) 0.28; of 0 over (1, 0) -0.1
EXPECTED_PG = torch.tensor([[HALF + 0.14, -HALF - 0.1], [0.28, 0.28], [-0.1, -0.1]])


def snippet(name):
    """What the page's Python of that name defines."""
    (code,) = re.findall(rf"```python {name}\n(.*?)```", PAGE, re.DOTALL)
    found = {}
    exec(compile(code, f"docs/elsewhere.md, {name}", "exec"), found)
    return found


def test_the_values_here_are_the_objectives():
    found = augmented_advantages(objective("aapo"), REWARDS_PG, REFERENCE_PK).augmented_PG
    torch.testing.assert_close(found, EXPECTED_PG)


def test_plain_trl_has_the_advantages_of_the_objective(tiny_folder, addition, tmp_path):
    reference = [[float(place % 2), 0.0, 1.0] for place in range(len(addition))]
    seen = []

    class Watched(snippet("trl")["MarginTrainer"]):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            rewards_PG = self.rewards_BF[:, 0].view(-1, 4)
            reference_PK = torch.tensor([row["reference_rewards"] for row in inputs])[::4]
            expected = augmented_advantages(objective("aapo"), rewards_PG, reference_PK).augmented_PG.flatten()
            seen.append((output["advantages"], expected))
            return output

    def length(completions, **_):
        return [float(len(item[0]["content"]) % 3 == 0) for item in completions]

    args = GRPOConfig(
        output_dir=str(tmp_path), num_generations=4, per_device_train_batch_size=8, max_completion_length=6,
        max_steps=2, loss_type="dapo", report_to="none", use_cpu=True, bf16=False, save_strategy="no",
    )  # fmt: skip
    trainer = Watched(str(tiny_folder), length, args, addition.add_column("reference_rewards", reference))
    trainer.train()
    assert len(seen) == 2
    for found, expected in seen:
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert any(expected.abs().max() > 0.1 for _, expected in seen)


@pytest.fixture
def skyrl(tmp_path, monkeypatch):
    """The estimator, registered in a stand-in for SkyRL's registry."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"reference_rewards": REFERENCE_PK.tolist()}), "train.parquet")
    name = "skyrl.backends.skyrl_train.utils.ppo_utils"
    for part in range(1, len(name.split(".")) + 1):
        monkeypatch.setitem(sys.modules, ".".join(name.split(".")[:part]), ModuleType(name))
    sys.modules[name].register_advantage_estimator = lambda _: lambda function: function
    return snippet("skyrl")["aapo"]


def test_skyrls_estimator_puts_rows_back_where_they_were(skyrl):
    index = np.array(["2", "0", "1", "0", "1", "2"])
    mask = torch.tensor([[1, 1], [1, 0]] * 3)
    rewards = torch.zeros(6, 2)
    rewards[:, 0] = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    advantages, _ = skyrl(token_level_rewards=rewards, response_mask=mask, index=index, gamma=1.0, config=None)
    expected = torch.stack([EXPECTED_PG[2, 0], EXPECTED_PG[0, 0], EXPECTED_PG[1, 0], EXPECTED_PG[0, 1],
                            EXPECTED_PG[1, 1], EXPECTED_PG[2, 1]])  # fmt: skip
    torch.testing.assert_close(advantages, expected.unsqueeze(1) * mask, atol=1e-6, rtol=0)


def test_slimes_hook_returns_rewards_and_advantages():
    samples = [
        SimpleNamespace(
            get_reward_value=lambda args, value=value: value, metadata={"reference_rewards": REFERENCE_PK[p].tolist()}
        )
        for p, values in enumerate(REWARDS_PG.tolist())
        for value in values
    ]
    raw, processed = snippet("slime")["post_process"](SimpleNamespace(n_samples_per_prompt=2), samples)
    assert raw == REWARDS_PG.flatten().tolist()
    torch.testing.assert_close(torch.tensor(processed), EXPECTED_PG.flatten(), atol=1e-6, rtol=0)
