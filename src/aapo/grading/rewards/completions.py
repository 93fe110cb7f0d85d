"""What a reward function is given."""

from typing import Any

from aapo.messages import content_text


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain or conversational completion; of the latter, that of its last message."""
    return completion if isinstance(completion, str) else content_text(completion[-1]["content"])
