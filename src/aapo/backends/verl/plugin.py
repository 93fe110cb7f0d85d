"""What runs inside verl: the estimator, a trainer that hands it the bank's rewards, and the grader.

Loaded in all of verl's processes by `VERL_USE_EXTERNAL_MODULES`; the only importer of verl.
"""

# verl is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
from functools import partial
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.config import omega_conf_to_dataclass

from aapo.backends.verl.recording import Recorder, count_discarded
from aapo.backends.verl.teaching import ESTIMATOR, Row, estimate, handing_over, teach
from aapo.backends.verl.values import updates_of_a_batch
from aapo.grading import reward_name
from aapo.learning.batch import Teacher
from aapo.learning.held_out import HeldOutBatch
from aapo.recipe import Recipe, load_recipe
from aapo.runs import RunDirectory, package_versions

register_adv_est(ESTIMATOR)(estimate)


def recipe_teacher(recipe: Recipe) -> Teacher:
    """The recipe's objective, with what it needs to know."""
    training, names = recipe.training, [reward_name(function) for function in recipe.reward_funcs]
    return Teacher(
        training.objective,
        names,
        torch.tensor(training.reward_weights or [1.0] * len(names)),
        training.judgement,
        training.num_generations,
        training.sampling.max_completion_length,
    )


@register_trainer("aapo_sync")
class AAPOTrainerSync(PPOTrainerSync):
    """verl's synchronous trainer, whose advantages come from the run's objective and bank."""

    def __init__(self, config: DictConfig) -> None:
        """Take verl's configuration, with the run directory in it."""
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # which verl compares with
        super().__init__(config)
        recipe, run = load_recipe(config.aapo.run), RunDirectory(config.aapo.run)
        self.teacher = recipe_teacher(recipe)
        self.recorder = Recorder(run, self.teacher, updates_of_a_batch(recipe))
        count_discarded(self.replay_buffer, self.recorder.discard)

    def on_train_begin(self) -> None:
        """Start the clock where an earlier part of the run stopped."""
        super().on_train_begin()
        self.recorder.begin(self.global_steps - 1)
        self.recorder.run.update_manifest(workers={"versions": package_versions()})

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        model = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        ends = getattr(model.generation_config, "eos_token_id", None)
        listed = ends if isinstance(ends, (list, tuple)) else [ends]
        self.end_ids = {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        real = [place for place, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        rows = self._rows([batch.keys[place] for place in real], batch.partition_id)
        taught = teach(self.teacher, rows, (self.global_steps - 1) * self.recorder.updates)
        self.recorder.keep(taught, self.global_steps)
        advantages_B = torch.zeros(len(batch.keys))
        advantages_B[real] = taught.advantages_B
        with handing_over(advantages_B):
            return super()._compute_advantage(batch, metrics)

    def _rows(self, keys: list[str], partition: str) -> list[Row]:
        """What TransferQueue keeps of these rollouts."""
        names = ["uid", "responses", "reward_model", "extra_info", "extra_fields"]
        data = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=names)
        columns = {name: data[name].unbind() if name == "responses" else list(data[name]) for name in names}
        return [self._row(*(columns[name][place] for name in names)) for place in range(len(keys))]

    def _row(self, uid: str, response: torch.Tensor, gold: dict, info: dict, extra: dict) -> Row:
        scored = json.loads(extra["reward_extra_info"]["scored"])
        ids = response.tolist()
        cut = len(ids) >= self.teacher.max_completion_length and ids[-1] not in self.end_ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Row(uid, info, gold["ground_truth"], text, len(ids), cut, scored["rewards"], scored["notes"])

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        self.recorder.record(metrics, global_steps)

    def _val_metrics_update(
        self, data_sources: Any, sample_uids: Any, reward_extra_infos_dict: dict, sample_turns: Any, **kwargs: Any
    ) -> dict[str, float]:
        infos = {key: value for key, value in reward_extra_infos_dict.items() if key != "scored"}
        found = super()._val_metrics_update(data_sources, sample_uids, infos, sample_turns, **kwargs)
        num_generations = self.config.actor_rollout_ref.rollout.val_kwargs.n
        self.recorder.record_held_out(
            self._held_out(sample_uids, reward_extra_infos_dict), num_generations, self.global_steps
        )
        return found

    def _held_out(self, uids: list[str], infos: dict[str, list[Any]]) -> HeldOutBatch:
        """The completions of an evaluation, those of a prompt beside each other."""
        order = np.argsort(np.array(uids), kind="stable")
        scored = [json.loads(infos["scored"][place])["rewards"] for place in order]
        rewards_BF = torch.tensor(
            [[float("nan") if row[name] is None else row[name] for name in self.teacher.reward_names] for row in scored]
        )
        tokens_B = torch.tensor([infos["tokens"][place] for place in order])
        return HeldOutBatch(
            torch.tensor([infos["acc"][place] for place in order]),
            self.teacher.total(rewards_BF),
            rewards_BF,
            tokens_B,
            tokens_B >= self.teacher.max_completion_length,
        )


class Grader(RewardManagerBase):
    """verl's reward manager that tells the reward function a completion's tokens as well."""

    def __init__(self, config: DictConfig, tokenizer: Any, compute_score: Any, **_: Any) -> None:
        """Take the run directory from verl's configuration."""
        super().__init__(config, tokenizer, compute_score)
        self.run = config.aapo.run

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The reward of a rollout, and what the trainer needs beside it."""
        item = data[-1]
        responses = item.batch["responses"]
        ids = responses[: int(item.batch["attention_mask"][-len(responses) :].sum())].tolist()
        call = partial(
            self.compute_score,
            data_source=item.non_tensor_batch["data_source"],
            solution_str=self.tokenizer.decode(ids, skip_special_tokens=True),
            ground_truth=item.non_tensor_batch["reward_model"]["ground_truth"],
            extra_info=item.non_tensor_batch["extra_info"],
            completion_ids=ids,
            run=self.run,
        )
        result = await self.loop.run_in_executor(None, call)
        return {"reward_score": result["score"], "reward_extra_info": {**result, "tokens": len(ids)}}
