"""What `aapo train --dry-run` prints: the resolved recipe, and what is built, reused, written and needed."""

from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table

from aapo.cli.cluster import print_mapping
from aapo.engines.identity import hub_commit
from aapo.engines.loading import is_hub_name
from aapo.errors import InputError
from aapo.grading import reward_name
from aapo.progress import console
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.runs import RunDirectory
from aapo.tasks.datasets import pinned
from aapo.tasks.prompts import MissingSourceError
from aapo.training.banks import RecipeBank, cost_line
from aapo.training.memory import GIB, LAYOUTS, Layout, MemoryEstimate, device_memory, estimate, model_shape
from aapo.training.models import (
    check_adapter,
    check_model,
    check_room,
    loaded_weights,
    model_path,
    model_spec,
    training_options,
)
from aapo.training.prompts import check_number, checked_prompts, loaded_prompts
from aapo.training.run import batch_line, check_output
from aapo.training.schedule import planned_prompts, planned_rollouts, planned_steps

# GPUs that the memory table shows beside one; those of the shipped launchers.
NUM_GPUS = 4
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "kv_cache", "total")


def print_plan(recipe: Recipe, output: Path, *, resume: bool) -> None:
    """The plan of a run; what cannot be reached offline is named and the rest is planned all the same.

    Raises:
        InputError: The recipe, its prompts or its output folder are wrong.
    """
    check_adapter(recipe)
    console.print(yaml.safe_dump(recipe.resolved(), sort_keys=False), end="")
    path = model_path(recipe)
    made = recipe.base_model is not None and not Path(path).exists()
    lines = {"model": f"{path} ({'will be built' if made else 'reused' if Path(path).exists() else 'from the Hub'})"}
    if Path(path).exists():
        check_model(recipe)
    tokenizer = None if made else _tokenizer(recipe, path, lines)
    num_prompts, longest = _plan_prompts(recipe, tokenizer, lines)
    if (trained := str(training_options(recipe)["dtype"])) != str(recipe.model.dtype):
        computed = ", computed with in 16 bits" if recipe.training.bf16 or recipe.training.fp16 else ""
        lines["weights"] = f"trained in {trained}{computed}, sampled by the bank in {recipe.model.dtype}"
    if (line := batch_line(recipe)) is not None:
        lines["batch"] = line
    names = [reward_name(function) for function in recipe.reward_funcs]
    lines["right answers"] = recipe.training.judgement.describe(names)
    if num_prompts is not None or recipe.training.max_steps > 0:
        _plan_steps(recipe, num_prompts, lines)
    check_output(RunDirectory(output), recipe, resume=resume)
    lines["writes"] = f"{output} ({'resumes the run there' if resume else 'new'})"
    console.print("plan:")
    for key, value in lines.items():
        console.print(f"  {key}: {value}")
    if recipe.cluster is not None:
        print_mapping(recipe, path, output, num_prompts, longest)
    elif not made:
        _print_memory(recipe, longest)


def _tokenizer(recipe: Recipe, path: str, lines: dict[str, str]) -> Any | None:
    """The model's tokenizer; None, with a line that says so, where the Hub that has it cannot be reached."""
    try:
        if is_hub_name(path):
            hub_commit(path, recipe.model.model_revision)  # which says so before tokenizers are imported
        return model_spec(recipe, path, recipe.model.model_revision).load_tokenizer()
    except InputError as error:
        if not is_hub_name(path):
            raise
        lines["model"] = f"not here: {error}"
        return None


def _plan_prompts(recipe: Recipe, tokenizer: Any | None, lines: dict[str, str]) -> tuple[int | None, int]:
    """Number of training prompts, None where they cannot be reached, and tokens of the longest."""
    limit = recipe.data.max_prompt_length or 0
    try:
        rows = loaded_prompts(recipe, "train")
    except MissingSourceError as error:
        if not is_hub_name(pinned(recipe.data).dataset_name or ""):
            raise
        lines["prompts"] = f"not here: {error}"
        return None, limit
    if tokenizer is None:
        check_number(recipe, len(rows))
        if recipe.uses_bank:
            added = len(planned_prompts(recipe, len(rows))) * recipe.run.num_reference_samples
            lines["bank"] = cost_line(added, 0, planned_rollouts(recipe, len(rows)))
        return len(rows), limit
    checked = checked_prompts(recipe, tokenizer)
    check_room(recipe, checked.prompts)
    if checked.notes():
        lines["prompts"] = "; ".join(checked.notes())
    if recipe.uses_bank:
        needed = [checked.prompts[place] for place in planned_prompts(recipe, len(checked.prompts))]
        lines["bank"] = RecipeBank(recipe, tokenizer).plan(needed, planned_rollouts(recipe, len(checked.prompts)))
    return len(checked.prompts), max(len(prompt.ids) for prompt in checked.prompts)


def _plan_steps(recipe: Recipe, num_prompts: int | None, lines: dict[str, str]) -> None:
    """Steps, rollouts and evaluation; of prompts that cannot be reached, only what a given number of steps says."""
    steps = planned_steps(recipe, num_prompts or 0)
    rollouts = planned_rollouts(recipe, num_prompts)
    tokens = rollouts * recipe.training.sampling.max_completion_length
    lines["training"] = f"{steps} steps, {rollouts} rollouts, at most {tokens:,} tokens"
    if num_prompts is not None:
        lines["training"] = f"{num_prompts} prompts, {lines['training']}"
    if recipe.training.max_refill_rounds:
        lines["training"] += f", and up to {recipe.training.max_refill_rounds} times as many to refill"
    if recipe.data.num_eval_prompts and num_prompts is not None:
        held_out = len(loaded_prompts(recipe, "test"))
        lines["evaluation"] = f"{held_out} held-out prompts x {recipe.run.eval_num_samples} samples, before and after"


def _print_memory(recipe: Recipe, prompt_tokens: int) -> None:
    """The memory on each GPU, as it is launched or, from one process, by every shipped launcher."""
    path, revision = loaded_weights(recipe)
    shape = model_shape(path, revision, trust_remote_code=recipe.training.trust_remote_code)
    if shape is None:
        console.print(f"memory: needs the config of {path}, which is not here; give a local folder")
        return
    columns: list[tuple[Layout, int]] = [(name, 1 if name == "single" else NUM_GPUS) for name in LAYOUTS]
    if launched().count > 1:
        columns = [(name, launched().count) for name in LAYOUTS if name != "single"]
    found = {column: estimate(recipe, shape, prompt_tokens, *column) for column in columns}
    spread = max(count for _, count in columns)
    title = f"memory on each GPU, GiB, {spread} of them by each launcher (docs/memory.md)"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name, _ in columns:
        table.add_column("1 GPU" if name == "single" else name, justify="right", no_wrap=True)
    for part in PARTS:
        table.add_row(part.replace("_", " "), *(_gib(found[column], part) for column in columns))
    console.print(table)
    if recipe.training.use_vllm and recipe.training.vllm_mode == "colocate":
        console.print(f"  and vLLM's share of each GPU: {recipe.training.vllm_gpu_memory_utilization:.0%}")
    available = device_memory()
    if available is not None and all(item.total > available for item in found.values()):
        console.print(f"  that is more than this GPU has, {available / GIB:.1f} GiB: docs/memory.md")


def _gib(found: MemoryEstimate, part: str) -> str:
    return f"{getattr(found, part) / GIB:.2f}"
