"""Messages of a conversation as text."""

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
# Everything that moves the cursor, sets colours or rings: all control characters but newline and tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def content_text(content: str | list[Any] | dict[str, Any] | None) -> str:
    """The text of a message's content: itself, or that of its text parts in order; empty without any.

    Args:
        content: Text, a part such as `{"type": "text", "text": "6"}`, or a list of parts; those without text, such as
            images, are left out.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, dict) else content
    return "".join(part if isinstance(part, str) else (part or {}).get("text") or "" for part in parts)


def last_question(prompt: str | list[dict[str, Any]]) -> str:
    """The last message of a prompt that is not the assistant's, or the plain prompt."""
    if isinstance(prompt, str):
        return prompt
    return next(
        (content_text(message.get("content")) for message in reversed(prompt) if message["role"] != "assistant"), ""
    )


def encodable(text: str) -> str:
    """The text with the replacement character for each lone surrogate, which no file can hold."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def visible(text: str) -> str:
    """The text as a terminal can show it: a replacement character for each control character and lone surrogate."""
    return encodable(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))
