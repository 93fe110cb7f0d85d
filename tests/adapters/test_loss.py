"""The loss of a step: each term that TRL's configuration adds is TRL's, and what is counted of it is the step's."""

from types import SimpleNamespace

import pytest
import torch
from test_update import Uneven, assert_same, config, load_tokenizer, make, reference_column, train, vowels
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import GRPOTrainer

from aapo.backends.trl.loss import LossTrainer, Tally
from aapo.objective import Objective
from tiny import TINY

ALONE = SimpleNamespace(reduce=lambda tensor, reduction: tensor, gather=lambda tensor: tensor)


@pytest.mark.parametrize(("level", "shares"), [("token", (1 / 5, 2 / 5, 3 / 5)), ("sequence", (1 / 3, 1 / 3, 2 / 3))])
def test_clipped_shares_are_of_what_counts(level, shares):
    """Rows of 2, 2 and 1 tokens, and one that stands in for a process without rows."""
    ratios_BT = torch.tensor([[0.5, 1.0], [1.5, 1.5], [1.0, 9.0], [0.1, 0.1]])
    if level == "sequence":
        ratios_BT = torch.tensor([[0.5], [1.5], [1.0], [0.1]]).expand(4, 2)
    mask_BT = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]])
    trainer = SimpleNamespace(objective=Objective(loss="clipped_surrogate", ratio_level=level), _tally=Tally())
    LossTrainer._count_clipped(trainer, ratios_BT, torch.tensor([[-1.0], [1.0], [-1.0], [-1.0]]), mask_BT)
    means = trainer._tally.means(ALONE)
    found = [means[f"clip_ratio/{name}_mean"] for name in ("low", "high", "region")]
    assert found == pytest.approx(shares)


def test_limits_are_of_rows_that_have_a_token():
    trainer = SimpleNamespace(objective=Objective(loss="clipped_surrogate"), _tally=Tally())
    mask_BT = torch.tensor([[1, 1], [1, 1], [0, 0]])
    LossTrainer._count_clipped(trainer, torch.tensor([[0.5, 0.5], [0.5, 1.0], [9.0, 9.0]]), -torch.ones(3, 1), mask_BT)
    # of the first row's tokens all are clipped, of the second's one of two
    assert trainer._tally.limits(ALONE) == {"clip_ratio/low_min": 0.5, "clip_ratio/high_max": 0.0}
    trainer._tally = Tally()
    LossTrainer._count_clipped(trainer, torch.ones(3, 2), torch.ones(3, 1), 0 * mask_BT)
    assert trainer._tally.limits(ALONE) == {}


LOGGED = ("kl", "entropy", "policy_loss", "clip_ratio/low_mean", "clip_ratio/high_mean", "cispo_clip_ratio")


class BesideTRL(Uneven):
    """Takes each step's gradient by TRL's own loss of the whole step, too, and what that logs and remembers."""

    trls: list
    logged: list

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.trls, self.logged = [], []

    def _gradients(self, model, step):
        if self.corrected:
            draw = torch.Generator().manual_seed(1)
            noise = [torch.rand(len(ids), generator=draw) for ids in step["completion_ids"]]
            step = {**step, "importance_sampling_ratio": [0.5 + values for values in noise]}
            step["sampling_per_token_logps"] = [-6 + values for values in noise]
        tokens = sum(int(mask.sum()) for mask in step["tool_mask"])
        batch = self._micro_batch(step, range(len(step["advantages"])), tokens, repeated=False)
        before = self.entropy_coef, self._last_world_entropy
        self.use_vllm = self.vllm_importance_sampling_correction = self.corrected
        loss = GRPOTrainer._compute_loss(self, model, {**batch, "num_items_in_batch": torch.tensor(tokens)})
        loss.backward()
        self.use_vllm = False
        self.trls.append(flat_gradient(model))
        model.zero_grad()
        after = self.entropy_coef, self._last_world_entropy
        self.entropy_coef, self._last_world_entropy = before
        theirs = {name: self._metrics["train"].pop(name, None) for name in LOGGED}
        found = super()._gradients(model, step)
        self.logged.append((theirs, {name: self._metrics["train"].get(name) for name in LOGGED}))
        self.logged.append((after, (self.entropy_coef, self._last_world_entropy)))
        return found


def flat_gradient(model):
    return torch.cat([parameter.grad.flatten().clone() for parameter in model.parameters()])


