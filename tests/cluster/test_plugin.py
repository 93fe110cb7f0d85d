"""In verl's environment: what is registered, and that verl's losses and schedules are what a recipe asks for."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aapo.backends.verl.mapping import arguments, mapped
from aapo.backends.verl.table import ACTOR
from aapo.backends.verl.teaching import handing_over
from aapo.backends.verl.values import Facts
from aapo.objective import ALGORITHMS, objective, policy_loss
from aapo.recipe import load_recipe

pytestmark = pytest.mark.verl

FACTS = Facts("/models/base", "/runs/a", 80, 96)


def recipe(*flags, source="quickstart"):
    return load_recipe(source, ["--backend", "verl", *flags])


def settings(*flags):
    return {name: value for item in mapped(recipe(*flags), FACTS) for name, value in item.settings.items()}


def test_the_plugin_registers_and_imports_neither_trl_nor_our_engines(environment):
    code = """
import sys
import aapo.backends.verl.plugin as plugin
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import get_trainer_cls
assert get_trainer_cls("aapo_sync") is plugin.AAPOTrainerSync
assert get_adv_estimator_fn("aapo").__module__ == "aapo.backends.verl.teaching"
assert "trl" not in sys.modules, "TRL"
assert not [name for name in sys.modules if name.startswith(("aapo.engines", "aapo.evaluation", "aapo.backends.trl"))]
print("registered")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1:] == ["registered"], done.stderr


def test_the_estimator_is_what_verl_takes_advantages_from():
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    import aapo.backends.verl.plugin  # noqa: F401  which registers it

    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    data = DataProto.from_dict(
        {"token_level_rewards": torch.zeros(2, 3), "response_mask": mask}, {"uid": np.array(["a", "a"], dtype=object)}
    )
    with handing_over(torch.tensor([0.75, -0.5])):
        found = compute_advantage_for_multi_trajectories(data, ["a_0_0", "a_1_0"], adv_estimator="aapo", config=None)
    assert found.batch["advantages"].tolist() == [[0.75, 0.75, 0.0], [-0.5, 0.0, 0.0]]


@pytest.mark.parametrize("stale", [0.0, 0.3])
@pytest.mark.parametrize(
    "algorithm", [name for name, point in ALGORITHMS.items() if point.objective.token_advantage is None]
)
def test_verls_loss_has_the_gradient_of_the_objectives(algorithm, stale):
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig, PolicyLossConfig

    given = settings("--algorithm", algorithm, "--min_live_frac", "0", "--redraw", "none")
    torch.manual_seed(1)
    limit, lengths = 64, torch.tensor([3, 5, 1, 4])
    mask_BT = (torch.arange(5) < lengths.unsqueeze(1)).float()
    logprobs_BT = -torch.rand(4, 5) - 0.1
    old_BT = logprobs_BT + stale * torch.randn(4, 5)
    advantages_B = torch.tensor([1.0, -0.7, 0.3, -1.2])
    point = objective(algorithm)

    ours_BT = logprobs_BT.clone().requires_grad_()
    policy_loss(point, ours_BT, advantages_B, mask_BT, max_completion_length=limit, old_logprobs_BT=old_BT).backward()

    mode = given[f"{ACTOR}.policy_loss.loss_mode"]
    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=4, policy_loss=PolicyLossConfig(loss_mode=mode),
        **{name: given[f"{ACTOR}.{name}"] for name in ("clip_ratio_low", "clip_ratio_high", "clip_ratio_c")},
    )  # fmt: skip
    config.global_batch_info.update(
        dp_size=1, batch_num_tokens=int(lengths.sum()), global_batch_size=4,
        loss_scale_factor=given.get(f"{ACTOR}.loss_scale_factor"),
    )  # fmt: skip
    theirs_BT = logprobs_BT.clone().requires_grad_()
    loss, _ = get_policy_loss_fn(mode)(
        old_log_prob=old_BT, log_prob=theirs_BT, advantages=advantages_B.unsqueeze(1) * mask_BT, response_mask=mask_BT,
        loss_agg_mode=given[f"{ACTOR}.loss_agg_mode"], config=config,
    )  # fmt: skip
    loss.backward()
    gradient_BT, expected_BT = theirs_BT.grad, ours_BT.grad
    if point.ratio_level == "sequence":  # verl puts a sequence's gradient on its tokens one by one
        gradient_BT, expected_BT = gradient_BT.sum(1), expected_BT.sum(1)
    torch.testing.assert_close(gradient_BT, expected_BT, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("corrected", [True, False])
def test_verls_kl_term_has_the_gradient_of_trls_on_fresh_samples(corrected):
    from verl.trainer.ppo.core_algos import kl_penalty

    given = settings("--algorithm", "grpo", "--beta", "0.04", "--use_bias_correction_kl", str(corrected).lower())
    ours_B, old_B, reference_B = (torch.tensor([-1.0, -0.3, -2.0]) for _ in range(3))
    reference_B = reference_B + torch.tensor([0.5, -0.4, 0.0])
    theirs_B = ours_B.clone().requires_grad_()
    theirs_B_kl = kl_penalty(theirs_B, reference_B, given[f"{ACTOR}.kl_loss_type"])
    theirs_B_kl.sum().backward()
    ours_B.requires_grad_()
    difference_B = reference_B - ours_B
    ours_B_kl = difference_B.exp() - difference_B - 1
    if corrected:
        ours_B_kl = ours_B_kl * (ours_B - old_B).exp()
    ours_B_kl.sum().backward()
    torch.testing.assert_close(theirs_B_kl, ours_B_kl)
    torch.testing.assert_close(theirs_B.grad, ours_B.grad)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--beta", "0.04", "--algorithm", "grpo"),
        ("--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", "{num_cycles: 1.5}"),
        ("--use_peft", "true", "--lora_dropout", "0"),
        ("--warmup_steps", "5", "--lr_scheduler_type", "cosine"),
        ("--cluster.strategy", "megatron", "--bf16", "true", "--cluster.tensor_parallel_size", "2"),
        ("--cluster.address", "auto", "--cluster.rollout", "sglang"),
    ],
)
def test_verls_configuration_has_every_setting(flags):
    from hydra import compose, initialize_config_module

    lines = arguments(mapped(recipe(*flags), FACTS._replace(held_out=True)))
    overrides = [line for line in lines if not line.startswith("hydra.")]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides)  # which refuses a name that is not there
    assert config.algorithm.adv_estimator == "aapo" and config.aapo.run == "/runs/a"
    assert config.actor_rollout_ref.model.custom_chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("name", "kwargs", "warmup"),
    [
        ("constant_with_warmup", {}, 3),
        ("cosine", {}, 3),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, 2),
        ("cosine", {"num_cycles": 1.5}, 2),
    ],
)
def test_verls_schedules_are_transformers(name, kwargs, warmup):
    from transformers import get_scheduler
    from verl.utils.torch_functional import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

    flags = ("--lr_scheduler_type", name, "--warmup_steps", str(warmup), "--lr_scheduler_kwargs", str(kwargs))
    given = settings(*flags)
    assert given[f"{ACTOR}.optim.lr_warmup_steps"] == warmup

    def rates(make):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler, found = make(optimizer), []
        for _ in range(20):
            found.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return found

    def verls(optimizer):
        if given[f"{ACTOR}.optim.lr_scheduler_type"] == "constant":
            return get_constant_schedule_with_warmup(optimizer, warmup)
        cycles = given.get(f"{ACTOR}.optim.num_cycles", 0.5)  # verl's own
        ratio = given[f"{ACTOR}.optim.min_lr_ratio"]
        return get_cosine_schedule_with_warmup(optimizer, warmup, 20, min_lr_ratio=ratio, num_cycles=cycles)

    expected = rates(lambda optimizer: get_scheduler(name, optimizer, warmup, 20, scheduler_specific_kwargs=kwargs))
    assert rates(verls) == pytest.approx(expected, abs=1e-9)


