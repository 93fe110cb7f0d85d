"""Run a recipe: base model, prompts, reference bank, training, evaluation; every part reused where it exists."""

import re
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aapo.backends import TrainingJob, load_backend
from aapo.bank import Growth
from aapo.engines import model_identity
from aapo.errors import FullDiskError, InputError
from aapo.evaluation import (
    Evaluation,
    Task,
    difference_rows,
    evaluate,
    result_rows,
    save_results,
)
from aapo.files import check_folder, remove_leftovers
from aapo.grading import reward_name
from aapo.progress import console
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.runs import RunDirectory
from aapo.scoring import as_prompts
from aapo.training.bank_report import BankReport
from aapo.training.banks import RecipeBank, cost_line
from aapo.training.held_out import held_out_task, recipe_protocol
from aapo.training.models import (
    check_cache,
    check_room,
    model_spec,
    prepare_model,
    sampler,
    sampler_options,
    training_options,
    trains_adapter,
)
from aapo.training.preflight import preflight
from aapo.training.prompts import CheckedPrompts, by_pass_rate, checked_prompts, loaded_prompts
from aapo.training.schedule import planned_prompts, planned_rollouts, planned_steps

# A checkpoint holds the weights and two Adam moments of the same size.
COPIES_PER_CHECKPOINT = 3
SLACK_BYTES = 200 * 2**20
RUNS = Path("runs")


@dataclass(frozen=True)
class TrainingResult:
    """Where a run went, and whether Ctrl-C ended it."""

    run: RunDirectory
    evaluations: list[Evaluation]
    interrupted: bool


def train(recipe: Recipe, output: Path, *, resume: bool = False, show_samples: bool = False) -> TrainingResult:
    """Run the recipe into the folder `output`.

    Args:
        recipe: What to run.
        output: The run directory; new, or with `resume` that of the run to go on with.
        resume: Go on from the newest whole checkpoint.
        show_samples: Print three samples of the reference bank before the first step.

    Raises:
        InputError: The folder holds another run, something the recipe names is missing or does not match, or the bank
            says that nothing can be learnt.
        AapoError: Something failed while running.
    """
    run, backend = RunDirectory(output), load_backend(recipe.run.backend)
    backend.check_recipe(recipe)
    check_output(run, recipe, resume=resume)
    try:
        return _train(recipe, run, backend, resume=resume, show_samples=show_samples)
    except Exception as error:
        # Where nothing was trained the folder is free for the command as it is mended; a disk that was full is not.
        if launched().is_main and not (resume or run.begun or isinstance(error, (OSError, FullDiskError))):
            run.discard()
        raise


def _train(recipe: Recipe, run: RunDirectory, backend: Any, *, resume: bool, show_samples: bool) -> TrainingResult:
    """`train`, once the folder is known to be the recipe's."""
    ranks = launched()
    if ranks.is_main and (line := batch_line(recipe)):
        console.print(line)
    path = prepare_model(recipe)
    _check_space(recipe, run.path, path)
    tokenizer = model_spec(recipe, path, recipe.model.model_revision).load_tokenizer()
    checked = checked_prompts(recipe, tokenizer)
    held_out = loaded_prompts(recipe, "test") if recipe.data.num_eval_prompts else None
    asked = () if held_out is None else as_prompts(held_out, tokenizer, **recipe.training.template_options)
    check_room(recipe, [*checked.prompts, *asked])
    if ranks.is_main:
        remove_leftovers(run.path)
    if ranks.is_main and not resume:
        run.write_recipe(recipe.resolved())
    if ranks.is_main:
        names = [reward_name(function) for function in recipe.reward_funcs]
        judge = recipe.training.judgement
        for note in (*checked.notes(), *([] if judge.known(names) else [f"right answers: {judge.describe(names)}"])):
            console.print(note)
        checked.write_unparseable(run.unparseable_golds)
    source = RecipeBank(recipe, tokenizer) if recipe.uses_bank else None
    earlier = _added_before(run) if resume else Growth()
    bank, needed = None, [checked.prompts[place] for place in planned_prompts(recipe, len(checked.prompts))]
    num_rollouts = planned_rollouts(recipe, len(checked.prompts))
    if source is not None:
        bank = source.grow(needed)
        source.close()
    if source is not None and needed and ranks.is_main:
        added, wanted = source.grown.samples, len({prompt.key for prompt in needed}) * source.num_samples
        console.print(f"reference bank {cost_line(added, wanted - added, num_rollouts)}")
    if bank is not None and recipe.filters_prompts:
        checked = by_pass_rate(recipe, bank, checked)
    forecast = None
    if bank is not None and recipe.run.preflight != "off":
        forecast = preflight(recipe, bank, checked.prompts, show_samples=show_samples, may_stop=not resume)
    if ranks.is_main:
        run.write_manifest(**_facts(recipe, path, source, earlier, checked, forecast))
    job = TrainingJob(
        recipe,
        run,
        path,
        training_options(recipe),
        tokenizer,
        checked.rows,
        held_out if recipe.training.eval_strategy != "no" else None,
        bank,
        None if source is None else partial(source.grow, beside_trainer=True),
        [prompt.key for prompt in needed] if recipe.reads_whole_bank else [],
        planned_steps(recipe, len(checked.prompts)),
    )
    planned = None if source is None else source.grown
    interrupted = backend.train_policy(job)
    if source is not None:
        source.close()
        if source.grown != planned and ranks.is_main:
            console.print(f"reference bank in all {cost_line(source.grown.samples, None, num_rollouts)}")
    if ranks.is_main:
        run.update_manifest(**_facts(recipe, path, source, earlier, checked, forecast))
    if interrupted:
        return TrainingResult(run, [], True)
    evaluations = evaluate_run(recipe, run, path, held_out_task(recipe)) if held_out is not None else []
    return TrainingResult(run, evaluations, False)


