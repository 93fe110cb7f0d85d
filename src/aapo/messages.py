"""Messages of a conversation as text."""

from typing import Any


def content_text(content: str | list[Any] | None) -> str:
    """The text of a message's content: itself, or that of its text parts in order; empty without any.

    Args:
        content: Text, or parts such as `{"type": "text", "text": "6"}`; those without text, such as images, are left
            out.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
