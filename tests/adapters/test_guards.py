"""A run that says that it trains trains: weights move, numbers are finite, tags that a prompt holds count."""

import json
import logging
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.backends.trl.checks import check_launch
from aapo.backends.trl.config import trainer_config
from aapo.backends.trl.guards import MOVED, NUM_STEPS
from aapo.backends.trl.scoring import ScoringTrainer
from aapo.cli.app import run as aapo
from aapo.engines import load_model, load_tokenizer
from aapo.errors import AapoError, InputError
from aapo.grading import accuracy
from aapo.recipe import resolve
from aapo.runs import RunDirectory
from aapo.training.models import training_options


def evenness(completion_ids, **columns):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def config(path, **changes):
    settings = {
        "output_dir": str(path), "num_generations": 4, "per_device_train_batch_size": 8, "max_steps": NUM_STEPS + 2,
        "max_completion_length": 6, "learning_rate": 1e-6, "lr_scheduler_type": "constant", "bf16": True,
        "activation_checkpointing": False, "report_to": "none", "logging_steps": 1, "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "seed": 3, "algorithm": "grpo",
    }  # fmt: skip
    return AAPOConfig(**{**settings, **changes})


def trained(folder, path, data, *, rewards=evenness, dtype=torch.float32, model=None, callbacks=(), **changes):
    trainer = AAPOTrainer(
        model=model or load_model(str(folder), dtype=dtype), reward_funcs=rewards, args=config(path, **changes),
        train_dataset=data, processing_class=load_tokenizer(str(folder)), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.train()
    return trainer


def test_float32_weights_move_at_small_learning_rates_and_16_bits_are_warned_of(
    tiny_folder, tmp_path, addition, caplog
):
    masters = trained(tiny_folder, tmp_path, addition)
    shares = [row[MOVED] for row in masters.state.log_history if MOVED in row]
    assert len(shares) == NUM_STEPS and shares[-1] > 0.99
    assert "weights have moved" not in caplog.text
    plain = trained(tiny_folder, tmp_path, addition, dtype=torch.bfloat16)
    shares = [row[MOVED] for row in plain.state.log_history if MOVED in row]
    assert shares[-1] < 0.5
    assert caplog.text.count("of the trained weights have moved in 10 steps") == 1
    assert "updates of learning_rate 1e-06 are lost in bfloat16" in caplog.text


def test_a_control_that_must_not_move_is_not_warned_of(tiny_folder, tmp_path, addition, caplog):
    trainer = trained(tiny_folder, tmp_path, addition, learning_rate=0.0)
    assert "weights have moved" not in caplog.text and not any(MOVED in row for row in trainer.state.log_history)


GIVEN = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0}


