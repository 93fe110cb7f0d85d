"""Run a recipe: base model, prompts, reference bank, training, evaluation; every part reused where it exists."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback
from trl import get_peft_config, get_quantization_config

from aapo.base import WarmupState, base_path, build_base
from aapo.errors import InputError
from aapo.evaluation import Evaluation, evaluate, save_evaluations
from aapo.progress import console, progress
from aapo.reference import BankIdentity, ReferenceBank, bank_identity
from aapo.runs import RunDirectory, cache_folder
from aapo.sampling import (
    SamplingSettings,
    TransformersEngine,
    load_model,
    load_tokenizer,
    model_identity,
    tokenizer_identity,
)
from aapo.tasks import limit_prompts, load_prompts
from aapo.training.recipe import Recipe
from aapo.training.recorder import Recorder, newest_checkpoint
from aapo.training.trainer import AAPOTrainer

# A checkpoint holds the weights and two Adam moments; two are kept, a third is being written, and the final model.
WEIGHT_COPIES = 10
SLACK_BYTES = 200 * 2**20


@dataclass(frozen=True)
class TrainingResult:
    """Where a run went, and whether Ctrl-C ended it."""

    run: RunDirectory
    evaluations: list[Evaluation]
    interrupted: bool


def model_path(recipe: Recipe) -> str:
    """Folder or Hub name of the model that training starts from; a base model's folder may not exist yet."""
    if recipe.base_model is None:
        assert recipe.model.model_name_or_path is not None
        return recipe.model.model_name_or_path
    return str(base_path(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length))


def prepare_model(recipe: Recipe) -> str:
    """`model_path`, after making the base model if the recipe asks for one and the cache lacks it."""
    path, state = model_path(recipe), PartialState()
    if recipe.base_model is None or Path(path).exists():
        return path
    if state.is_main_process:
        steps = recipe.base_model.warmup_max_steps
        with progress("base model", steps) as update:

            def show(warmup: WarmupState) -> None:
                update(warmup.step, f"loss {warmup.loss:.2f}  sampled accuracy {warmup.accuracy:.2f}")

            build_base(recipe.base_model, recipe.data, recipe.training.sampling.max_completion_length, show)
    state.wait_for_everyone()
    return path


def model_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `from_pretrained` that the recipe sets."""
    options: dict[str, Any] = {"dtype": recipe.model.dtype, "attn_implementation": recipe.model.attn_implementation}
    return {**options, **(recipe.training.model_init_kwargs or {})}  # type: ignore[dict-item]


def training_prompts(recipe: Recipe, tokenizer: Any) -> Dataset:
    """The recipe's training prompts, none over the token limit."""
    rows = load_prompts(recipe.data, "train")
    return limit_prompts(rows, tokenizer, recipe.data.max_prompt_length, drop=recipe.data.drop_long_prompts)


def identity_of_bank(recipe: Recipe, tokenizer: Any) -> BankIdentity:
    """The identity of the bank that the recipe needs."""
    return bank_identity(
        model=model_identity(*_reference(recipe)),
        tokenizer=tokenizer_identity(tokenizer),
        sampling=recipe.training.sampling.describe(),
        reward_funcs=recipe.reward_funcs,
        num_samples=recipe.run.num_reference_samples,
        seed=recipe.run.reference_seed,
    )


def bank_path(recipe: Recipe, identity: BankIdentity) -> Path:
    """The bank that the recipe names, or the cache's place for its identity."""
    if recipe.run.reference_bank is not None:
        return Path(recipe.run.reference_bank)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "banks" / digest