def test_verls_replay_buffer_tells_what_it_throws_away(monkeypatch):
    import verl.trainer.ppo.v1.replay_buffer as theirs

    from aapo.backends.verl.recording import count_discarded

    cleared, told = [], []
    monkeypatch.setattr(theirs.tq, "kv_clear", lambda **call: cleared.append(sorted(call["keys"])), raising=False)
    buffer = object.__new__(theirs.ReplayBuffer)
    for name in ("pending_keys", "running_keys", "finished_keys", "failure_keys"):
        setattr(buffer, name, {"train": {"a", "b"}})
    buffer.prompt_global_steps, buffer._dapo_classification_cache = {"train": {"a": 1}}, {"train": {}}
    buffer.partitions = {"train": {"a_0_0": {"response_len": 5}, "a_1_0": {"response_len": 7}, "b_0_0": {}}}
    count_discarded(buffer, told.append)
    buffer._evict_terminal_groups(1, "train", (set(), {"a"}, set(), {}))
    assert told == [12] and cleared == [["a", "a_0_0", "a_1_0"]] and list(buffer.partitions["train"]) == ["b_0_0"]


def test_the_grader_hands_over_the_tokens(tmp_path):
    import asyncio

    from aapo.backends.verl.plugin import Grader

    seen = {}

    def compute_score(**call):
        seen.update(call)
        return {"score": 0.5, "shaped": 0.5, "acc": 1.0, "scored": "{}"}

    class Item(SimpleNamespace):
        def __getitem__(self, index):
            return self

    item = Item(
        batch={"responses": torch.tensor([7, 8, 0]), "attention_mask": torch.tensor([1, 1, 1, 1, 0])},
        non_tensor_batch={"data_source": "d", "reward_model": {"ground_truth": "2"}, "extra_info": {"row": "{}"}},
    )
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: str(ids))

    async def graded():
        grader = Grader(SimpleNamespace(aapo=SimpleNamespace(run="/runs/a")), tokenizer, compute_score)
        return await grader.run_single(item)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    found = loop.run_until_complete(graded())
    assert (found["reward_score"], found["reward_extra_info"]["tokens"]) == (0.5, 2)
    assert seen["completion_ids"] == [7, 8] and seen["solution_str"] == "[7, 8]" and seen["run"] == "/runs/a"
