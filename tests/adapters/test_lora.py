"""LoRA and QLoRA with a bank: what learns, what is saved, what is evaluated, and packages that are missing."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.backends.trl.references import as_reference
from aapo.bank import ReferenceBank, bank_identity
from aapo.base.model import new_model, train_tokenizer
from aapo.cli.app import run as aapo
from aapo.cli.plan import print_plan
from aapo.engines import TransformersEngine, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.engines.loading import adapter_base
from aapo.errors import InputError
from aapo.evaluation.sources import model_sources
from aapo.recipe import resolve
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings
from aapo.training import train
from aapo.training.banks import RecipeBank
from aapo.training.models import prepare_model
from tiny import TINY

MAX_TOKENS = 6
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def evenness(completion_ids, **columns):
    """1 where the token ids sum to an even number: something random text can learn."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def texts(engine, tokenizer, prompts):
    """What the engine's model says to the prompts with fixed seeds."""
    ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
    return [completion.token_ids for completion in engine.generate(ids, range(len(ids)))]


def test_only_adapters_learn_and_the_base_stays_the_reference(tiny_folder, tmp_path, addition):
    tokenizer, settings = load_tokenizer(str(tiny_folder)), SamplingSettings(max_completion_length=MAX_TOKENS)
    base = load_model(str(tiny_folder))
    identity = bank_identity(
        model_identity(str(tiny_folder)), tokenizer_identity(tokenizer), settings.describe(), [evenness], 0
    )
    bank = ReferenceBank.build(
        tmp_path / "bank", addition, TransformersEngine(base, tokenizer, settings), [evenness], identity, num_samples=3
    )
    args = AAPOConfig(
        output_dir=str(tmp_path), num_generations=4, per_device_train_batch_size=16, max_steps=2, learning_rate=0.1,
        max_completion_length=MAX_TOKENS, optim="sgd", bf16=False, activation_checkpointing=True, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer = AAPOTrainer(
        model=str(tiny_folder), reward_funcs=evenness, args=args, train_dataset=addition, reference_bank=bank,
        peft_config=LORA,
    )  # fmt: skip
    policy = trainer.model
    assert isinstance(policy, PeftModel)
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in policy.named_parameters() if "lora_" in name}
    trainer.train()

    after, before = policy.get_base_model().state_dict(), base.state_dict()
    kept = {name: value for name, value in after.items() if "lora_" not in name}
    assert {name.replace(".base_layer", "") for name in kept} == set(before)
    assert all(torch.equal(value, before[name.replace(".base_layer", "")]) for name, value in kept.items())
    moved = [value.abs().max() for name, value in after.items() if "lora_B" in name]
    assert any(value > 0 for value in moved), "B starts at zero and is what a first step changes"

    prompts = addition["prompt"]
    with as_reference(policy) as reference:
        off = texts(TransformersEngine(reference, tokenizer, settings), tokenizer, prompts)
    assert off == texts(TransformersEngine(base, tokenizer, settings), tokenizer, prompts)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 4)])
def test_adapters_are_float32_beside_weights_of_any_precision(tiny_folder, tmp_path, addition, dtype, size):
    args = AAPOConfig(
        output_dir=str(tmp_path), algorithm="grpo", num_generations=4, per_device_train_batch_size=4, use_cpu=True,
        bf16=True, model_init_kwargs={"dtype": dtype}, report_to="none",
    )  # fmt: skip
    model = AAPOTrainer(
        model=str(tiny_folder), reward_funcs=evenness, args=args, train_dataset=addition, peft_config=LORA
    ).model
    sizes = {(parameter.requires_grad, parameter.element_size()) for parameter in model.parameters()}
    assert sizes == {(True, size), (False, getattr(torch, dtype).itemsize)}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model wide enough to be quantized in blocks of 64."""
    folder = tmp_path_factory.mktemp("wide-model")
    tokenizer = train_tokenizer(["Calculate 1 + 2.\nuser\nassistant\nsystem\n<think></think>"] * 5, TINY.vocab_size)
    torch.manual_seed(0)
    new_model(replace(TINY, hidden_size=64, max_position_embeddings=1024), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(model_folder, tmp_path, cache, monkeypatch):
    """A recipe of two LoRA steps with a bank and held-out prompts; fields can be changed."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(24)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "even.py").write_text(
        "def evenness(completion_ids, **columns):\n    return [float(sum(ids) % 2 == 0) for ids in completion_ids]\n"
    )
    given = {
        "model_name_or_path": str(model_folder), "dataset_name": "sums.jsonl", "num_train_prompts": 12,
        "num_eval_prompts": 4, "reward_funcs": ["even.py:evenness"], "num_reference_samples": 2, "eval_num_samples": 2,
        "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": MAX_TOKENS, "max_steps": 2,
        "save_steps": 1, "learning_rate": 0.05, "activation_checkpointing": True, "bf16": False, "use_cpu": True,
        "use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear",
    }  # fmt: skip
    return lambda **fields: resolve("lora", {**given, **fields})