def prepare_bank(recipe: Recipe, prompts: Dataset, tokenizer: Any, output: Path | None = None) -> ReferenceBank:
    """The recipe's bank with all of `prompts`: opened, completed or built.

    A bank that the recipe names is only read: one that lacks prompts is an error when it is attached.

    Args:
        recipe: Says what to sample.
        prompts: Training prompts.
        tokenizer: The model's.
        output: Folder to build in; the cache's by default.
    """
    identity = identity_of_bank(recipe, tokenizer)
    if recipe.run.reference_bank is not None and output is None:
        bank = ReferenceBank.open(recipe.run.reference_bank)
        bank.require(identity)
        return bank
    path, state = output or bank_path(recipe, identity), PartialState()
    engine = _LazyEngine(recipe, tokenizer)
    total = len(prompts) * recipe.run.num_reference_samples
    with progress("reference bank", -(-total // state.num_processes), visible=state.is_main_process) as update:
        return ReferenceBank.build(
            path,
            prompts,
            engine,
            recipe.reward_funcs,
            identity,
            template_options=recipe.training.template_options,
            on_batch=lambda done, todo: update(done, f"of {todo}"),
            rank=state.process_index,
            num_ranks=state.num_processes,
            barrier=state.wait_for_everyone,
        )


def train(recipe: Recipe, output: Path, *, resume: bool = False) -> TrainingResult:
    """Run the recipe into the folder `output`.

    Args:
        recipe: What to run.
        output: The run directory; new, or with `resume` that of the run to go on with.
        resume: Go on from the newest whole checkpoint.

    Raises:
        InputError: The folder holds another run, or something the recipe names is missing or does not match.
        AapoError: Something failed while running.
    """
    run, state = RunDirectory(output), PartialState()
    check_output(run, recipe, resume=resume)
    path = prepare_model(recipe)
    _check_space(output, path)
    if state.is_main_process and not resume:
        run.write_recipe(recipe.resolved())
    tokenizer = load_tokenizer(path, recipe.model.model_revision)
    prompts = training_prompts(recipe, tokenizer)
    bank = prepare_bank(recipe, prompts, tokenizer) if recipe.uses_bank else None
    if state.is_main_process:
        run.write_manifest(**_facts(recipe, path, bank, prompts))
    interrupted = _train(recipe, run, path, tokenizer, prompts, bank)
    if interrupted:
        return TrainingResult(run, [], True)
    evaluations = evaluate_run(recipe, run, path)
    return TrainingResult(run, evaluations, False)


def check_output(run: RunDirectory, recipe: Recipe, *, resume: bool) -> None:
    """Check that the folder can be this recipe's run directory.

    Raises:
        InputError: It holds another run, something else, or a run that `resume` was not asked for.
    """
    if run.recipe_file.exists():
        stored = run.recipe()["fields"]
        if not resume:
            raise InputError(
                f"{run.path} holds another run; choose another --output_dir, or add --resume to go on with that run"
            )
        changed = sorted(
            key
            for key in set(stored) | set(recipe.given)
            if stored.get(key) != recipe.given.get(key) and key != "output_dir"
        )
        if changed:
            pairs = "; ".join(f"{key}: run has {stored.get(key)}, asked is {recipe.given.get(key)}" for key in changed)
            raise InputError(f"{run.path} is a run of other settings ({pairs}); resume it with its own settings")
        return
    if resume:
        raise InputError(f"{run.path} has no run to resume; leave --resume out, or name a run directory")
    if run.path.exists() and any(run.path.iterdir()):
        raise InputError(f"{run.path} is not empty and not a run directory; choose another --output_dir")
    PartialState().wait_for_everyone()  # before the first process writes into the folder that the others look at


def _train(
    recipe: Recipe, run: RunDirectory, path: str, tokenizer: Any, prompts: Dataset, bank: ReferenceBank | None
) -> bool:
    """Train and save the model; whether Ctrl-C ended it early."""
    args = recipe.training
    held_out = load_prompts(recipe.data, "test") if args.eval_strategy != "no" else None
    args.output_dir, args.rollouts_dir = str(run.checkpoints), str(run.samples)
    quantization = get_quantization_config(recipe.model)
    args.model_init_kwargs = {**model_options(recipe), "revision": recipe.model.model_revision}
    trainer = AAPOTrainer(
        model=path,
        reward_funcs=recipe.reward_funcs,
        args=args,
        train_dataset=prompts,
        eval_dataset=held_out,
        processing_class=tokenizer,
        reference_bank=bank,
        peft_config=get_peft_config(recipe.model),
        **({"quantization_config": quantization} if quantization else {}),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_checkpoint(run.checkpoints) if run.checkpoints.exists() else None
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    total = planned_steps(recipe, len(prompts))
    main = PartialState().is_main_process
    if checkpoint and main:
        console.print(f"going on from step {done}")
    with progress(f"{args.algorithm} training", total, start=done, visible=main) as update:
        recorder = Recorder(run, update)
        trainer.add_callback(recorder)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if recorder.interrupted:
        return True
    trainer.save_model(str(run.model))
    tokenizer.save_pretrained(run.model)
    return False


def planned_steps(recipe: Recipe, num_prompts: int) -> int:
    """Optimizer steps of the whole training."""
    args = recipe.training
    if args.max_steps > 0:
        return args.max_steps
    assert args.num_generations and args.generation_batch_size and args.steps_per_generation
    batches = num_prompts // (args.generation_batch_size // args.num_generations)
    steps = batches * args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
    return int(steps * args.num_train_epochs)


def evaluate_run(recipe: Recipe, run: RunDirectory, path: str) -> list[Evaluation]:
    """Evaluate the model before and after training on the held-out prompts and store the results."""
    if recipe.data.num_eval_prompts == 0:
        return []
    prompts = load_prompts(recipe.data, "test")
    task = (recipe.data.dataset_name or "").removeprefix("reasoning_gym:")
    models = {"base": path, "trained": str(run.model)}
    evaluations = [_evaluate(recipe, name, task, source, prompts) for name, source in models.items()]
    if PartialState().is_main_process:
        save_evaluations(run.evaluation, evaluations)
    return evaluations


def _evaluate(recipe: Recipe, name: str, task: str, source: str, prompts: Dataset) -> Evaluation:
    """One model on the held-out prompts, each process a share of them."""
    state = PartialState()
    engine = make_engine(recipe, source, load_tokenizer(source), recipe.eval_sampling)
    mine = prompts.select(range(state.process_index, len(prompts), state.num_processes))
    total, done = len(mine) * recipe.run.eval_num_samples, 0
    with progress(f"evaluating {name}", total, visible=state.is_main_process) as update:

        def count(finished: int) -> None:
            nonlocal done
            done += finished
            update(done, "")

        part = evaluate(
            name,
            task,
            mine,
            engine,
            recipe.reward_funcs[0],
            num_samples=recipe.run.eval_num_samples,
            seed=recipe.run.eval_seed,
            on_batch=count,
        )
    scored = gather_object(part.scored) if state.num_processes > 1 else part.scored
    scored.sort(key=lambda item: item.prompt.key)
    return Evaluation(part.model, part.task, part.success, scored, part.num_samples)


def make_engine(recipe: Recipe, source: str, tokenizer: Any, settings: SamplingSettings) -> TransformersEngine:
    """A sampling engine for the model at `source` on this process's device."""
    model = load_model(source, **model_options(recipe)).to(PartialState().device)  # type: ignore[arg-type]
    return TransformersEngine(model, tokenizer, settings, recipe.run.generation_batch_limit)


class _LazyEngine:
    """The reference model's engine, loaded when the first prompt is sampled: a complete bank needs no model."""

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self._engine: TransformersEngine | None = None

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if self._engine is None:
            source = _reference(self.recipe)[0]
            self._engine = make_engine(self.recipe, source, self.tokenizer, self.recipe.training.sampling)
        return self._engine.generate(*args, **kwargs)


def _reference(recipe: Recipe) -> tuple[str, str | None]:
    """Name and revision of the frozen reference model."""
    if recipe.run.reference_model_name_or_path is not None:
        return recipe.run.reference_model_name_or_path, recipe.run.reference_model_revision
    return model_path(recipe), recipe.model.model_revision


def _facts(recipe: Recipe, path: str, bank: ReferenceBank | None, prompts: Dataset) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "algorithm": recipe.training.algorithm,
        "seed": recipe.training.seed,
        "model": {"name_or_path": path, **model_identity(path, recipe.model.model_revision)},
        "dataset": recipe.data.dataset_name,
        "num_train_prompts": len(prompts),
        "reference_bank": None if bank is None else {"path": str(bank.path), "identity": bank.identity},
        "num_processes": PartialState().num_processes,
    }


def _check_space(output: Path, model: str) -> None:
    """Refuse to start a run that cannot be written."""
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(existing).free, WEIGHT_COPIES * weights + SLACK_BYTES
    if free < needed:
        raise InputError(
            f"no disk space: {existing} has {free / 2**30:.2f} GiB free and the run writes about {needed / 2**30:.2f} "
            "GiB; free some or choose another --output_dir"
        )


def default_output(recipe: Recipe) -> Path:
    """`runs/NAME-DATE-TIME`, for a run that names no output_dir."""
    return Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
