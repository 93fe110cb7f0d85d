"""verl's newest checkpoint as a model folder, and the adapter in one as PEFT's."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from aapo.backends.verl.checkpoints import newest_step, save_model
from aapo.engines import load_tokenizer
from aapo.errors import AapoError
from aapo.recipe.model import ModelSettings

LORA = ModelSettings(use_peft=True, lora_r=4, lora_alpha=8, lora_dropout=0.0)


@pytest.fixture
def checkpoint(tmp_path):
    """The folder for Transformers of a checkpoint of step 6, the newest but for one that is not whole."""
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("6")
    (tmp_path / "global_step_9" / "actor").mkdir(parents=True)
    folder = tmp_path / "global_step_6" / "actor" / "huggingface"
    folder.mkdir(parents=True)
    return folder


def test_the_newest_whole_checkpoint_becomes_the_model(checkpoint, tmp_path, tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    torch.nn.init.constant_(model.model.norm.weight, 0.5)
    model.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))  # as verl writes it
    target = tmp_path / "model"
    save_model(tmp_path, target, ModelSettings(), str(tiny_folder), load_tokenizer(str(tiny_folder)))
    assert newest_step(tmp_path) == 6
    assert json.loads((target / "config.json").read_text())["dtype"] == "float32"
    loaded = AutoModelForCausalLM.from_pretrained(target)
    assert loaded.model.norm.weight.unique().tolist() == [0.5]
    assert load_tokenizer(str(target)).chat_template == load_tokenizer(str(tiny_folder)).chat_template


def test_an_adapter_among_the_weights_becomes_a_folder_that_peft_loads(checkpoint, tmp_path, tiny_folder):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), config)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}  # all, by PEFT's names, as verl
    save_file(weights, checkpoint / "model.safetensors")
    save_model(tmp_path, tmp_path / "model", LORA, str(tiny_folder), load_tokenizer(str(tiny_folder)))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), tmp_path / "model")
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trained.eval()(ids).logits)


def test_without_a_model_or_an_adapter_it_says_so(checkpoint, tmp_path, tiny_folder):
    with pytest.raises(AapoError, match="verl has saved no adapter in"):
        save_model(tmp_path, tmp_path / "model", LORA, str(tiny_folder), load_tokenizer(str(tiny_folder)))
    assert not (tmp_path / "model").exists()
    (tmp_path / "latest_checkpointed_iteration.txt").unlink()
    assert newest_step(tmp_path) == 0
    with pytest.raises(AapoError, match="verl has saved no model in .*global_step_0"):
        save_model(tmp_path, tmp_path / "model", ModelSettings(), str(tiny_folder), load_tokenizer(str(tiny_folder)))
