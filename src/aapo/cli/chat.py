"""What `aapo chat` does: a model in the terminal, streaming."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer
from transformers.utils import logging as transformers_logging

from aapo.engines import end_tokens, generate_ids
from aapo.errors import InputError
from aapo.evaluation import model_sources
from aapo.messages import last_question, visible
from aapo.progress import console
from aapo.recipe import load_recipe
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings, sample_seed
from aapo.tasks import PromptStyle, encode_prompt, load_prompts
from aapo.tasks.prompts import MissingSourceError

transformers_logging.disable_progress_bar()

NUM_EXAMPLES = 2
HELP = "/reset forgets the conversation, /system TEXT sets the system prompt, /quit ends; Ctrl-C stops an answer"


class Printed(TextStreamer):
    """Writes the answer as it comes, control characters made visible."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write a part."""
        sys.stdout.write(visible(text) + ("\n" if stream_end else ""))
        sys.stdout.flush()


@dataclass
class Conversation:
    """A model, how it is asked, and what was said."""

    model: Any
    tokenizer: Any
    style: PromptStyle
    settings: SamplingSettings
    template_options: dict[str, Any]
    seed: int
    said: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0

    def prompt(self, question: str) -> str | list[dict[str, str]]:
        """The question as the model reads it, after what was said; plain text has no memory."""
        text = self.style.prompt_template.replace("{question}", question)
        if not self.style.conversational:
            return f"{self.style.system_prompt}\n{text}" if self.style.system_prompt else text
        system = [{"role": "system", "content": self.style.system_prompt}] if self.style.system_prompt else []
        return [*system, *self.said, {"role": "user", "content": text}]

    def ask(self, question: str) -> None:
        """Print the answer as it is sampled, and remember both."""
        prompt = self.prompt(question)
        ids = encode_prompt(prompt, self.tokenizer, **self.template_options)
        self.turns += 1
        (answer,) = generate_ids(
            self.model, [ids], [sample_seed(self.seed, "chat", self.turns)], self.settings,
            eos_token_ids=end_tokens(self.model, self.tokenizer), pad_token_id=self.tokenizer.pad_token_id,
            tokenizer=self.tokenizer, streamer=Printed(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
        )  # fmt: skip
        if isinstance(prompt, list):
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            self.said += [prompt[-1], {"role": "assistant", "content": text}]


def chat(model: str, temperature: float | None, max_completion_length: int | None, seed: int) -> None:
    """Talk to a model: at a terminal turn by turn, from a pipe one question.

    Raises:
        InputError: The pipe has no question; the message has some that a run was trained for.
    """
    asked = None if sys.stdin.isatty() else sys.stdin.read().strip()
    examples = example_questions(model) if not asked else []
    if asked == "":
        tried = f", such as {' or '.join(map(repr, examples))}" if examples else ""
        raise InputError(f"there is no question; write one to the command's input{tried}")
    conversation = _begin(model, temperature, max_completion_length, seed)
    if asked:
        conversation.ask(asked)
        return
    console.print(HELP)
    if examples:
        console.print("Questions of the kind that this run was trained on:")
        for question in examples:
            console.print(f"  {question}")
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt) as error:
            _only_ctrl_c(error)
            print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            conversation.said.clear()
        elif line.startswith("/system"):
            conversation.style = PromptStyle(
                line.removeprefix("/system").strip() or None,
                conversation.style.prompt_template,
                conversational=conversation.style.conversational,
            )
        elif line:
            try:
                conversation.ask(line)
            except KeyboardInterrupt as error:
                _only_ctrl_c(error)
                print()


def _only_ctrl_c(error: BaseException) -> None:
    """Let other signals than Ctrl-C, which stops an answer or leaves the prompt, end the command."""
    if isinstance(error, KeyboardInterrupt) and error.args not in ((), ("SIGINT",)):
        raise error


def example_questions(model: str) -> list[str]:
    """Questions that a run was evaluated on, else trained on, as a user would type them.

    None of another model, or where the run's data is no longer there.
    """
    if not RunDirectory(Path(model)).recipe_file.exists():
        return []
    data = load_recipe(model).data
    bare = replace(data, system_prompt=None, prompt_template="{question}", conversational=False)
    try:
        rows = load_prompts(bare, "test" if data.num_eval_prompts else "train")
    except MissingSourceError:
        return []
    return [last_question(prompt).strip() for prompt in rows["prompt"][:NUM_EXAMPLES]]


def _begin(model: str, temperature: float | None, max_completion_length: int | None, seed: int) -> Conversation:
    (source,) = model_sources(model)
    style, settings, options = PromptStyle(), SamplingSettings(max_completion_length=2048), {}
    if RunDirectory(Path(model)).recipe_file.exists():
        recipe = load_recipe(model)
        data, settings, options = recipe.data, recipe.training.sampling, recipe.training.template_options
        style = PromptStyle(data.system_prompt, data.prompt_template, conversational=data.conversational)
    tokenizer = source.load_tokenizer()
    if tokenizer.chat_template is None:
        style = PromptStyle(style.system_prompt, style.prompt_template, conversational=False)
    changes = {"temperature": temperature, "max_completion_length": max_completion_length}
    given = {name: value for name, value in changes.items() if value is not None}
    loaded = source.load("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Conversation(loaded, tokenizer, style, SamplingSettings(**{**vars(settings), **given}), options, seed)
