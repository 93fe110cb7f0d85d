"""Log-probabilities of completions without the work that nobody reads.

Rows are laid one after another without padding, each attending to itself only, and the tokens of a prompt that several
rows have are there once; the output layer sees the positions that predict a completion's token and no other. Models
whose layers mix tokens in other ways than plain causal attention have their rows side by side, padded at the end.

Shapes: N rows, S segments, T tokens laid out, C scored tokens; H attention heads, h of keys and values, D head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aapo.engines.attention import Segment, Segments


class Row(NamedTuple):
    """Token ids of a prompt and its completion, both one-dimensional."""

    prompt: Tensor
    completion: Tensor


class Layout(NamedTuple):
    """Rows as a model reads them.

    Attributes:
        inputs: Of the model.
        scored_C: Which of the tokens laid out predict the completions' tokens, row after row.
        labels_C: The completions' tokens.
    """

    inputs: dict[str, Any]
    scored_C: Tensor
    labels_C: Tensor


# -- layouts -----------------------------------------------------------------------------------------------------------


def packed(rows: Sequence[Row], *, share: bool = True) -> Layout:
    """Rows one after another; with `share` each prompt once, its completions after it.

    The last token of a completion predicts nothing and is left out.
    """
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    segments: list[Segment] = []
    scored: dict[int, Tensor] = {}
    place = 0

    def lay(ids: Tensor, first: int, prefix: tuple[int, int] = (0, 0)) -> None:
        nonlocal place
        tokens.append(ids)
        positions.append(torch.arange(first, first + len(ids)))
        segments.append(Segment(place, len(ids), *prefix))
        place += len(ids)

    for group in _groups(rows, share):
        prompt, start = rows[group[0]].prompt, place
        if len(group) == 1:
            row, (i,) = rows[group[0]], group
            lay(torch.cat([prompt, row.completion[:-1]]), 0)
            scored[i] = torch.arange(start + len(prompt) - 1, start + len(prompt) - 1 + len(row.completion))
            continue
        lay(prompt, 0)
        for i in group:
            completion = rows[i].completion
            scored[i] = torch.arange(place - 1, place - 1 + len(completion))
            scored[i][:1] = start + len(prompt) - 1
            if len(completion) > 1:
                lay(completion[:-1], len(prompt), (start, len(prompt)))
    inputs = {
        "input_ids": torch.cat(tokens)[None],
        "position_ids": torch.cat(positions)[None],
        "layout": Segments(segments),
    }
    return _layout(inputs, [scored[i] for i in range(len(rows))], rows)


def padded(rows: Sequence[Row]) -> Layout:
    """Rows side by side, padded at the end; tokens are counted row after row."""
    sequences = [torch.cat([row.prompt, row.completion[:-1]]) for row in rows]
    width = max(map(len, sequences))
    scored = [
        torch.arange(i * width + len(row.prompt) - 1, i * width + len(row.prompt) - 1 + len(row.completion))
        for i, row in enumerate(rows)
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        "input_ids": pad(sequences, batch_first=True),
        "attention_mask": pad([torch.ones_like(ids) for ids in sequences], batch_first=True),
    }
    return _layout(inputs, scored, rows)


def _layout(inputs: dict[str, Any], scored: Sequence[Tensor], rows: Sequence[Row]) -> Layout:
    return Layout(inputs, torch.cat(list(scored)), torch.cat([row.completion for row in rows]))


def _groups(rows: Sequence[Row], share: bool) -> list[list[int]]:
    """Places of the rows that have one prompt, those of different prompts apart."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt.tolist()) if share else i, []).append(i)
    return list(groups.values())


# -- the forward pass --------------------------------------------------------------------------------------------------


def token_scores(model: Any, causal_model: Any, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of the completions' tokens, shape (C,).

    Args:
        model: The model as it is called, with what it is wrapped in.
        causal_model: The language model itself, with TRL's fused output layer.
        layout: Its rows; a layout is understood within `attending_by_layout`.
        device: The model's.
    """
    inputs = {name: value.to(device) for name, value in layout.inputs.items()}
    with _only(causal_model.base_model, layout.scored_C.to(device)):
        output = model(**inputs, shift_labels=layout.labels_C.to(device)[None], fused_lm_head=True)
    return output.log_probs[0], None if output.entropy is None else output.entropy[0]


@contextmanager
def _only(backbone: Any, index_C: Tensor) -> Iterator[None]:
    """Hands the output layer the hidden states of these tokens and no other."""

    def select(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, index_C)[None]
        return output

    hook = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()