@pytest.mark.parametrize(
    ("fields", "launched", "dtype"),
    [
        ({"dtype": "bfloat16", "bf16": True}, None, "float32"),
        ({"dtype": "float16", "fp16": True, "bf16": False}, None, "float32"),
        ({"dtype": "auto", "bf16": True}, None, "float32"),
        ({"dtype": "float32"}, None, "float32"),
        ({"dtype": "bfloat16", "bf16": True, "use_peft": True}, None, "bfloat16"),  # the adapters are float32
        ({"dtype": "bfloat16", "bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}, None, "bfloat16"),
        ({"dtype": "bfloat16", "bf16": True}, "ACCELERATE_USE_DEEPSPEED", "bfloat16"),  # which keep their own
        ({"dtype": "bfloat16", "bf16": True}, "ACCELERATE_USE_FSDP", "bfloat16"),
    ],
)
def test_what_is_trained_is_loaded_in_float32_unless_the_launcher_keeps_masters(fields, launched, dtype, monkeypatch):
    recipe = resolve("mine", {**GIVEN, **fields, "use_cpu": True})
    if launched:
        monkeypatch.setenv(launched, "true")
    assert training_options(recipe)["dtype"] == dtype


@pytest.mark.parametrize(("kind", "runs"), [("FSDP", "MULTI_CPU"), ("DEEPSPEED", "NO"), ("FSDP", "MULTI_GPU")])
def test_a_launcher_that_takes_no_effect_is_refused(kind, runs, monkeypatch):
    trainer = SimpleNamespace(accelerator=SimpleNamespace(distributed_type=DistributedType(runs)))
    check_launch(trainer)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(InputError, match=f"accelerate launch was asked for {kind} and runs {runs}, where"):
        check_launch(trainer)
    trainer.accelerator.distributed_type = DistributedType(kind)
    check_launch(trainer)


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([[1.0, 0.4, 0.0], [0.5, 0.3, 2.9]], 2 / 5),  # the last token of the first is padding
        ([[0.0], [2.9]], 2 / 5),  # a completion that is left out, of two tokens
    ],
)
def test_the_share_of_tokens_that_weigh_next_to_nothing_is_logged(weights, share):
    args = AAPOConfig(use_cpu=True, bf16=False)
    assert (args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max) == ("token_truncate", 3.0)
    trainer = SimpleNamespace(args=args, _metrics={"train": defaultdict(list)})
    ScoringTrainer._log_lost_tokens(trainer, torch.tensor(weights), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert trainer._metrics["train"]["sampling/lost_token_frac"] == [pytest.approx(share)]


def test_weights_of_16_bits_are_not_trained_without_mixed_precision():
    with pytest.raises(InputError, match="dtype is bfloat16 and bf16 false, so weights would be trained in 16 bits"):
        resolve("mine", {**GIVEN, "dtype": "bfloat16", "bf16": False})
    resolve("mine", {**GIVEN, "dtype": "bfloat16", "bf16": False, "use_peft": True})


@pytest.fixture
def recipe(tiny_folder, tmp_path, monkeypatch, cache):
    """A recipe on the tiny model in 16 bits, in a folder with reward functions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "calls = []\n"
        "def late(completion_ids, **columns):\n"
        "    calls.append(1)\n"
        "    bad = len(calls) > 3\n"
        "    return [float('inf') if bad and i == 2 else float(sum(ids) % 2) for i, ids in enumerate(completion_ids)]\n"
        "def even(completion_ids, **columns):\n"
        "    return [float(sum(ids) % 2) for ids in completion_ids]\n"
        "def flat(completion_ids, **columns):\n"
        "    return [0.25] * len(completion_ids)\n"
    )
    rows = [{"question": f"Calculate {n} + {n}.", "answer": str(2 * n)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = [
        "train", f"--model_name_or_path={tiny_folder}", "--dataset_name=rows.jsonl", "--num_eval_prompts=0",
        "--num_generations=4", "--per_device_train_batch_size=8", "--max_completion_length=6", "--use_cpu=true",
        "--activation_checkpointing=false", "--algorithm=grpo", "--save_steps=1", "--seed=1",
    ]  # fmt: skip
    (tmp_path / "empty.yaml").write_text("{}\n")

    def command(*flags):
        given = {flag.partition("=")[0] for flag in flags}
        rest = [field for field in fields[1:] if field.partition("=")[0] not in given]
        return [fields[0], "empty.yaml", *rest, "--output_dir", "run", *flags]

    return command


def test_a_recipe_in_16_bits_trains_and_samples_its_bank_in_them(recipe):
    flags = ("--dtype=bfloat16", "--learning_rate=1e-6", "--max_steps=11", "--reward_funcs=mine.py:even")
    assert aapo(recipe(*flags, "--algorithm=aapo", "--num_reference_samples=2")) == 0
    run = RunDirectory("run")
    assert [row[MOVED] for row in run.metrics() if MOVED in row][-1] > 0.99
    assert run.manifest()["reference_bank"]["identity"]["model"]["precision"] == "bfloat16"


def test_an_infinite_reward_ends_the_run_before_it_counts(recipe, capsys):
    assert aapo(recipe("--bf16=false", "--reward_funcs=mine.py:late", "--max_steps=8")) == 1
    said = capsys.readouterr().err
    assert (
        "reward function 'mine.py:late' failed" in said and "it returned inf; a reward must be a finite number" in said
    )
    run = RunDirectory("run")
    for line in run.metrics_file.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # which is called on NaN and Infinity
    assert len(run.metrics()) == 3 and not run.model.exists()
    kept = load_weights(run)
    assert len(kept) == 2 and all(torch.isfinite(weights).all() for weights in kept.values())


def load_weights(run):
    from safetensors.torch import load_file

    checkpoints = sorted(run.checkpoints.glob("checkpoint-*/model.safetensors"))
    return {path: torch.cat([tensor.flatten() for tensor in load_file(path).values()]) for path in checkpoints}


def test_an_infinite_reward_of_a_bare_function_is_named(tiny_folder, tmp_path, addition):
    def wild(completions, **columns):
        return [math.inf if i == 1 else 0.0 for i in range(len(completions))]

    with pytest.raises(
        AapoError, match="reward function wild returned inf for completion 2 of 8; a reward must be fin"
    ):
        trained(tiny_folder, tmp_path, addition, rewards=wild)


class Spoilt(TrainerCallback):
    """Makes one gradient infinite before the third optimizer step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 2}, {"max_grad_norm": 0.0}])