STALE = {"num_iterations": 2, "learning_rate": 0.01}
WHOLE = {"skip_zero_advantages": False}  # what is logged of tokens is of those that went through the model


@pytest.mark.parametrize(
    ("terms", "corrected"),
    [
        ({**STALE, **WHOLE}, False),
        ({**STALE, "algorithm": "aapo"}, True),
        ({**STALE, "beta": 0.2}, False),
        ({**STALE, "beta": 0.2, "use_bias_correction_kl": True, "algorithm": "gspo"}, True),
        ({**STALE, **WHOLE, "off_policy_mask_threshold": 0.3}, True),
        ({"entropy_coef": 0.3}, False),
        ({"entropy_coef": 3.0, "top_entropy_quantile": 0.4, "max_tokens_per_microbatch": 1000}, False),
        ({"top_entropy_quantile": 0.4, "max_tokens_per_microbatch": 1000}, False),
        (
            {
                "use_adaptive_entropy": True, "entropy_target": 5.67, "entropy_coef": 0.2, "top_entropy_quantile": 0.4,
                "max_tokens_per_microbatch": 1000, "max_steps": 1,
            },
            False,
        ),
        ({"use_adaptive_entropy": True, "entropy_target": 5.67, "entropy_coef": 0.2}, False),
    ],
    ids=str,
)  # fmt: skip
def test_what_trls_configuration_adds_is_trls(tiny_folder, tmp_path, addition, terms, corrected):
    settings = {
        "algorithm": "grpo", "aggregation": "token_mean", "max_steps": 2, "max_tokens_per_microbatch": 60, **terms
    }  # fmt: skip
    data = reference_column(addition) if settings["algorithm"] == "aapo" else addition
    BesideTRL.corrected = corrected
    trainer = make(tiny_folder, tmp_path, data, cls=BesideTRL, **settings)
    gradients = train(trainer)
    assert len(gradients) == settings["max_steps"]
    for gradient, expected in zip(gradients, trainer.trls, strict=True):
        # The share of chosen tokens is the quantile up to a token, where TRL counts them.
        assert_same(gradient, expected, 0.03 if terms.get("entropy_coef") == 3.0 else 1e-4)
    for theirs, ours in trainer.logged:
        if isinstance(theirs, tuple):
            assert ours == pytest.approx(theirs, abs=1e-5)
        else:
            assert {name for name, values in theirs.items() if values} == {
                name for name, values in ours.items() if values
            }
            for name, values in theirs.items():
                assert values is None or ours[name] == pytest.approx(values, abs=1e-5), name


def mixture():
    """A model of experts whose router has a loss, weighed by a half."""
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(
        hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, vocab_size=TINY.vocab_size, num_experts=4, num_experts_per_tok=2,
        output_router_logits=True, router_aux_loss_coef=0.5, pad_token_id=0,
    ))  # fmt: skip


@pytest.mark.parametrize("rewards", [vowels, lambda completions, **_: [1.0] * len(completions)], ids=["paid", "dead"])
def test_a_routers_loss_is_of_all_rows_by_their_tokens(tiny_folder, tmp_path, addition, rewards):
    """With one micro-batch TRL's; rows without an advantage have it, too."""
    BesideTRL.corrected = False
    trainer = BesideTRL(
        model=mixture(), reward_funcs=rewards, args=config(tmp_path, algorithm="grpo", aggregation="token_mean"),
        train_dataset=addition, processing_class=load_tokenizer(str(tiny_folder)),
    )  # fmt: skip
    assert trainer.aux_loss_enabled
    (gradient,) = train(trainer)
    assert_same(gradient, trainer.trls[0], 1e-4)
    assert trainer.state.log_history[0]["update/skipped_frac"] == 0


def test_a_routers_loss_is_logged_as_it_is_learnt_from(tiny_folder, tmp_path, addition):
    """In several micro-batches it is their mean, by tokens."""
    trainer = Uneven(
        model=mixture(), reward_funcs=lambda completions, **_: [1.0] * len(completions),
        args=config(tmp_path, algorithm="grpo", max_tokens_per_microbatch=100), train_dataset=addition,
        processing_class=load_tokenizer(str(tiny_folder)),
    )  # fmt: skip
    train(trainer)
    logged = trainer.state.log_history[0]
    assert logged["update/micro_batches"] > 2 and logged["aux_loss"] > 0.5
    assert logged["loss"] == pytest.approx(0.5 * logged["aux_loss"], rel=1e-4)