def adapter(path):
    return (path / "adapter_model.safetensors").read_bytes()


def test_a_recipe_with_adapters_is_trained_resumed_and_evaluated(recipe, model_folder, tmp_path, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(recipe(), whole)
    model = RunDirectory(whole).model
    assert not list(model.glob("model*.safetensors")), "the base's weights are not copied"
    assert json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model_folder)
    assert [each.model for each in result.evaluations] == ["base", "trained"]

    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "model")
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-2")
    train(recipe(), stopped, resume=True)
    assert adapter(stopped / "model") == adapter(model) != adapter(whole / "checkpoints" / "checkpoint-1")

    sources = [source.path for source in model_sources(str(whole), checkpoints="base,1,final")]
    weights = [load_model(path).get_input_embeddings().weight for path in sources]
    assert all(torch.equal(weight, weights[0]) for weight in weights), "embeddings carry no adapter"
    projections = [load_model(path).model.layers[0].self_attn.q_proj.weight for path in sources]
    assert not torch.equal(projections[0], projections[2])

    flags = ["--tasks", "sums.jsonl", "--num-samples", "2", "--max_completion_length", "4", "--num_problems", "4"]
    assert aapo(["eval", str(whole), *flags, "--against", "base", "--output", "out"]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["model"] for row in rows} == {"whole", "whole@base"}


def test_a_bank_serves_full_training_and_lora_alike(recipe, cache, tmp_path):
    train(recipe(), tmp_path / "lora")
    train(recipe(use_peft=None, lora_r=None, lora_target_modules=None), tmp_path / "full")
    paths = [RunDirectory(tmp_path / name).manifest()["reference_bank"]["path"] for name in ("lora", "full")]
    assert paths[0] == paths[1] and len(list((cache / "banks").iterdir())) == 1


@pytest.mark.parametrize(
    "fields",
    [{"load_in_4bit": True}, {"load_in_8bit": True}, {"optim": "adamw_bnb_8bit"}, {"optim": "paged_lion_8bit"}],
)
def test_a_missing_package_is_named_with_its_extra(recipe, monkeypatch, fields):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name != "bitsandbytes" and found(name, *rest))
    (field, value), *_ = fields.items()
    with pytest.raises(
        InputError, match=f"^{field} is {value} and needs bitsandbytes; pip install 'aapo.quantization."
    ):
        prepare_model(recipe(**fields))
    prepare_model(recipe(optim="adafactor"))