def test_an_infinite_gradient_ends_training_before_the_weights_change(tiny_folder, tmp_path, addition, changes):
    model = load_model(str(tiny_folder))
    weights = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))

    with pytest.raises(
        AapoError, match="the gradient's norm of step 3 is (nan|inf); training stops before the weights"
    ):
        trained(
            tiny_folder, tmp_path, addition, model=model, callbacks=[Spoilt(), Watch()], learning_rate=0.1,
            bf16=False, **changes,
        )  # fmt: skip
    now = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert len(weights) == 2 and torch.equal(now, weights[-1]) and not torch.equal(*weights)


def test_a_loss_that_is_not_finite_ends_training_before_its_gradient(tiny_folder, tmp_path, addition, monkeypatch):
    monkeypatch.setattr(
        "trl.GRPOTrainer.compute_loss",
        lambda self, model, inputs, **options: torch.tensor(math.nan, requires_grad=True),
    )
    with pytest.raises(AapoError, match="the loss of step 1 is nan"):
        trained(tiny_folder, tmp_path, addition)


def test_frozen_adapters_are_refused(tiny_folder, tmp_path, addition):
    model = get_peft_model(load_model(str(tiny_folder)), LoraConfig(r=2, target_modules="all-linear"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="the model has no weights to train: all are frozen"):
        trained(tiny_folder, tmp_path, addition, model=model)


def test_a_reward_that_is_the_same_for_the_whole_bank_is_said_before_training(recipe, capsys):
    flags = ("--bf16=false", "--reward_funcs=mine.py:even,mine.py:flat", "--reward_weights=1,1", "--max_steps=1")
    assert aapo(recipe(*flags, "--algorithm=aapo", "--num_reference_samples=2")) == 0
    said = capsys.readouterr().out
    assert "reward function flat pays 0.25 to all samples of the reference bank" in said
    assert "reward function even pays" not in said


def test_the_best_model_is_the_most_accurate_held_out(tiny_folder, tmp_path, addition):
    def judged(completion_ids, log_extra, **columns):
        log_extra("verdict/judged", [["wrong", "correct"][sum(ids) % 2] for ids in completion_ids])
        return [0.0] * len(completion_ids)

    options = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 6,
        "load_best_model_at_end": True, "per_device_eval_batch_size": 8, "learning_rate": 0.1, "bf16": False,
    }  # fmt: skip

    def train(**changes):
        trainer = AAPOTrainer(
            model=load_model(str(tiny_folder)), reward_funcs=[evenness, judged], train_dataset=addition,
            args=config(tmp_path, **{**options, **changes}), eval_dataset=addition,
            processing_class=load_tokenizer(str(tiny_folder)),
        )  # fmt: skip
        trainer.train()
        return trainer

    state = train().state
    shares = {row["step"]: row["eval_rollout/accuracy"] for row in state.log_history if "eval_rollout/accuracy" in row}
    assert set(shares) == {2, 4, 6} and state.best_metric == max(shares.values())
    with pytest.raises(
        InputError, match=r"metric_for_best_model is eval_acuracy.*, which the evaluation does not have"
    ):
        train(metric_for_best_model="acuracy")


THINKS = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)


def test_tags_that_the_prompt_holds_count_in_training_bank_and_evaluation(tiny_folder):
    from aapo.grading import REWARDS, format
    from aapo.records import Completion
    from aapo.scoring import as_prompt, score

    tokenizer = load_tokenizer(str(tiny_folder))
    tokenizer.chat_template = THINKS
    chat = [{"role": "system", "content": "Use <think></think>."}, {"role": "user", "content": "1 + 1?"}]
    prompt = as_prompt({"prompt": chat, "answer": "2"}, tokenizer)
    assert prompt.row["prompt_opening"] == "<think>\n"
    texts = ["sum\n</think>\n<answer>2</answer>", "<think>sum</think><answer>2</answer>", "2", ""]
    completions = [Completion(text, [1], "stop") for text in texts]
    rows = [prompt.row] * 4
    assert score([format], rows, completions).rewards["format"] == [1.0, 0.0, 0.0, 0.0]
    assert score([REWARDS["tag_count"]], rows, completions).rewards["tag_count"] == [1.0, 0.75, 0.25, 0.0]
    bare = [{**prompt.row, "prompt_opening": ""}] * 4
    assert score([format], bare, completions).rewards["format"] == [0.0, 1.0, 0.0, 0.0]
    # A prefill of one's own opens it as well, and a system prompt that speaks of tags opens nothing.
    plain = load_tokenizer(str(tiny_folder))
    assert as_prompt({"prompt": chat}, plain).row["prompt_opening"] == ""
    prefilled = [*chat, {"role": "assistant", "content": "<think>\nLet me see:"}]
    assert as_prompt({"prompt": prefilled}, plain).row["prompt_opening"] == "<think>\nLet me see:"


