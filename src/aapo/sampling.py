"""How completions are drawn: the settings, and the seed of each sample."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from aapo.errors import InputError
from aapo.ranges import check_all
from aapo.records import Completion


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn; the names are Transformers' and TRL's.

    Attributes:
        temperature: >= 0; 0 is greedy decoding.
        top_p: Nucleus in (0, 1]; 1 keeps all tokens.
        top_k: Tokens kept; 0 keeps all.
        min_p: Tokens below this share of the likeliest token's probability are dropped; None keeps all.
        repetition_penalty: Transformers' penalty; 1 is none.
        max_completion_length: Most tokens of a completion.
        generation_kwargs: Further fields of Transformers' GenerationConfig, such as `suppress_tokens`.
        stop: A completion ends where one of these strings first appears in it, and its text before the string; for
            base models, which seldom end by themselves. Rollouts of the trainer do not use it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_completion_length: int = 256
    generation_kwargs: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: A value is out of its range.
        """
        check_all(vars(self))
        for key, instead in _OWN_FIELDS.items():
            if key in (self.generation_kwargs or {}):
                raise InputError(f"generation_kwargs sets {key}; set {instead} instead")

    def describe(self) -> dict[str, Any]:
        """The settings as a dictionary, for identities and manifests.

        Without stop strings there is no `stop` in it, since banks made before there was such a setting are found by
        what it was then.
        """
        described = {**asdict(self), "stop": list(self.stop)}
        if not self.stop:
            del described["stop"]
        return described


# GenerationConfig's fields that have a setting of their own here, or that keyed sampling replaces.
_OWN_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_completion_length",
    "stop_strings": "stop",
    "do_sample": "temperature (0 is greedy)",
}


def as_completion(text: str, token_ids: list[int], settings: SamplingSettings, *, ended: bool) -> Completion:
    """A completion from what was decoded; `ended` says that an end token or a stop string ended it."""
    found = [position for position in map(text.find, settings.stop) if position >= 0]
    return Completion(text[: min(found, default=len(text))], token_ids, "stop" if ended or found else "length")


def sample_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) for what `parts` name, such as (seed, purpose, step, prompt key, sample)."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
