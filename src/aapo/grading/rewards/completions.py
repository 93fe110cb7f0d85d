"""What a reward function is given."""

from collections.abc import Sequence
from typing import Any

from aapo.messages import content_text


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain or conversational completion; of the latter, that of its last message, empty without any."""
    if isinstance(completion, str):
        return completion
    return content_text(completion[-1].get("content")) if completion else ""


def whole_turns(completions: Sequence, openings: Sequence[str] | None) -> list[str]:
    """The texts of completions with what each prompt holds of the assistant's turn; an empty one stays empty.

    Args:
        completions: Texts or message lists.
        openings: The column `prompt_opening` (`aapo.tasks.prompt_opening`); None where nothing is known of it.
    """
    texts = [completion_text(completion) for completion in completions]
    return [text and opening + text for text, opening in zip(texts, openings or [""] * len(texts), strict=True)]
