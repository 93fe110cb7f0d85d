"""What the trainer relies on in TRL. When an upgrade breaks one of these, the message says where to look."""

import inspect

import pytest
import torch
import trl
from accelerate.utils import DynamoBackend
from transformers.debug_utils import DebugOption
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import FSDPOption, HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames, trainer_log_levels
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import RepeatSampler

from aapo.grading.extraction import CONVENTIONS
from aapo.ranges import RANGES

PARAMETERS = {
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    "_get_train_sampler": ["self", "dataset"],
    "_tokenize_prompts": ["self", "prompts"],
    "_compute_loss": ["self", "model", "inputs"],
}  # fmt: skip
USED = {
    "_generate_and_score_completions": [
        'output = {', '"advantages": advantages', '"completion_mask": completion_mask', '"num_items_in_batch"',
        'self._logs["advantages"].extend', "self._pending_extra_logs.clear()",
        "self._calculate_rewards(inputs, prompts, completions, completion_ids_list)",
    ],
    "_compute_loss": [
        'if self.loss_type == "cispo":', "torch.clamp(coef_1, max=self.epsilon_high).detach()",
        "-clamped_ratios * advantages * per_token_logps", '["cispo", "dapo", "vespo"]',
        "1 - self.epsilon_low, 1 + self.epsilon_high", 'inputs.get("old_per_token_logps")',
        '(log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)', "loss = (per_token_loss * mask).sum() / normalizer",
    ],
    "_calculate_rewards": ["gather(rewards_per_func)", '"log_extra"', '"log_metric"', '"trainer_state"'],
    "_generate": ["self._generate_single_turn(", "self._tokenize_prompts(prompts)"],
    "_save_checkpoint": ["super()._save_checkpoint(model, trial)", "self._get_output_dir(trial=trial)"],
    "_log_completion_extra": ["self._pending_extra_logs[column].extend(values)"],
    "_generate_single_turn": ["unwrap_model_for_generation", "self._dist.summon_full_params"],
}  # fmt: skip
HINT = f"TRL is {trl.__version__}; aapo.backends.trl.trainer was written against 1.16: check "


@pytest.mark.parametrize("name", PARAMETERS)
def test_private_methods_have_the_parameters_that_we_override(name):
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found == PARAMETERS[name], f"{HINT}the override of GRPOTrainer.{name}, whose parameters are now {found}"


@pytest.mark.parametrize("name", USED)
def test_private_methods_still_do_what_we_build_on(name):
    source = inspect.getsource(getattr(GRPOTrainer, name))
    missing = [fragment for fragment in USED[name] if fragment not in source]
    assert not missing, f"{HINT}GRPOTrainer.{name}, where these are gone: {missing}"


def test_attributes_that_init_sets():
    source = inspect.getsource(GRPOTrainer.__init__)
    for fragment in ("self.loss_type =", "self.epsilon_low =", "self.epsilon_high =", "self.scale_rewards =",
                     "self.reward_weights =", "self.eos_token_ids", "self._logs =", "self._metrics =",
                     "self.importance_sampling_level =", "args.sync_ref_model", "self.rollout_func ="):  # fmt: skip
        assert fragment in source, f"{HINT}GRPOTrainer.__init__, which no longer has {fragment!r}"


def test_configuration_fields_that_recipes_use():
    fields = set(GRPOConfig.__dataclass_fields__)
    needed = {
        "num_generations", "max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
        "reward_weights", "scale_rewards", "loss_type", "epsilon", "epsilon_high", "delta", "beta", "num_iterations",
        "steps_per_generation", "generation_batch_size", "multi_objective_aggregation", "importance_sampling_level",
        "chat_template_kwargs", "generation_kwargs", "use_vllm", "num_generations_eval", "sync_ref_model",
        "ref_model_sync_steps", "ref_model_mixup_alpha",
    }  # fmt: skip
    assert needed <= fields, f"{HINT}AAPOConfig, since GRPOConfig has lost {sorted(needed - fields)}"


def test_a_reference_that_follows_is_mixed_with_the_policys_weight():
    policy, reference = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    policy.weight.data.fill_(1.0)
    reference.weight.data.fill_(0.0)
    SyncRefModelCallback._sync_target_model(policy, reference, 0.25)
    assert reference.weight.item() == 0.25, f"{HINT}ref_model_mixup_alpha, which no longer weighs the policy"


def test_the_sampler_takes_its_order_from_its_generator():
    sampler = RepeatSampler(range(6), mini_repeat_count=2, batch_size=3, repeat_count=1, shuffle=True, seed=1)
    first = list(sampler)
    sampler.generator.manual_seed(1)
    assert list(sampler) == first, f"{HINT}EpochSampler, since RepeatSampler no longer draws from self.generator"


def test_the_table_of_ranges_has_the_names_that_the_libraries_know():
    known = {
        "optim": OptimizerNames, "lr_scheduler_type": SchedulerType, "eval_strategy": IntervalStrategy,
        "save_strategy": SaveStrategy, "hub_strategy": HubStrategy, "debug": DebugOption,
    }  # fmt: skip
    names = {name: [item.value for item in options] for name, options in known.items()}
    names |= {
        "report_to": ["all", "none", *INTEGRATION_TO_CALLBACK],
        "log_level": trainer_log_levels,
        "torch_compile_backend": [item.value.lower() for item in DynamoBackend],
        "cache_implementation": [*ALL_CACHE_IMPLEMENTATIONS, "paged"],
        "fsdp": [*(item.value for item in FSDPOption), True, False],
        "answer_convention": CONVENTIONS,
    }
    for name, expected in names.items():
        assert set(RANGES[name].names) == set(expected), f"aapo.ranges: {name}"
