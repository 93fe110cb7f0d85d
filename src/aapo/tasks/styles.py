"""How a problem is put to a model: prompt styles, by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from aapo.errors import InputError, nearest
from aapo.fields import make

STYLE_FIELD = "prompt_style"


@dataclass(frozen=True)
class PromptStyle:
    """How a problem is put to the model.

    Attributes:
        system_prompt: First message.
        prompt_template: Text with `{question}`.
        choice_template: The same for questions with lettered options, which are part of `{question}` and their letters
            `{letters}`; by default `prompt_template`.
        conversational: Whether prompts are chat messages, rendered by the model's chat template, or plain text.
        answer_convention: Where an answer may stand beside a box and an answer tag, for a prompt that asks for neither.
    """

    system_prompt: str | None = None
    prompt_template: str = "{question}"
    choice_template: str | None = None
    conversational: bool = True
    answer_convention: str | None = None


@cache
def prompt_styles() -> dict[str, PromptStyle]:
    """The shipped prompt styles by name."""
    text = (files("aapo") / "tasks" / "prompt_styles.yaml").read_text(encoding="utf-8")
    return {name: make(PromptStyle, given) for name, given in yaml.safe_load(text).items()}


def with_style(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of prompts in which a `prompt_style` is replaced by all that it sets; what is given beside it wins.

    Raises:
        InputError: There is no such style.
    """
    settings = {key: value for key, value in given.items() if key != STYLE_FIELD}
    name, styles = given.get(STYLE_FIELD), prompt_styles()
    if name is None:
        return settings
    if name not in styles:
        raise InputError(
            f"unknown {STYLE_FIELD} {name!r}{nearest(str(name), styles)}; shipped are {', '.join(styles)}; your own is "
            "set by system_prompt, prompt_template and conversational"
        )
    return {**asdict(styles[name]), **settings}
