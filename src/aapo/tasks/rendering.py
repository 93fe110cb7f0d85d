"""Prompts as the model reads them, and the key that identifies one."""

import hashlib
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from jinja2 import TemplateError

from aapo.errors import InputError

THINK = "<think>"
# What messages are by, as chat templates name it; a template may know more.
ROLES = ("system", "developer", "user", "assistant", "tool")
# Templates that print today's date, such as Llama 3's, print this one: else a prompt would be another every day.
TEMPLATE_DATE = date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def render_prompt(prompt: str | list[dict[str, Any]], tokenizer: Any, **template_options: Any) -> str:
    """The text that the model is given: messages through the chat template, plain text as it is.

    A last message by the assistant is a prefill that the model goes on from. A template that asks for the date gets
    26 July 2024, Llama 3's own fallback, unless `template_options` has its variable (`date_string`).

    Raises:
        InputError: The prompt is conversational and the tokenizer has no chat template, or one that refuses it.
    """
    if isinstance(prompt, str):
        return prompt
    if tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, which conversational prompts need; use a "
            "model with one or set conversational to false"
        )
    template, roles = _TODAY.sub(_fixed_date, tokenizer.get_chat_template()), [message["role"] for message in prompt]
    if unknown := [role for role in roles if role not in ROLES and repr(role)[1:-1] not in template]:
        raise InputError(
            f"a message has the role {unknown[0]!r}, of which the chat template says nothing; roles are "
            f"{', '.join(ROLES)}"
        )
    prefilled = roles[-1] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            prompt,
            tokenize=False,
            add_generation_prompt=not prefilled,
            continue_final_message=prefilled,
            chat_template=template,
            **template_options,
        )
    except (TemplateError, TypeError) as error:  # as a template says that it takes no system message
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses messages of the roles {', '.join(roles)}: {error}"
        ) from error


def prompt_opening(prompt: str | list[dict[str, Any]], tokenizer: Any, **template_options: Any) -> str:
    """What the rendered prompt already holds of the answer's tags, which the completion goes on from.

    From the first <think> of the assistant's turn, that the chat template or a last message by the assistant opens;
    empty where there is none, and of plain text. Reward functions get it as the column `prompt_opening`.

    Raises:
        InputError: The template closes an empty thinking block before the prefill opens one.
    """
    rendered = render_prompt(prompt, tokenizer, **template_options)
    if isinstance(prompt, str) or THINK not in rendered:
        return ""
    prefilled = prompt[-1]["role"] == "assistant"
    before = prompt[:-1] if prefilled else prompt
    asked = tokenizer.apply_chat_template(
        before, tokenize=False, chat_template=_TODAY.sub(_fixed_date, tokenizer.get_chat_template()), **template_options
    )
    if not rendered.startswith(asked):  # the tags before the assistant's turn are not the model's
        return ""
    _, tag, thought = rendered.removeprefix(asked).partition(THINK)
    if tag and prefilled and THINK in thought and not thought.partition("</think>")[0].strip():
        raise InputError(
            "the chat template closes an empty thinking block before the prefill opens another with <think>, which the "
            "model was not trained on; take <think> out of the prefill, or set the template's option for thinking in "
            "chat_template_kwargs"
        )
    return tag + thought


def _fixed_date(call: re.Match[str]) -> str:
    """A call of Transformers' `strftime_now` in a template, as the text that it would give on the fixed date."""
    return repr(TEMPLATE_DATE.strftime(call.group(2)))


def encode_prompt(prompt: str | list[dict[str, Any]], tokenizer: Any, **template_options: Any) -> list[int]:
    """The prompt's tokens, for training, bank and evaluation alike.

    A chat template writes its special tokens itself; plain text gets those that the tokenizer adds by default, such as
    a token for the beginning of the text.
    """
    rendered = render_prompt(prompt, tokenizer, **template_options)
    return tokenizer(rendered, add_special_tokens=isinstance(prompt, str))["input_ids"]


def prompt_key(rendered: str, gold: str) -> str:
    """Identity of a prompt: 32 hexadecimal digits of the hash of its rendered text and its gold answer."""
    return hashlib.sha256(f"{rendered}\0{gold}".encode()).hexdigest()[:32]


def limit_prompts(lengths: Sequence[int], max_prompt_length: int | None, *, drop: bool) -> list[int]:
    """Places of the prompts that have at most `max_prompt_length` tokens.

    Args:
        lengths: Tokens of each rendered prompt.
        max_prompt_length: None is no limit.
        drop: Leave longer ones out, instead of refusing them.

    Raises:
        InputError: Some are longer and `drop` is off, or all are longer.
    """
    limit = max_prompt_length
    long = [place for place, length in enumerate(lengths) if limit is not None and length > limit]
    if long and (not drop or len(long) == len(lengths)):
        raise InputError(
            f"{len(long)} of {len(lengths)} prompts are longer than max_prompt_length {limit} (first: row {long[0]} "
            f"with {lengths[long[0]]} tokens); raise max_prompt_length to {max(lengths)}"
            + ("" if drop else " or set drop_long_prompts to true")
        )
    return sorted(set(range(len(lengths))) - set(long))