def test_a_thought_that_the_prompt_opened_and_nothing_closed_is_no_answer():
    from aapo.grading import REWARDS
    from aapo.records import Completion
    from aapo.scoring import score

    texts = ["It may be \\boxed{2}, but", "Sure.\n</think>\nIt is \\boxed{2}."]
    completions = [Completion(text, [1], "stop") for text in texts]
    for name in ("accuracy", "cosine", "len"):
        outcomes = []
        for opening in ("<think>\n", ""):
            rows = [{"prompt": "1 + 1?", "answer": "2", "prompt_opening": opening}] * 2
            outcomes.append(score([REWARDS[name]], rows, completions).notes[f"verdict/{name}"])
        assert outcomes == [["no_answer", "correct"], ["correct", "correct"]]


def test_the_trainer_gives_reward_functions_what_the_prompt_opens(tiny_folder, tmp_path, addition):
    openings = []

    def watch(completions, prompt_opening, **columns):
        openings.extend(prompt_opening)
        return [0.0] * len(completions)

    tokenizer = load_tokenizer(str(tiny_folder))
    tokenizer.chat_template = THINKS
    trainer = AAPOTrainer(
        model=load_model(str(tiny_folder)), reward_funcs=[watch, evenness], args=config(tmp_path, max_steps=1),
        train_dataset=addition, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert openings == ["<think>\n"] * 8


def test_a_template_that_closes_a_thought_before_the_prefill_opens_one_is_refused(tiny_folder):
    from aapo.scoring import as_prompt

    tokenizer = load_tokenizer(str(tiny_folder))
    # As Qwen3's template treats the last answer.
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "<think>\n"}]
    with pytest.raises(InputError, match="closes an empty thinking block before the prefill opens another"):
        as_prompt({"prompt": chat}, tokenizer)
    assert as_prompt({"prompt": chat[:1]}, tokenizer).row["prompt_opening"] == ""


@pytest.mark.parametrize(
    ("num_prompts", "fields", "rollouts"),
    [
        # Three epochs of two steps; a fifth prompt fills none.
        (5, {"gradient_accumulation_steps": 2, "steps_per_generation": 1}, 8 * 2 * 3),
        (4, {"gradient_accumulation_steps": 2, "steps_per_generation": 1, "max_steps": 3}, 4 * 6),
        (6, {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 3}, 8 * 2),
        (4, {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 3}, 8 * 2),
        (3, {"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_train_epochs": 1.5}, 8 * 2),
    ],
)
def test_planned_rollouts_are_those_that_are_drawn(tiny_folder, tmp_path, num_prompts, fields, rollouts):
    from aapo.training.run import planned_rollouts

    class Counting(AAPOTrainer):
        drawn = 0

        def _draw(self, model, prompt_ids, purpose, positions=None):
            self.drawn += len(prompt_ids)
            return super()._draw(model, prompt_ids, purpose, positions)

    recipe = resolve("mine", {
        **GIVEN, "num_generations": 4, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False,
        "algorithm": "grpo", "max_completion_length": 4, "reward_funcs": ["accuracy"], "save_strategy": "no",
        "activation_checkpointing": False, **fields,
    })  # fmt: skip
    recipe.training.output_dir = str(tmp_path)
    data = Dataset.from_list([{"prompt": f"{n}?", "answer": "1"} for n in range(num_prompts)])
    trainer = Counting(
        model=load_model(str(tiny_folder)), reward_funcs=recipe.reward_funcs, args=trainer_config(recipe),
        train_dataset=data, processing_class=load_tokenizer(str(tiny_folder)),
    )  # fmt: skip
    trainer.train()
    assert trainer.drawn == planned_rollouts(recipe, num_prompts) == rollouts


