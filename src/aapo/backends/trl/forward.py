"""TRL's trainer with log-probabilities that cost what their tokens cost."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from aapo.backends.trl.config import AAPOConfig
from aapo.backends.trl.packed import Row, packed, padded, token_scores
from aapo.engines.attention import attending_by_layout, is_plain
from aapo.learning.micro_batches import RowSize, cut

logger = logging.getLogger(__name__)

# How far log-probabilities of rows laid one after another may be from those of rows side by side: the largest
# difference in float32, the mean one in half precision. There, on SmolLM2-135M in bfloat16, rounding alone makes 0.037
# (padded rows are 0.028 from float32), completions one position off 0.10, and rows that see one another 1.5.
CLOSE, CLOSE_IN_HALF = 1e-3, 5e-2
NUM_COMPARED = 8


class ForwardTrainer(GRPOTrainer):
    """Scores tokens of completions; prompts, padding and last tokens cost no more than they must."""

    # Narrower than TRL's own annotations: these are set once __init__ has run.
    args: AAPOConfig
    model: Any
    rows_per_pass: int
    _most_tokens: int | None = None  # of a micro-batch, once memory was short
    _compared = False
    _lays_out = False

    def _choose_layout(self) -> None:
        """Lay rows one after another where the model's layers allow it."""
        self._lays_out = self.args.padding_free and is_plain(self.model.config)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As in TRL; what is no token of a completion has zeros. Images, and a router's loss, are TRL's own."""
        if batch_size is not None and self.model.training:
            batch_size = self.rows_per_pass  # TRL's is the rows of a step, which `by_step` has made one batch
        if compute_aux_loss or any(value is not None for value in inputs.values()):
            batch = (input_ids, attention_mask, logits_to_keep, batch_size)
            return super()._get_per_token_logps_and_entropies(
                model, *batch, compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss, **inputs
            )
        mask_BT = attention_mask[:, -logits_to_keep:].bool()
        rows = rows_of(input_ids, attention_mask, logits_to_keep)
        self._compare_layouts(model, rows)
        parts = [list(range(len(rows)))] if batch_size is None else self._parts(rows, batch_size)
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for places in parts:
            lengths = [len(rows[place].completion) for place in places]
            logprobs_C, entropy_C = self._token_scores(model, [rows[place] for place in places])
            entropies = [None] * len(places) if entropy_C is None else entropy_C.split(lengths)
            found.update(zip(places, zip(logprobs_C.split(lengths), entropies, strict=True), strict=True))
        logprobs, entropies = zip(*(found[place] for place in range(len(rows))), strict=True)
        with_entropy = compute_entropy and entropies[0] is not None
        return _spread(logprobs, mask_BT), _spread(entropies, mask_BT) if with_entropy else None, None

    def _parts(self, rows: Sequence[Row], batch_size: int) -> list[list[int]]:
        """Places of the rows of each pass, as many passes as on the other processes."""
        sizes = sizes_of(rows)
        passes = [one[0] for one in self._cut(sizes, batch_size, 1).passes]
        return passes + [passes[0]] * (max(gather_object([len(passes)])) - len(passes))

    def _cut(self, sizes: Sequence[RowSize], rows_per_pass: int, num_processes: int) -> Any:
        text = self.model.config.get_text_config()
        return cut(
            sizes,
            self._budget(sizes, rows_per_pass),
            num_processes,
            share=self._lays_out and self.args.share_prompts,
            hidden_size=text.hidden_size,
        )

    def _budget(self, sizes: Sequence[RowSize], rows_per_pass: int) -> int:
        """Tokens of a micro-batch: what so many rows padded to the longest prompt and completion would be."""
        longest = max(size.prompt_tokens for size in sizes) + max(size.completion_tokens for size in sizes)
        budget = self.args.max_tokens_per_microbatch or rows_per_pass * longest
        return budget if self._most_tokens is None else min(budget, self._most_tokens)

    def _token_scores(self, model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies of the rows' completions, one after another."""
        causal = self._causal(model)
        layout = packed(rows, share=self.args.share_prompts) if self._lays_out else padded(rows)
        with self._segments(causal), self.accelerator.autocast():
            return token_scores(model, causal, layout, self.accelerator.device)

    def _segments(self, causal: Any) -> AbstractContextManager[None]:
        """The attention that the layout asks for; a backward pass that computes layers again needs it, too."""
        return attending_by_layout(causal) if self._lays_out else nullcontext()

    def _causal(self, model: Any) -> Any:
        """The language model in what it is wrapped in."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    def _compare_layouts(self, model: Any, rows: Sequence[Row]) -> None:
        """Once: rows one after another must score as rows side by side do, or they are never again laid so.

        It comes before anything else is scored. The rows are those of a micro-batch, two where it would hold one.
        """
        if self._compared or not self._lays_out:
            return
        self._compared = True
        some = [rows[place] for place in max(self._parts(rows, max(self.rows_per_pass, 2)), key=len)[:NUM_COMPARED]]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            one, _ = self._token_scores(model, some)
            self._lays_out = False
            other, _ = self._token_scores(model, some)
        model.train(was_training)
        half = self.accelerator.mixed_precision != "no" or self.model.dtype != torch.float32
        difference = (one - other).abs()
        close = difference.mean() <= CLOSE_IN_HALF if half else difference.max() <= CLOSE
        self._lays_out = all(gather_object([bool(close)]))
        if not self._lays_out and self.accelerator.is_main_process:
            logger.warning(
                "padding_free: without padding, log-probabilities are up to %.2g away from those of padded rows; "
                "training goes on with padded rows",
                difference.max().item(),
            )


def rows_of(input_ids: Tensor, attention_mask: Tensor, num_completion: int) -> list[Row]:
    """The rows of a padded batch, prompts padded in front and completions at the end."""
    ids, mask = input_ids.cpu(), attention_mask.cpu().bool()
    split = ids.shape[1] - num_completion
    return [Row(row[:split][there[:split]], row[split:][there[split:]]) for row, there in zip(ids, mask, strict=True)]


def sizes_of(rows: Sequence[Row]) -> list[RowSize]:
    """The rows by their tokens."""
    return [RowSize(len(row.prompt), len(row.completion), tuple(row.prompt.tolist())) for row in rows]


def _spread(rows: Sequence[Any], mask_BT: Tensor) -> Tensor:
    """Values of the tokens of each row where the mask has them, zeros elsewhere."""
    flat = torch.cat(list(rows))
    return flat.new_zeros(mask_BT.shape).masked_scatter(mask_BT, flat)
