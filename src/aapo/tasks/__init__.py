"""Where prompts and gold answers come from, and how they are put to a model."""

from aapo.tasks.benchmarks import PROBLEM_KEY, Benchmark, find_benchmark, shipped_benchmarks
from aapo.tasks.datasets import named_datasets, pinned
from aapo.tasks.prompts import DataConfig, Split, generated_entries, held_out, load_prompts, tasks_of
from aapo.tasks.rendering import encode_prompt, limit_prompts, prompt_key, prompt_opening, render_prompt
from aapo.tasks.styles import STYLE_FIELD, PromptStyle, prompt_styles, with_style

__all__ = [
    "PROBLEM_KEY",
    "STYLE_FIELD",
    "Benchmark",
    "DataConfig",
    "PromptStyle",
    "Split",
    "encode_prompt",
    "find_benchmark",
    "generated_entries",
    "held_out",
    "limit_prompts",
    "load_prompts",
    "named_datasets",
    "pinned",
    "prompt_key",
    "prompt_opening",
    "prompt_styles",
    "render_prompt",
    "shipped_benchmarks",
    "tasks_of",
    "with_style",
]