def batch_line(recipe: Recipe) -> str | None:
    """How the batch is kept on another number of processes than it is meant for; None on as many."""
    args, count = recipe.training, launched().count
    if args.num_processes == count:
        return None
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps * count
    return (
        f"the batch is that of {args.num_processes} processes: its {size} completions a step are "
        f"per_device_train_batch_size {args.per_device_train_batch_size} x gradient_accumulation_steps "
        f"{args.gradient_accumulation_steps} x {count} processes"
    )


def check_output(run: RunDirectory, recipe: Recipe, *, resume: bool) -> None:
    """Check that the folder can be this recipe's run directory.

    Raises:
        InputError: It holds another run, something else, or a run that `resume` was not asked for; or it cannot be
            written to, or the cache cannot.
    """
    check_folder(run.path, "output_dir")
    check_cache(recipe)
    if run.recipe_file.exists():
        batch = {"num_processes": recipe.training.num_processes}
        stored, asked = {**batch, **run.recipe()["fields"]}, {**recipe.given, **batch}
        if not resume:
            raise InputError(
                f"{run.path} holds another run; choose another --output_dir, or add --resume to go on with that run"
            )
        changed = sorted(
            key for key in set(stored) | set(asked) if stored.get(key) != asked.get(key) and key != "output_dir"
        )
        if changed:
            pairs = "; ".join(f"{key}: run has {stored.get(key)}, asked is {asked.get(key)}" for key in changed)
            raise InputError(f"{run.path} is a run of other settings ({pairs}); resume it with its own settings")
        return
    if resume:
        raise InputError(f"{run.path} has no run to resume; leave --resume out, or name a run directory")
    if run.path.exists() and any(not file.name.startswith(".") for file in run.path.iterdir()):  # see remove_leftovers
        raise InputError(f"{run.path} is not empty and not a run directory; choose another --output_dir")
    launched().wait()  # before the first process writes into the folder that the others look at


def evaluate_run(recipe: Recipe, run: RunDirectory, path: str, task: Task) -> list[Evaluation]:
    """Evaluate the model before and after training on the held-out prompts and store the results."""
    protocol = recipe_protocol(recipe)
    before = model_spec(recipe, path, recipe.model.model_revision, "base")
    after = model_spec(recipe, str(run.model), name="trained")
    engine = sampler(recipe)
    options = sampler_options(recipe, engine)
    evaluations = evaluate(
        [before, after], task, protocol, engine=engine, seed=recipe.run.eval_seed, batch_size=options.pop("batch_size"),
        engine_options=options,
    )  # fmt: skip
    if launched().is_main:
        differences = difference_rows(evaluations[1:], evaluations[:1])
        save_results(run.evaluation, evaluations, result_rows(evaluations), differences, protocol.describe())
    return evaluations


def _added_before(run: RunDirectory) -> Growth:
    """What the part of a run that is resumed has added to its bank."""
    known = run.manifest().get("reference_bank") if run.manifest_file.exists() else None
    return Growth(**known["added"]) if known else Growth()


def _facts(
    recipe: Recipe,
    path: str,
    bank: RecipeBank | None,
    earlier: Growth,
    checked: CheckedPrompts,
    forecast: BankReport | None,
) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "algorithm": recipe.training.algorithm,
        "seed": recipe.training.seed,
        "model": {"name_or_path": path, **model_identity(path, recipe.model.model_revision)},
        "dataset": recipe.data.dataset_name,
        "num_train_prompts": len(checked.prompts),
        **checked.describe(),
        "reference_bank": None
        if bank is None
        else {
            "path": str(bank.path),
            "identity": bank.identity,
            "num_samples": bank.num_samples,
            "added": asdict(earlier + bank.grown),
        },
        "preflight": None if forecast is None else forecast.describe(),
        "num_processes": launched().count,
    }


def _check_space(recipe: Recipe, output: Path, model: str) -> None:
    """Refuse to start a run that cannot be written."""
    free, needed = free_space(output), space_needed(recipe, model)
    if free < needed:
        raise InputError(
            f"no disk space: {output} has {free / 2**30:.2f} GiB free and the run writes about {needed / 2**30:.2f} "
            "GiB; free some or choose another --output_dir"
        )


def free_space(folder: Path) -> int:
    """Bytes that can be written into a folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def space_needed(recipe: Recipe, model: str) -> float:
    """Bytes that a run writes: the kept checkpoints, one being written and the final model, in copies of the weights.

    LoRA writes next to nothing, and the size of a Hub model is not known here.
    """
    args = recipe.training
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    checkpoints = 0 if args.save_strategy == "no" else (args.save_total_limit or 2) + 1
    copies = 0 if trains_adapter(recipe) else 1 + checkpoints * (1 if args.save_only_model else COPIES_PER_CHECKPOINT)
    return copies * weights + SLACK_BYTES


def default_output(name: str) -> Path:
    """`runs/NAME-DATE-TIME`, for a run that names no output_dir."""
    return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def newest_run(name: str) -> Path:
    """The newest run of the recipe of this name that named no output_dir.

    Raises:
        InputError: There is none.
    """
    form = re.compile(re.escape(name) + r"-\d{8}-\d{6}")  # NAME-lora begins with NAME, too
    runs = [path for path in RUNS.glob("*/recipe.yaml") if form.fullmatch(path.parent.name)]
    if not runs:
        raise InputError(f"there is no run of {name} in {RUNS}/ to resume; name its folder with --output_dir")
    return max(runs).parent
