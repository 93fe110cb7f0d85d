"""What is handed from layer to layer: a prompt, a completion of it, what it is worth, and what makes completions.

Shapes: K samples per prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from aapo.messages import last_question

FinishReason = Literal["stop", "length"]
Rewards = dict[str, list[float | None]]
Notes = dict[str, list[str | None]]


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to be sampled.

    Attributes:
        key: Its identity, `prompt_key(rendered, gold)`.
        rendered: What the model reads.
        ids: The same as tokens.
        gold: The gold answer, empty without one.
        row: The data set's row, whose columns reward functions get.
    """

    key: str
    rendered: str
    ids: list[int]
    gold: str
    row: dict[str, Any]

    @property
    def question(self) -> str:
        """What the user asks: the last message that is not the assistant's, or the plain prompt."""
        return last_question(self.row["prompt"])


class Completion(NamedTuple):
    """One completion: its text without special tokens, its token ids with the end token, and why it ended.

    Where a stop string ended it, the text ends before the string; the token ids keep it.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


class Scores(NamedTuple):
    """What reward functions say of completions.

    Attributes:
        rewards: By function, one reward a completion; None where it could not be scored.
        notes: By column, what functions logged through `log_extra` about each completion, such as `verdict/accuracy`;
            as text, None where nothing was said.
    """

    rewards: Rewards
    notes: Notes

    def part(self, start: int, stop: int) -> "Scores":
        """The scores of the completions from `start` to before `stop`."""
        rewards = {name: values[start:stop] for name, values in self.rewards.items()}
        return Scores(rewards, {column: values[start:stop] for column, values in self.notes.items()})


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with K completions, per reward function their K rewards, and per column their K notes."""

    prompt: Prompt
    completions: list[Completion]
    rewards: Rewards
    notes: Notes


class Engine(Protocol):
    """What samples completions: one `generate()`, whatever runs behind it.

    Attributes:
        tokenizer: The model's.
        batch_size: Completions worth handing over at once.
    """

    tokenizer: Any
    batch_size: int

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], on_batch: Callable[[int], None] = ...
    ) -> list[Completion]:
        """One completion per prompt, in order, each depending on its own seed and prompt only."""
        ...
