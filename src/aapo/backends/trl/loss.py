"""The loss of a micro-batch as a part of an optimizer step's, with what TRL's configuration adds to the objective."""

from collections import defaultdict
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from aapo.backends.trl.forward import ForwardTrainer
from aapo.objective import Objective, Tokens, importance_ratios, token_advantages, token_losses

# Of the tokens that an entropy bonus acts on, by which an adaptive one is steered; it is not logged.
CHOSEN_ENTROPY = "chosen_entropy"


class MicroBatch(dict[str, Any]):
    """Some rows of a step, padded: ids and masks as TRL has them, a lesson's columns, and what is known of the sampler.

    `tool_mask` has the tokens that the loss counts, `step_tokens` their number in the whole step, over all processes.
    """


@dataclass
class Tally:
    """What the micro-batches of a step have to say, until it is one number each."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    extremes: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, values: Tensor, counted: Tensor) -> None:
        """Values to be averaged where `counted` is 1, both of one shape."""
        values, counted = values.detach().float(), counted.float()
        self.sums[name] = self.sums.get(name, torch.zeros((), device=values.device)) + (values * counted).sum()
        self.counts[name] = self.counts.get(name, torch.zeros((), device=values.device)) + counted.sum()

    def means(self, accelerator: Any) -> dict[str, float]:
        """The mean of each over all micro-batches of all processes, which all have the same names; of nothing 0."""
        totals = accelerator.reduce(torch.stack([*self.sums.values(), *self.counts.values()]), reduction="sum")
        sums, counts = totals.chunk(2)
        return dict(zip(self.sums, (sums / counts.clamp(min=1)).tolist(), strict=True))

    def limits(self, accelerator: Any) -> dict[str, float]:
        """The least of what is called `_min`, the greatest of the rest, of all processes; NaN does not count."""
        found = {}
        for name, values in self.extremes.items():
            sign = -1 if name.endswith("_min") else 1
            most = (sign * torch.cat(values)).nan_to_num(-torch.inf).max()
            found[name] = sign * accelerator.gather(most.reshape(1)).max().item()
        return {name: value for name, value in found.items() if isfinite(value)}


class LossTrainer(ForwardTrainer):
    """A micro-batch's part of the loss, such that the parts of a step add up to the step's."""

    objective: Objective
    _tally: Tally

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """The loss of a micro-batch, times the number of processes, over which gradients are averaged; TRL's else."""
        if not isinstance(inputs, MicroBatch):
            return super()._compute_loss(model, inputs)
        mask_BT = inputs["tool_mask"]
        logprobs_BT, entropies_BT, router_loss = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )
        assert entropies_BT is not None
        advantages_BT = self._advantages(inputs, entropies_BT)
        old_BT = inputs.get("old_per_token_logps", logprobs_BT.detach())
        ratios_BT = importance_ratios(self.objective, logprobs_BT, old_BT, mask_BT)
        chosen_BT = mask_BT
        if self.top_entropy_quantile < 1.0:
            chosen_BT = mask_BT * self.get_high_entropy_mask(entropies_BT, mask_BT, 1 - self.top_entropy_quantile)
        losses_BT = token_losses(self.objective, logprobs_BT, advantages_BT, old_BT, mask_BT) * chosen_BT
        if self.off_policy_mask_threshold is not None:
            losses_BT = losses_BT * self._is_fresh(inputs, logprobs_BT, old_BT)
        if "importance_sampling_ratio" in inputs:
            losses_BT = losses_BT * inputs["importance_sampling_ratio"]
        losses_BT = losses_BT + self._divergence(inputs, logprobs_BT, ratios_BT)
        part = self.accelerator.num_processes / max(inputs["step_tokens"], 1)
        loss = (losses_BT * mask_BT).sum() * part
        self._tally.add("entropy", entropies_BT, mask_BT)
        if self.use_adaptive_entropy:
            self._tally.add(CHOSEN_ENTROPY, entropies_BT, chosen_BT)
        self._count_clipped(ratios_BT, advantages_BT, mask_BT)
        if self._entropy_bonus_enabled:
            self._tally.add("policy_loss", losses_BT, mask_BT)
            # The bonus is a mean over the tokens that are chosen, a known share of all.
            loss = loss - self._entropy_weight * (entropies_BT * chosen_BT).sum() * part / self.top_entropy_quantile
        if router_loss is not None:
            self._tally.add("aux_loss", router_loss.reshape(1), mask_BT.sum().reshape(1))
            loss = loss + self.router_aux_loss_coef * router_loss * mask_BT.sum() * part
        return loss

    def _advantages(self, inputs: MicroBatch, entropies_BT: Tensor) -> Tensor:
        """What pushes each token, the aggregation in it, shape (B, T), or (B, 1) where those of a row are alike."""
        if self.objective.token_advantage is None:
            return inputs["advantages"].unsqueeze(1)
        tokens = Tokens(inputs["augmented"], entropies_BT.detach(), inputs["tool_mask"], inputs.get("verdicts"))
        return token_advantages(self.objective, tokens) * inputs["weights"].unsqueeze(1)

    @property
    def _learns_beside_advantages(self) -> bool:
        """Whether a row without an advantage has a gradient: of its tokens, a KL term, an entropy bonus or a router."""
        return bool(
            self.objective.token_advantage is not None
            or self.beta
            or self._entropy_bonus_enabled
            or self.aux_loss_enabled
            or self.top_entropy_quantile < 1.0
        )

    @property
    def _entropy_weight(self) -> float:
        """Of the entropy bonus; an adaptive one rests while there is entropy enough."""
        rests = self.use_adaptive_entropy and self._last_world_entropy > self.args.entropy_target
        return 0.0 if rests else self.entropy_coef

    def _is_fresh(self, inputs: MicroBatch, logprobs_BT: Tensor, old_BT: Tensor) -> Tensor:
        """1 for sequences that are not too far from the model that sampled them, shape (B, 1), as in TRL."""
        threshold = self.off_policy_mask_threshold
        assert threshold is not None
        return self.get_off_policy_mask(
            advantages=inputs["advantages"].unsqueeze(1),
            per_token_logps=logprobs_BT,
            sampling_per_token_logps=inputs.get("sampling_per_token_logps", old_BT),
            mask=inputs["tool_mask"],
            off_policy_threshold=threshold,
        )

    def _divergence(self, inputs: MicroBatch, logprobs_BT: Tensor, ratios_BT: Tensor) -> Tensor | float:
        """The KL term, Schulman's k3 estimate, as TRL has it."""
        if self.beta == 0:
            return 0.0
        difference_BT = inputs["ref_per_token_logps"] - logprobs_BT
        kl_BT = difference_BT.exp() - difference_BT - 1
        if self.args.use_bias_correction_kl:
            kl_BT = kl_BT * ratios_BT
        self._tally.add("kl", kl_BT, inputs["tool_mask"])
        return self.beta * kl_BT

    def _count_clipped(self, ratios_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor) -> None:
        """Shares of the tokens, or of the sequences where each has one ratio, whose ratio is clipped."""
        point = self.objective
        counted_BT = mask_BT.any(1, keepdim=True) if point.ratio_level == "sequence" else mask_BT.bool()
        ratios_BT, advantages_BT = (values.detach()[:, : counted_BT.shape[1]] for values in (ratios_BT, advantages_BT))
        if point.loss == "cross_entropy":
            clipped_BT = (ratios_BT > point.max_importance_weight) & (advantages_BT > 0)
            self._tally.add("cispo_clip_ratio", clipped_BT, counted_BT)
            return
        low_BT = (ratios_BT < 1 - point.clip_low) & (advantages_BT < 0)
        high_BT = (ratios_BT > 1 + point.clip_high) & (advantages_BT > 0)
        for name, clipped_BT in (("low_mean", low_BT), ("high_mean", high_BT), ("region_mean", low_BT | high_BT)):
            self._tally.add(f"clip_ratio/{name}", clipped_BT, counted_BT)
        for name, clipped_BT in (("low_min", low_BT), ("high_max", high_BT)):
            shares_B = (clipped_BT * counted_BT).sum(1) / counted_BT.sum(1)  # NaN without a token that counts
            self._tally.extremes[f"clip_ratio/{name}"].append(shares_B)

    def _log_tally(self) -> None:
        """Log what the step's micro-batches had to say, and adapt the weight of the entropy bonus for the next."""
        means = self._tally.means(self.accelerator)
        chosen_entropy = means.pop(CHOSEN_ENTROPY, 0.0)
        for name, value in {**means, **self._tally.limits(self.accelerator)}.items():
            self._metrics["train"][name].append(value)
        if self.use_adaptive_entropy:
            args, self._last_world_entropy = self.args, chosen_entropy
            if self._last_world_entropy <= args.entropy_target:
                self.entropy_coef = min(self.entropy_coef + args.entropy_coef_delta, args.entropy_coef_max)
            else:
                self.entropy_coef = max(self.entropy_coef - args.entropy_coef_delta, args.entropy_coef_min)
        if self._entropy_bonus_enabled:
            self._metrics["train"]["entropy_coef"].append(self.entropy_coef)
