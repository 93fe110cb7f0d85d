"""Decoding in places: a sequence that has ended leaves its place to one that waits.

Transformers' `generate` keeps a batch together from its first to its last token and copies the key-value cache at every
one. Here every sequence has a place with its own part of the cache, which is written where it is; a prompt that several
sequences have is computed once. Places in use come first: what is behind them is not computed. What is drawn is a
function of a sequence's seed and prompt, as in `generation`.

Shapes: B sequences, S places, R of them that a step computes; H attention heads, h of keys and values, D head size;
T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from aapo.engines.attention import Segment, Segments
from aapo.engines.batch import Batch, warpers
from aapo.engines.noise import gumbel, row_hashes

# The cache grows by so many columns; prompts are computed by at most so many tokens at once.
COLUMNS, PROMPT_TOKENS = 128, 8192
# Waiting sequences enter once this share of the places is free; on a GPU a step's places are a multiple of this share.
REFILL_FRAC, STEP_FRAC = 1 / 8, 1 / 8

Pair = tuple[Tensor, Tensor]
# Gets each completion's index and tokens as soon as it has ended.
OnEnd = Callable[[int, list[int]], None]


def seen_columns(tokens: int, device_type: str) -> int:
    """How many columns a step looks at; few different numbers on a GPU, which chooses and makes kernels by them."""
    return tokens if device_type == "cpu" else -(-tokens // COLUMNS) * COLUMNS


def seen_places(used: int, num_places: int, device_type: str) -> int:
    """How many of the places a step computes; few different numbers on a GPU, as of columns."""
    unit = 1 if device_type == "cpu" else max(1, int(STEP_FRAC * num_places))
    return min(num_places, -(-used // unit) * unit)


class Places:
    """The key-value cache of all layers, a row a place; the layout of a step in which each place has one token."""

    def __init__(self, num_places: int, device: torch.device) -> None:
        """Make empty places."""
        self.num_places, self.device = num_places, device
        self.layers: dict[int, Pair] = {}

    def room(self, columns: int) -> None:
        """Have at least so many columns; places that have been given up are not copied."""
        for layer, pair in self.layers.items():
            if (more := columns - pair[0].shape[2]) > 0:
                padding = (0, 0, 0, -(-more // COLUMNS) * COLUMNS)
                keys, values = (pad(tensor[: self.num_places], padding) for tensor in pair)
                self.layers[layer] = keys, values

    def move(self, source: list[int], target: list[int], columns: int) -> None:
        """Copy the first columns of places to others."""
        for pair in self.layers.values():
            for tensor in pair:
                tensor[target, :, :columns] = tensor[source, :, :columns]

    def begin_step(self, lengths_R: Tensor, columns: int) -> None:
        """Have room for a token of each of the first R places, and know what each sees of so many columns."""
        self.room(columns)
        self._lengths_R, self._rows_R = lengths_R, torch.arange(len(lengths_R), device=self.device)
        self._seen = (torch.arange(columns, device=self.device) <= lengths_R[:, None])[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `AttentionLayout`, with R rows and T = 1; the heads of one key are its queries."""
        rows, columns = len(query), self._seen.shape[-1]
        keys, values = self.layers[layer]
        keys[self._rows_R, :, self._lengths_R] = key[:, :, 0]
        values[self._rows_R, :, self._lengths_R] = value[:, :, 0]
        query = query.view(rows, key.shape[1], -1, query.shape[-1])
        output = scaled_dot_product_attention(
            query, keys[:rows, :, :columns], values[:rows, :, :columns], self._seen, scale=scaling
        )
        return output.reshape(rows, 1, -1, query.shape[-1])

    def copy(self, layers: dict[int, Pair], first: int, num_places: int) -> None:
        """Give so many places from the first the keys and values of one prompt, of shape (T, h, D) by layer."""
        for layer, pair in layers.items():
            for kept, new in zip(self.layers[layer], pair, strict=True):
                kept[first : first + num_places, :, : len(new)] = new.transpose(0, 1)

    def store(self, layer: int, places: Tensor, columns: Tensor, pair: Pair) -> None:
        """Keep keys and values, each of shape (T, h, D), in these places and columns, each of shape (T,)."""
        if layer not in self.layers:
            keys, values = (new.new_zeros(self.num_places, new.shape[1], 0, new.shape[2]) for new in pair)
            self.layers[layer] = keys, values
        self.room(int(columns.max()) + 1)
        for kept, new in zip(self.layers[layer], pair, strict=True):
            kept[places, :, columns] = new


