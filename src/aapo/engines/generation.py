"""Token ids from a Transformers model: keyed samples, by the fastest way that the model and the settings allow.

Where layers are plain causal attention and a token's choice depends on its logits alone, sequences are drawn in places
(`decoding`). Otherwise Transformers' `generate` draws them (`shedding`). Transformers' continuous batching also fills
free places, but it draws all rows of a step with one `torch.multinomial` from the global generator
(`ContinuousBatchingModelRunner._sample`), and its logits processors see neither which request a row belongs to nor how
far it is: samples would depend on their neighbours and on scheduling.

Shapes: B sequences of a batch.
"""

from collections.abc import Sequence
from typing import Any

from aapo.engines.attention import attending_by_layout
from aapo.engines.batch import Batch
from aapo.engines.decoding import Decoder, OnEnd
from aapo.engines.shedding import generated_ids
from aapo.engines.threads import fitting_threads
from aapo.engines.ways import Way, choose_way
from aapo.sampling import SamplingSettings


def generate_ids(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    cache_implementation: str | None = None,
    tokenizer: Any = None,
    way: Way | None = None,
    num_places: int | None = None,
    streamer: Any = None,
    on_end: OnEnd = lambda sequence, ids: None,
) -> list[list[int]]:
    """One completion per prompt, as token ids up to and including the end token or the end of a stop string.

    Args:
        model: Any model that Transformers can generate with.
        prompt_ids: B prompts.
        seeds: B sample seeds (`sample_seed`); a completion depends on its own seed and prompt only.
        settings: How to draw.
        eos_token_ids: Tokens that end a completion.
        pad_token_id: Token for padding.
        cache_implementation: Transformers' key-value cache; does not change what is drawn.
        tokenizer: The model's; only stop strings need it.
        way: `places`, `shedding` (rows that have ended leave the batch) or `static`; by default the fastest that can be
            used (`choose_way`). It does not change what is drawn.
        num_places: Sequences that are drawn at once; by default all.
        streamer: Transformers' streamer of a single prompt, which gets its tokens as they are drawn.
        on_end: Called with the index and the tokens of each completion while others are still drawn; only `places` can.

    Raises:
        InputError: The way that is asked for cannot be taken.
    """
    batch = Batch(prompt_ids, seeds, settings, eos_token_ids, pad_token_id, cache_implementation, tokenizer)
    num_places = num_places or len(prompt_ids)
    taken = "static" if streamer is not None else choose_way(model, settings, cache_implementation, way).way
    with fitting_threads(model, num_places):
        if taken == "places":
            with attending_by_layout(model.get_base_model() if hasattr(model, "get_base_model") else model):
                return Decoder(model, batch, num_places, on_end).run()
        drawn = (
            generated_ids(model, part, shed=taken == "shedding", streamer=streamer) for part in batch.parts(num_places)
        )
        return [ids for part in drawn for ids in part]
