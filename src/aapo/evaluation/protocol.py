"""How models are asked, sampled and graded: named, and identified by a hash."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aapo.errors import InputError, nearest
from aapo.fields import checked, field_types, make, read_mapping
from aapo.files import read_text
from aapo.grading import GRADER_VERSION
from aapo.ranges import check, check_all
from aapo.sampling import SamplingSettings
from aapo.tasks import STYLE_FIELD, PromptStyle, with_style

SHIPPED = files("aapo") / "protocols"
DEFAULT = "aapo"


@dataclass(frozen=True)
class Protocol:
    """Everything that can change a score beside the model and the problems.

    Attributes:
        name: What it is called; not part of the hash.
        system_prompt: First message.
        prompt_template: Text with `{question}`.
        choice_template: The same for multiple-choice questions, whose options are part of `{question}` and
            whose letters are `{letters}`; by default `prompt_template`.
        conversational: Whether prompts are chat messages, rendered by the model's chat template, or plain text.
        answer_convention: Where an answer may stand beside a box and an answer tag, unless the benchmark says.
        chat_template_kwargs: Passed to the chat template, such as `{enable_thinking: false}`.
        temperature: Of the sampling; 0 is greedy.
        top_p: Nucleus in (0, 1].
        top_k: Tokens kept; 0 keeps all.
        min_p: Least share of the likeliest token's probability.
        repetition_penalty: 1 is none.
        generation_kwargs: Further fields of Transformers' GenerationConfig.
        stop: Texts that end a completion.
        max_completion_length: Most tokens of a completion.
        num_samples: Samples per problem.
        benchmark_samples: The same for single benchmarks, by name.
        grader: Version of the comparison of answers.
    """

    name: str = "custom"
    system_prompt: str | None = None
    prompt_template: str = "{question}"
    choice_template: str | None = None
    conversational: bool = True
    answer_convention: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    generation_kwargs: dict[str, Any] | None = None
    stop: list[str] = field(default_factory=list)
    max_completion_length: int = 32768
    num_samples: int = 1
    benchmark_samples: dict[str, int] = field(default_factory=dict)
    grader: str = GRADER_VERSION

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: A value is out of its range or without effect.
        """
        for key in ("prompt_template", "choice_template"):
            template = getattr(self, key)
            if template is not None and "{question}" not in template:
                raise InputError(f"{key} is {template!r}; it must contain {{question}}")
        check_all(vars(self))
        for name, count in self.benchmark_samples.items():
            check("num_samples", count, f"benchmark_samples.{name}.")
        if self.temperature == 0 and max(self.num_samples, *self.benchmark_samples.values(), 1) > 1:
            raise InputError(
                f"num_samples is {self.num_samples} and temperature 0, so that all samples of a problem are the "
                "same; set num_samples to 1 or temperature above 0"
            )
        if self.grader != GRADER_VERSION:
            raise InputError(f"grader is {self.grader}; this version of aapo grades by {GRADER_VERSION}; remove it")
        if self.chat_template_kwargs and not self.conversational:
            raise InputError("chat_template_kwargs has no effect, because conversational is false; remove it")
        _ = self.sampling  # which checks what it must not hold

    @property
    def sampling(self) -> SamplingSettings:
        """How completions are drawn."""
        settings = {item.name: getattr(self, item.name) for item in fields(SamplingSettings)}
        return SamplingSettings(**{**settings, "stop": tuple(self.stop)})

    @property
    def style(self) -> PromptStyle:
        """How problems are put."""
        return PromptStyle(**{item.name: getattr(self, item.name) for item in fields(PromptStyle)})

    @property
    def hash(self) -> str:
        """8 hexadecimal digits of the settings, whatever they are called."""
        settings = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """Name and hash, such as `aapo@1a2b3c4d`, as results carry it."""
        return f"{self.name}@{self.hash}"

    def samples(self, benchmark: str, declared: int | None = None) -> int:
        """Samples per problem of a benchmark: by name, else what the benchmark declares, else the protocol's number."""
        return self.benchmark_samples.get(benchmark, declared or self.num_samples)

    def describe(self) -> dict[str, Any]:
        """Every setting, with the hash."""
        return {"name": self.name, "hash": self.hash, **{k: v for k, v in asdict(self).items() if k != "name"}}

    def changed(self, given: dict[str, Any]) -> "Protocol":
        """The protocol with other settings; its name says which were changed.

        `num_samples` then holds for every benchmark.

        Raises:
            InputError: A setting is unknown, of the wrong type or out of its range.
        """
        kinds = field_types(Protocol)
        label = "+".join([self.name, *sorted(given)])
        given = with_style(given)
        for key in given:
            if key not in kinds or key == "name":
                raise InputError(f"unknown protocol setting {key!r}{nearest(key, [*kinds, STYLE_FIELD])}")
        values = {key: checked(key, value, kinds[key]) for key, value in given.items()}
        if "num_samples" in values and "benchmark_samples" not in values:
            values["benchmark_samples"] = {}
        made = replace(self, **values)
        return made if made.hash == self.hash else replace(made, name=label)


@cache
def shipped_protocols() -> dict[str, str]:
    """Text of each shipped protocol by name."""
    return {
        Path(entry.name).stem: entry.read_text(encoding="utf-8")
        for entry in sorted(SHIPPED.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".yaml")
    }


def load_protocol(source: str) -> Protocol:
    """The protocol of a shipped name or in a .yaml file.

    Raises:
        InputError: It is unknown, or a setting is.
    """
    shipped, path = shipped_protocols(), Path(source)
    if source in shipped:
        name, text = source, shipped[source]
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        name, text = path.stem, read_text(path, f"protocol {source}")
    else:
        raise InputError(
            f"unknown protocol {source!r}{nearest(source, shipped)}; shipped are {', '.join(shipped)}; your own is "
            "named by the path of its .yaml file"
        )
    return make(Protocol, {"name": name, **with_style(read_mapping(text, f"protocol {source}"))})