class Prompts(Segments):
    """Prompts one after another, whose keys and values are kept in places, and those of the last one besides.

    Attributes:
        last: Keys and values of the last prompt by layer, each of shape (T, h, D).
    """

    def __init__(self, lengths: Sequence[int], copies: Sequence[int], first: int, cache: Places) -> None:
        """Take the prompts' lengths, how many places each of them gets, and the first place."""
        starts = accumulate(lengths[:-1], initial=0)
        super().__init__([Segment(*one) for one in zip(starts, lengths, strict=True)], cache.device)
        self.cache = cache
        self.last: dict[int, Pair] = {}
        of_place = [segment for segment, times in zip(self.segments, copies, strict=True) for _ in range(times)]
        self._tokens = torch.cat([torch.arange(one.start, one.start + one.length) for one in of_place]).to(cache.device)
        self._columns = torch.cat([torch.arange(one.length) for one in of_place]).to(cache.device)
        sizes = torch.tensor([one.length for one in of_place])
        self._places = torch.arange(first, first + len(of_place)).repeat_interleave(sizes).to(cache.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `Segments`."""
        keys, values = (tensor[0].transpose(0, 1) for tensor in (key, value))
        self.cache.store(layer, self._places, self._columns, (keys[self._tokens], values[self._tokens]))
        start = self.segments[-1].start
        self.last[layer] = keys[start:].clone(), values[start:].clone()
        return super().attend(layer, query, key, value, scaling)


class Read(NamedTuple):
    """A prompt that has been computed, of which more sequences wait."""

    prompt: tuple[int, ...]
    logits_1V: Tensor
    layers: dict[int, Pair]


class Decoder:
    """Sequences that are drawn in places."""

    def __init__(self, model: Any, batch: Batch, num_places: int, on_end: OnEnd = lambda sequence, ids: None) -> None:
        """Take the sequences.

        Args:
            model: As it is called, within `attending_by_layout`; its layers are plain causal attention (`is_plain`).
            batch: What is to be drawn, by logits and noise alone.
            num_places: Sequences that are drawn at once.
            on_end: Called between two steps.
        """
        self.model, self.warpers, self.on_end = model, warpers(batch.settings), on_end
        self.limit, self.greedy = batch.settings.max_completion_length, batch.settings.temperature == 0
        self.no_ids: Any = None  # the warpers read logits only
        self.prompts = [tuple(ids) for ids in batch.prompt_ids]
        self.completions: list[list[int]] = [[] for _ in self.prompts]
        self.waiting = list(range(len(self.prompts)))[::-1]
        self.num_places = min(num_places, len(self.prompts))
        self.num_used = self.columns = 0
        self.read: Read | None = None
        self.device = device = model.device
        self.cache = Places(self.num_places, device)
        self.eos_tokens = torch.tensor(sorted(batch.eos_token_ids), device=device)
        self.drawn_BT = torch.zeros(len(self.prompts), self.limit, dtype=torch.long, device=device)
        seeds_B = torch.tensor(batch.seeds, dtype=torch.long, device=device)
        positions_T = torch.arange(0 if self.greedy else self.limit, device=device)
        self.rows_BT = row_hashes(seeds_B[:, None], positions_T)  # a step's noise needs no hash but its own
        # By place: its sequence and that one's last token, tokens drawn, tokens in the cache.
        self.state = torch.zeros(4, self.num_places, dtype=torch.long, device=device)
        self.sequence_S, self.tokens_S, self.done_S, self.lengths_S = self.state

    @torch.no_grad()
    def run(self) -> list[list[int]]:
        """Draw all of them: of each its tokens up to and including the end token."""
        while self.waiting or self.num_used:
            free = self.num_places - self.num_used
            if self.waiting and free >= min(len(self.waiting), max(1, REFILL_FRAC * self.num_places)):
                self._enter(free)
            else:
                self._step()
        return self.completions

    def _enter(self, free: int) -> None:
        """Give free places to waiting sequences, and draw their first tokens."""
        entering = self._next(free)
        if self.read is not None and (sequences := entering.pop(self.read.prompt, [])):
            self.cache.copy(self.read.layers, self.num_used, len(sequences))
            size = len(sequences)
            self._begin(sequences, [len(self.read.prompt)] * size, self.read.logits_1V.expand(size, -1))
        if entering:
            self._compute(entering)
        if self.read is not None and not (self.waiting and self.prompts[self.waiting[-1]] == self.read.prompt):
            self.read = None

    def _next(self, free: int) -> dict[tuple[int, ...], list[int]]:
        """The sequences that enter, at most so many, by their prompts."""
        entering: dict[tuple[int, ...], list[int]] = {}
        while free and self.waiting and sum(map(len, entering)) < PROMPT_TOKENS:
            sequence = self.waiting.pop()
            entering.setdefault(self.prompts[sequence], []).append(sequence)
            free -= 1
        return entering

    def _compute(self, entering: dict[tuple[int, ...], list[int]]) -> None:
        """Compute prompts, once each, and draw the first token of each of their sequences."""
        device, lengths, copies = self.device, list(map(len, entering)), list(map(len, entering.values()))
        layout = Prompts(lengths, copies, self.num_used, self.cache)
        ids = torch.tensor([token for prompt in entering for token in prompt], device=device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        ends = torch.tensor(list(accumulate(lengths)), device=device) - 1
        logits = self.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=ends, layout=layout
        ).logits[0]
        self.read = Read(list(entering)[-1], logits[-1:], layout.last)
        sequences = [sequence for mine in entering.values() for sequence in mine]
        of_sequence = [len(self.prompts[sequence]) for sequence in sequences]
        self._begin(sequences, of_sequence, logits.repeat_interleave(torch.tensor(copies, device=device), 0))

    def _begin(self, sequences: list[int], lengths: list[int], logits_SV: Tensor) -> None:
        """Put sequences whose prompts are in the cache into the first free places, and draw their first tokens."""
        first, self.num_used = self.num_used, self.num_used + len(sequences)
        none = [0] * len(sequences)
        self.state[:, first : self.num_used] = torch.tensor([sequences, none, none, lengths], device=self.device)
        self.columns = max(self.columns, *lengths)
        self._draw(first, logits_SV)

    def _num_computed(self) -> int:
        return seen_places(self.num_used, self.num_places, self.device.type)

    def _step(self) -> None:
        """Draw a token in every place that is in use."""
        computed = slice(self._num_computed())
        self.cache.begin_step(self.lengths_S[computed], seen_columns(self.columns + 1, self.device.type))
        logits = self.model(
            input_ids=self.tokens_S[computed, None], position_ids=self.lengths_S[computed, None], use_cache=False,
            layout=self.cache,
        ).logits[: self.num_used, -1]  # fmt: skip
        self.lengths_S[: self.num_used] += 1
        self.columns += 1
        self._draw(0, logits)

    def _draw(self, first: int, logits_SV: Tensor) -> None:
        """Draw the next tokens of the sequences in the places from the first on; those that end leave."""
        places = slice(first, self.num_used)
        now = self.sequence_S[places], self.done_S[places]
        scores_SV: Any = self.warpers(self.no_ids, logits_SV.float())  # type: ignore[arg-type]
        if not self.greedy:
            scores_SV = scores_SV + gumbel(self.rows_BT[now], scores_SV.shape[1])
        tokens_S = scores_SV.argmax(-1)
        self.drawn_BT[now] = tokens_S
        self.tokens_S[places] = tokens_S
        self.done_S[places] += 1
        ended_S = (tokens_S[:, None] == self.eos_tokens).any(1) | (self.done_S[places] == self.limit)
        if left := [first + place for place in ended_S.nonzero().flatten().tolist()]:
            self._leave(left)

    def _leave(self, left: list[int]) -> None:
        """Take the completions of places, and give these to the last ones that are in use."""
        sequences, lengths = torch.stack([self.sequence_S[left], self.done_S[left]]).tolist()
        for sequence, ids, length in zip(sequences, self.drawn_BT[sequences].tolist(), lengths, strict=True):
            self.completions[sequence] = ids[:length]
            self.on_end(sequence, ids[:length])
        before, self.num_used = self.num_used, self.num_used - len(left)
        source = sorted(set(range(self.num_used, before)).difference(left))
        target = [place for place in left if place < self.num_used]
        if source:
            self.cache.move(source, target, self.columns)
            self.state[:, target] = self.state[:, source]
        if not self.waiting:
            self.cache.num_places = self._num_computed()  # those behind them are left when the cache grows
        self.columns = int(self.lengths_S[: self.num_used].max()) if self.num_used else 0