def test_quantized_weights_without_adapters_are_refused(recipe):
    with pytest.raises(InputError, match="^load_in_4bit quantizes weights, which then cannot be trained; set use_peft"):
        prepare_model(recipe(load_in_4bit=True, use_peft=None, lora_r=None, lora_target_modules=None))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_with_a_bank_of_the_quantized_base(recipe, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    quantized = {f"load_in_{bits}bit": True, "dtype": "bfloat16"}
    train(recipe(), tmp_path / "plain")
    result = train(recipe(**quantized, optim="adamw_8bit"), tmp_path / "run")
    assert [each.model for each in result.evaluations] == ["base", "trained"]
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()
    plain, own = (RunDirectory(tmp_path / name).manifest()["reference_bank"] for name in ("plain", "run"))
    assert own["identity"]["model"]["precision"] == f"{bits}bit"
    with pytest.raises(InputError, match=f"model.precision: bank has float32, run has {bits}bit"):
        train(recipe(**quantized, reference_bank=plain["path"]), tmp_path / "other")


@pytest.mark.slow
def test_an_adapter_stands_beside_quantized_weights_unmerged(recipe, model_folder, tmp_path):
    """Merging would round the sum to 4 bits, so that another model would be evaluated than was trained."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    train(recipe(load_in_4bit=True, dtype="bfloat16", num_eval_prompts=0, eval_num_samples=None), tmp_path / "run")
    options = {
        "dtype": torch.bfloat16,
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    }
    loaded, base = load_model(str(tmp_path / "run" / "model"), **options), load_model(str(model_folder), **options)
    for name, parameter in base.named_parameters():
        if parameter.dtype == torch.uint8:
            own = loaded.get_parameter(f"base_model.model.{name.replace('.weight', '.base_layer.weight')}")
            assert torch.equal(own, parameter)


@pytest.fixture
def adapter_folder(recipe, tmp_path):
    """An adapter that a run trained, whose model says other things than its base."""
    train(recipe(max_steps=1, learning_rate=5.0, num_eval_prompts=0, eval_num_samples=None), tmp_path / "first")
    return RunDirectory(tmp_path / "first").model


CONTINUED = {"use_peft": None, "lora_r": None, "lora_target_modules": None}


def test_an_adapter_is_trained_on_resumed_and_evaluated(recipe, adapter_folder, tmp_path, monkeypatch):
    def without_drawing(self, prompts, policy=None, *, beside_trainer=False):
        assert policy is None, "the policy without its adapter is not the reference"
        return grow(self, prompts, policy, beside_trainer=beside_trainer)

    grow = RecipeBank.grow
    monkeypatch.setattr(RecipeBank, "grow", without_drawing)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    continued = recipe(
        **CONTINUED, model_name_or_path=str(adapter_folder), weighted_sample=True, sample_strategy="uniform"
    )
    result = train(continued, whole)
    assert [each.model for each in result.evaluations] == ["base", "trained"]
    model = RunDirectory(whole).model
    config, before = (json.loads((each / "adapter_config.json").read_text()) for each in (model, adapter_folder))
    assert {**config, "inference_mode": True} == before
    assert adapter(model) != adapter(adapter_folder)
    bank = RunDirectory(whole).manifest()["reference_bank"]
    assert bank["identity"]["model"] == {**model_identity(str(adapter_folder)), "precision": "float32"}
    assert bank["added"]["samples"] > 0

    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "model")
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-2")
    train(continued, stopped, resume=True)
    assert adapter(stopped / "model") == adapter(model) != adapter(whole / "checkpoints" / "checkpoint-1")


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_a_live_reference_is_the_adapter_as_it_was(recipe, adapter_folder, tmp_path, addition, beta):
    tokenizer, settings = load_tokenizer(str(adapter_folder)), SamplingSettings(max_completion_length=MAX_TOKENS)
    args = AAPOConfig(
        output_dir=str(tmp_path), reference="live", num_generations=4, per_device_train_batch_size=16, max_steps=1,
        learning_rate=5.0, max_completion_length=MAX_TOKENS, optim="sgd", bf16=False, use_cpu=True, report_to="none",
        save_strategy="steps", save_steps=1, disable_tqdm=True, beta=beta, activation_checkpointing=False,
    )  # fmt: skip
    trainer = AAPOTrainer(
        model=str(adapter_folder), reward_funcs=evenness, args=args, train_dataset=addition
    )  # fmt: skip
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    assert trainable and all(".default." in name for name in trainable)
    assert trainable == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}

    def said(model):
        return texts(TransformersEngine(model, tokenizer, settings), tokenizer, addition["prompt"])

    initial, base = load_model(str(adapter_folder)), load_model(adapter_base(str(adapter_folder)).name)
    with as_reference(trainer.model) as reference:
        assert said(reference) == said(initial)
    assert said(initial) not in (said(base), said(trainer.model))
    again = AAPOTrainer(model=str(adapter_folder), reward_funcs=evenness, args=args, train_dataset=addition)
    again._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    with as_reference(again.model) as reference:
        assert said(reference) == said(initial)
    assert said(again.model) == said(trainer.model)


def test_a_live_run_from_an_adapter_saves_the_trained_one_alone(recipe, adapter_folder, tmp_path):
    live = {"reference": "live", "num_reference_samples": None}
    train(recipe(**CONTINUED, **live, model_name_or_path=str(adapter_folder)), tmp_path / "live")
    assert not [path for path in RunDirectory(tmp_path / "live").model.iterdir() if path.is_dir()]


def test_what_does_not_go_with_an_adapter_is_one_line(recipe, adapter_folder, tmp_path, addition):
    with pytest.raises(InputError, match="^use_peft is true and would add new adapters to model_name_or_path .*merge"):
        train(recipe(model_name_or_path=str(adapter_folder)), tmp_path / "run")
    follows = {"reference": "live", "sync_ref_model": True, "num_reference_samples": None}
    with pytest.raises(InputError, match="^sync_ref_model does not go with model_name_or_path"):
        train(recipe(**CONTINUED, **follows, model_name_or_path=str(adapter_folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="^lora_r is 4 but has no effect, because use_peft is false"):
        recipe(use_peft=None)
    args = AAPOConfig(output_dir=str(tmp_path / "run"), algorithm="grpo", use_cpu=True, bf16=False, report_to="none")
    with pytest.raises(InputError, match="^the adapter .* is trained on as it is, and peft_config would add another"):
        AAPOTrainer(
            model=str(adapter_folder), reward_funcs=evenness, args=args, train_dataset=addition, peft_config=LORA
        )


def test_an_adapter_is_planned_as_new_ones_of_its_size(recipe, adapter_folder, capsys):
    def table(fields):
        capsys.readouterr()
        print_plan(recipe(**fields), Path("planned"), resume=False)
        return capsys.readouterr().out.split("memory on each GPU")[1]

    assert table({**CONTINUED, "model_name_or_path": str(adapter_folder)}) == table({})
