"""Decoding in places: a sequence that has ended leaves its place to one that waits.

Transformers' `generate` keeps a batch together from its first to its last token and copies the key-value cache at every
one. Here every sequence has a place with its own part of the cache, which is written where it is; a prompt that several
sequences have is computed once. What is drawn is a function of a sequence's seed and prompt, as in `generation`.

Shapes: B sequences, S places; H attention heads, h of keys and values, D head size; T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import LogitsProcessorList

from aapo.engines.attention import Segment, Segments, attending_by_layout
from aapo.engines.noise import keyed_gumbel

# The cache grows by so many columns; prompts are computed by at most so many tokens at once.
COLUMNS, PROMPT_TOKENS = 128, 8192
# Waiting sequences enter once this share of the places is free; places are given up once this share is left over.
REFILL_FRAC, SURPLUS_FRAC = 1 / 8, 1 / 4


def seen_columns(tokens: int, device_type: str) -> int:
    """How many columns a step looks at; few different numbers on a GPU, which chooses and makes kernels by them."""
    return tokens if device_type == "cpu" else -(-tokens // COLUMNS) * COLUMNS


class Places:
    """The key-value cache of all layers, a row a place; the layout of a step in which each place has one token."""

    def __init__(self, num_places: int, device: torch.device) -> None:
        """Make empty places."""
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.lengths_S = torch.zeros(num_places, dtype=torch.long, device=device)

    def room(self, columns: int) -> None:
        """Have at least so many columns."""
        for layer, pair in self.layers.items():
            if (more := columns - pair[0].shape[2]) > 0:
                padding = (0, 0, 0, -(-more // COLUMNS) * COLUMNS)
                self.layers[layer] = tuple(torch.nn.functional.pad(tensor, padding) for tensor in pair)  # type: ignore[assignment]

    def keep(self, places: Tensor) -> None:
        """Give up all other places."""
        self.lengths_S = self.lengths_S[places]
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = keys.index_select(0, places), values.index_select(0, places)

    def begin_step(self) -> None:
        """Have room for a token of each place, and know what each sees."""
        device = self.lengths_S.device
        longest = seen_columns(int(self.lengths_S.max()) + 1, device.type)
        self.room(longest)
        self._seen = (torch.arange(longest, device=device) <= self.lengths_S[:, None])[:, None, None]
        self._rows_S = torch.arange(len(self.lengths_S), device=device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `AttentionLayout`, with B places and T = 1; the heads of one key are its queries."""
        keys, values = self.layers[layer]
        longest = self._seen.shape[-1]
        keys[self._rows_S, :, self.lengths_S] = key[:, :, 0]
        values[self._rows_S, :, self.lengths_S] = value[:, :, 0]
        query = query.view(len(query), key.shape[1], -1, query.shape[-1])
        output = scaled_dot_product_attention(
            query, keys[:, :, :longest], values[:, :, :longest], self._seen, scale=scaling
        )
        return output.reshape(len(query), 1, -1, query.shape[-1])

    def store(self, layer: int, places: Sequence[Sequence[int]], segments: Sequence[Segment], pair: Any) -> None:
        """Keep keys and values of prompts, shape (T, h, D), in the places of each prompt's sequences."""
        if layer not in self.layers:
            self.layers[layer] = tuple(
                tensor.new_zeros(len(self.lengths_S), tensor.shape[1], 0, tensor.shape[2]) for tensor in pair
            )  # type: ignore[assignment]
        self.room(max(segment.length for segment in segments))
        for kept, new in zip(self.layers[layer], pair, strict=True):
            for mine, segment in zip(places, segments, strict=True):
                kept[list(mine), :, : segment.length] = new[segment.start : segment.start + segment.length].transpose(
                    0, 1
                )