def test_planned_steps_are_transformers(tiny_folder, tmp_path):
    """Every batch arithmetic: Transformers' own number of steps for the trainer's own loader."""
    from aapo.training.schedule import planned_steps, prompts_of_a_batch

    logging.disable(logging.WARNING)
    try:
        checked = 0
        for num_prompts in (4, 5, 7):
            data = Dataset.from_list([{"prompt": f"{n}?", "answer": "1"} for n in range(num_prompts)])
            for per_device, accumulation, per_generation, iterations, epochs in (
                (4, 1, None, 1, 1), (4, 2, None, 1, 3), (2, 2, 4, 1, 2), (4, 3, 2, 1, 1), (4, 2, 1, 1, 1.5),
                (2, 4, 2, 2, 1), (4, 3, 6, 1, 1), (4, 4, 1, 3, 2), (4, 3, 1, 1, 0.5),
            ):  # fmt: skip
                fields = {
                    **GIVEN, "num_generations": 4, "per_device_train_batch_size": per_device, "use_cpu": True,
                    "gradient_accumulation_steps": accumulation, "num_iterations": iterations, "bf16": False,
                    "num_train_epochs": epochs, "algorithm": "grpo", "max_completion_length": 4,
                    "judge": "accuracy",
                }  # fmt: skip
                if per_generation is not None:
                    fields["steps_per_generation"] = per_generation
                recipe = resolve("mine", {**fields, "reward_funcs": ["accuracy"]})
                if num_prompts < prompts_of_a_batch(recipe):
                    continue
                recipe.training.output_dir = str(tmp_path)
                trainer = AAPOTrainer(
                    model=load_model(str(tiny_folder)), reward_funcs=recipe.reward_funcs, args=trainer_config(recipe),
                    train_dataset=data, processing_class=load_tokenizer(str(tiny_folder)),
                )  # fmt: skip
                steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
                assert planned_steps(recipe, num_prompts) == steps, fields
                checked += 1
        assert checked >= 20
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "prompts": "x"}] * 8, "the data set has the column 'prompts', a name under which"),
        ([{"prompt": "a", "completions": "x"}] * 8, "the data set has the column 'completions', a name under which"),
        ([{"question": "a"}] * 8, "the data set has no column 'prompt'; it has question; rename one"),
        ([{"prompt": "a"}] * 3, "there are 3 training prompts and one batch takes 4"),
        ([{"prompt": "a"}, {"prompt": None}] * 4, "4 of 8 rows have no question in column 'prompt' .rows 1, 3, 5, 7"),
        ([{"prompt": " "}] * 8, "8 of 8 rows have no question in column 'prompt'"),
        ([{"prompt": []}] * 8, "8 of 8 rows have no question in column 'prompt'"),
        ([{"prompt": 5}] * 8, "8 of 8 rows have a question in column 'prompt' that is no text"),
        ([{"prompt": [{"content": "a"}]}] * 8, "8 of 8 rows have a question in column 'prompt' that is no text"),
        ([{"prompt": "a", "answer": None}] * 8, "8 of 8 rows have no gold answer in column 'answer'"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_in_python_too(tiny_folder, tmp_path, rows, message):
    args = AAPOConfig(
        output_dir=str(tmp_path), algorithm="grpo", num_generations=2, per_device_train_batch_size=8, use_cpu=True,
        bf16=False, report_to="none",
    )  # fmt: skip
    rewards = accuracy if "answer" in rows[0] else evenness
    given = {"model": str(tiny_folder), "reward_funcs": rewards, "args": args}
    with pytest.raises(InputError, match=f"^{message}"):
        AAPOTrainer(**given, train_dataset=Dataset.from_list(rows))
    if "batch" not in message:
        with pytest.raises(InputError, match=f"^{message}"):
            AAPOTrainer(
                **given, train_dataset=Dataset.from_list([{"prompt": "a", "answer": "1"}] * 8),
                eval_dataset=Dataset.from_list(rows),
            )  # fmt: skip


def test_a_prompt_that_leaves_no_room_in_the_context_is_not_trained_on(tiny_folder, tmp_path):
    args = AAPOConfig(
        output_dir=str(tmp_path), algorithm="grpo", num_generations=2, per_device_train_batch_size=2, use_cpu=True,
        bf16=False, report_to="none", max_completion_length=8, max_steps=1, save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "1 " * 200, "answer": "1"}])
    trainer = AAPOTrainer(model=str(tiny_folder), reward_funcs=accuracy, args=args, train_dataset=rows)
    with pytest.raises(InputError, match="^2 of 2 prompts, the longest of .* exceed the model's context of 128 tokens"):
        trainer.train()
