"""Training a recipe's policy with TRL's trainer."""

import gc
import importlib.util
import shutil
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from transformers import PrinterCallback, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from trl import ModelConfig, get_peft_config

from aapo.backends import TrainingJob
from aapo.backends.trl.adapters import REFERENCE_ADAPTER
from aapo.backends.trl.config import refusals, trainer_config
from aapo.backends.trl.recorder import Budget, NothingLeft, Recorder
from aapo.backends.trl.trainer import AAPOTrainer
from aapo.checkpoints import newest_whole, step_of
from aapo.engines.folder import ANEW
from aapo.engines.loading import not_finite
from aapo.engines.vllm import generation_fields
from aapo.errors import InputError
from aapo.files import naming_full_disk
from aapo.progress import console, progress
from aapo.ranks import launched
from aapo.recipe import Recipe
from aapo.stopping import Stop
from aapo.watching import is_ending

# Where metrics go, of which we have an extra.
REPORTING_EXTRAS = ("tensorboard", "trackio", "wandb")


def check_recipe(recipe: Recipe) -> None:
    """Check the settings that only TRL and Transformers know.

    Raises:
        InputError: They refuse one, in their words; or what a setting needs is not installed.
    """
    args = trainer_config(recipe)
    if args.use_vllm and not importlib.util.find_spec("vllm"):
        raise InputError("use_vllm is true and needs vllm; pip install 'aapo[vllm]'")
    if args.use_vllm:
        generation_fields(args.sampling)
    for name in {*(args.report_to or ())} - {*get_available_reporting_integrations()}:
        package = f"'aapo[{name}]'" if name in REPORTING_EXTRAS else name
        raise InputError(f"report_to is {name}, which is not installed; pip install {package}")
    with refusals():  # a schedule is otherwise made at the first step
        optimizer = torch.optim.SGD([torch.zeros(1)])
        kwargs: Any = args.lr_scheduler_kwargs
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, kwargs)


def train_policy(job: TrainingJob) -> bool:
    """Train from the newest whole checkpoint and save the model; whether Ctrl-C ended it early."""
    recipe, run, ranks = job.recipe, job.run, launched()
    checkpoint = newest_whole(run.checkpoints, console.print if ranks.is_main else lambda line: None)
    limit = trainer_config(recipe).save_total_limit
    args = trainer_config(
        recipe,
        output_dir=str(run.checkpoints),
        rollouts_dir=str(run.samples),
        save_total_limit=None,  # the recorder removes old ones, once the new one is marked
        model_init_kwargs=dict(job.model_options),
    )
    reads_margin = args.objective.needs_reference and args.reference == "bank"
    with refusals():
        trainer = AAPOTrainer(
            model=job.model,
            reward_funcs=recipe.reward_funcs,
            args=args,
            train_dataset=job.prompts,
            eval_dataset=job.held_out,
            processing_class=job.tokenizer,
            reference_bank=job.bank if reads_margin or args.chooses_by_bank else None,
            grow_bank=job.grow_bank,
            whole_bank=job.whole_bank,
            peft_config=get_peft_config(ModelConfig(**asdict(recipe.model))),
        )
    if (name := not_finite(trainer.model)) is not None:
        raise InputError(f"the weights {name} of {job.model} are not finite, so nothing it says counts; {ANEW}")
    trainer.remove_callback(PrinterCallback)
    if ranks.is_main:
        run.update_manifest(rollouts=trainer.engine())
    done = step_of(checkpoint) if checkpoint else 0
    if checkpoint:
        trainer.args.eval_on_start = False  # it would be another evaluation of the checkpoint's step
    if checkpoint and ranks.is_main:
        console.print(f"going on from step {done}")
    if ranks.is_main and run.has_torn_line():
        console.print(f"{run.metrics_file}: its last line was cut short and is left out")
    with (
        naming_full_disk(run.checkpoints),
        progress(f"{args.algorithm} training", job.num_steps, start=done, visible=ranks.is_main) as update,
        Stop(_tell_stop) as stop,
    ):
        recorder = Recorder(
            run,
            update,
            stop,
            Budget(recipe.run.max_generated_tokens, recipe.run.max_training_seconds, recipe.run.bank_cost_share),
            limit,
        )
        trainer.add_callback(recorder)
        with suppress(NothingLeft):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if recorder.interrupted:
        return True
    if stop.asked is not None:  # after the last step, where the others need not have seen it
        raise KeyboardInterrupt(stop.asked)
    _save(trainer, job)
    ranks.wait()
    trainer.stop_sampler()
    # The patched model refers to itself: without a collection its memory would stay taken during the evaluation.
    del trainer
    gc.collect()
    torch.cuda.empty_cache()
    return False


def _save(trainer: AAPOTrainer, job: TrainingJob) -> None:
    """Save the trained model and its tokenizer, whole or not at all; called by all processes."""
    run, is_main = job.run, launched().is_main
    partial = run.path / ".model.tmp"
    with naming_full_disk(run.model):
        trainer.save_model(str(partial))
        if is_main:
            job.tokenizer.save_pretrained(partial)
    if is_main:
        shutil.rmtree(partial / REFERENCE_ADAPTER, ignore_errors=True)  # which PEFT saves beside the trained one
        shutil.rmtree(run.model, ignore_errors=True)
        partial.replace(run.model)


def _tell_stop(signal: str) -> None:
    if not is_ending():
        console.print(f"{signal}: stopping after this step and saving a checkpoint; once more stops at once.")