class Prompts(Segments):
    """Prompts one after another, whose keys and values are kept in places."""

    def __init__(self, segments: Sequence[Segment], places: Sequence[Sequence[int]], cache: Places) -> None:
        """Take the prompts and the places of the sequences of each."""
        super().__init__(segments, cache.lengths_S.device)
        self.places, self.cache = places, cache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `Segments`."""
        pair = tuple(tensor[0].transpose(0, 1) for tensor in (key, value))
        self.cache.store(layer, self.places, self.segments, pair)
        return super().attend(layer, query, key, value, scaling)


class Decoder:
    """Sequences that are drawn in places."""

    def __init__(
        self,
        model: Any,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        warpers: LogitsProcessorList,
        *,
        limit: int,
        eos_token_ids: Sequence[int],
        num_places: int,
        greedy: bool,
    ) -> None:
        """Take the sequences; see `decoded_ids`."""
        self.model, self.prompt_ids, self.warpers = model, prompt_ids, warpers
        self.limit, self.greedy, device = limit, greedy, model.device
        self.no_ids: Any = None  # the warpers read logits only
        self.eos_tokens = torch.tensor(sorted(eos_token_ids), device=device)
        self.seeds_B = torch.tensor(seeds, dtype=torch.long, device=device)
        self.waiting = list(range(len(prompt_ids)))[::-1]
        num_places = min(num_places, len(prompt_ids))
        self.cache = Places(num_places, device)
        self.sequence_S = torch.full((num_places,), -1, device=device)
        self.tokens_S = torch.zeros(num_places, dtype=torch.long, device=device)
        self.drawn_BT = torch.zeros(len(prompt_ids), limit, dtype=torch.long, device=device)
        self.num_drawn_B = torch.zeros(len(prompt_ids), dtype=torch.long, device=device)

    def run(self) -> list[list[int]]:
        """Draw all of them."""
        while True:
            free = (self.sequence_S < 0).nonzero().flatten().tolist()
            size = len(self.sequence_S)
            if self.waiting and len(free) >= min(len(self.waiting), max(1, REFILL_FRAC * size)):
                self._enter(free[: len(self.waiting)])
                continue
            if len(free) == size:
                break
            if not self.waiting and len(free) >= SURPLUS_FRAC * size:
                self._give_up()
            self._step()
        lengths = self.num_drawn_B.tolist()
        return [ids[:length] for ids, length in zip(self.drawn_BT.tolist(), lengths, strict=True)]

    def _enter(self, free: list[int]) -> None:
        """Give free places to waiting sequences, and draw their first tokens."""
        while free and self.waiting:
            of_prompt: dict[tuple[int, ...], list[int]] = {}
            entering, tokens = [], 0
            while free and self.waiting and tokens < PROMPT_TOKENS:
                sequence, place = self.waiting.pop(), free.pop(0)
                prompt = tuple(self.prompt_ids[sequence])
                tokens += 0 if prompt in of_prompt else len(prompt)
                of_prompt.setdefault(prompt, []).append(place)
                entering.append((place, sequence))
            self._read(of_prompt, dict(entering))

    def _read(self, of_prompt: dict[tuple[int, ...], list[int]], sequence_of: dict[int, int]) -> None:
        """Compute prompts, once each, and draw the first token of each of their sequences."""
        device, segments, start = self.model.device, [], 0
        for prompt in of_prompt:
            segments.append(Segment(start, len(prompt)))
            start += len(prompt)
        ids = torch.tensor([token for prompt in of_prompt for token in prompt], device=device)
        positions = torch.cat([torch.arange(segment.length) for segment in segments]).to(device)
        ends = torch.tensor([segment.start + segment.length - 1 for segment in segments], device=device)
        logits = self.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=ends,
            layout=Prompts(segments, list(of_prompt.values()), self.cache),
        ).logits[0]  # fmt: skip
        places = torch.tensor([place for mine in of_prompt.values() for place in mine], device=device)
        copies = torch.tensor([len(mine) for mine in of_prompt.values()], device=device)
        self.sequence_S[places] = torch.tensor([sequence_of[place] for place in places.tolist()], device=device)
        self.cache.lengths_S[places] = torch.tensor([one.length for one in segments], device=device).repeat_interleave(
            copies
        )
        self._draw(places, logits.repeat_interleave(copies, 0))

    def _step(self) -> None:
        """Draw a token in every place; one that is free draws what nobody reads."""
        self.cache.begin_step()
        logits = self.model(
            input_ids=self.tokens_S[:, None], position_ids=self.cache.lengths_S[:, None], use_cache=False,
            layout=self.cache,
        ).logits[:, -1]  # fmt: skip
        places = (self.sequence_S >= 0).nonzero().flatten()
        self.cache.lengths_S[places] += 1
        self._draw(places, logits[places])

    def _draw(self, places: Tensor, logits_SV: Tensor) -> None:
        """Draw the next tokens of the sequences in these places; those that end leave."""
        sequences = self.sequence_S[places]
        done_S = self.num_drawn_B[sequences]
        scores_SV: Any = self.warpers(self.no_ids, logits_SV.float())  # type: ignore[arg-type]
        if not self.greedy:
            scores_SV = scores_SV + keyed_gumbel(self.seeds_B[sequences], done_S, scores_SV.shape[1])
        tokens_S = scores_SV.argmax(-1)
        self.drawn_BT[sequences, done_S] = tokens_S
        self.num_drawn_B[sequences] = done_S + 1
        self.tokens_S[places] = tokens_S
        ended_S = torch.isin(tokens_S, self.eos_tokens) | (done_S + 1 == self.limit)
        left = places[ended_S]
        self.sequence_S[left], self.cache.lengths_S[left] = -1, 0

    def _give_up(self) -> None:
        """Keep the places that are in use."""
        used = (self.sequence_S >= 0).nonzero().flatten()
        self.cache.keep(used)
        self.sequence_S, self.tokens_S = self.sequence_S[used], self.tokens_S[used]


@torch.no_grad()
def decoded_ids(
    model: Any,
    causal_model: Any,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    warpers: LogitsProcessorList,
    *,
    limit: int,
    eos_token_ids: Sequence[int],
    num_places: int,
    greedy: bool,
) -> list[list[int]]:
    """One completion per prompt, up to and including the end token.

    Args:
        model: As it is called; its layers are plain causal attention (`is_plain`).
        causal_model: The language model in what it is wrapped in.
        prompt_ids: B prompts.
        seeds: B sample seeds.
        warpers: What is done to logits that depends on nothing else.
        limit: Of a completion's tokens.
        eos_token_ids: Tokens that end a completion.
        num_places: Sequences that are drawn at once.
        greedy: Whether the likeliest token is taken, without noise.
    """
    with attending_by_layout(causal_model):
        return Decoder(
            model, prompt_ids, seeds, warpers, limit=limit, eos_token_ids=eos_token_ids, num_places=num_places,
            greedy=greedy,
        ).run()  # fmt: skip
