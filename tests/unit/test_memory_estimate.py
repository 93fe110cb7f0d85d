"""The memory estimate: parameters, states, activations and cache by hand, and against what autograd keeps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from aapo.errors import InputError
from aapo.recipe import resolve
from aapo.training.memory import (
    ModelShape,
    activations,
    estimate,
    known_config,
    kv_cache,
    logits,
    model_shape,
    num_trained,
)

GIVEN = {
    "model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "num_generations": 2,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_completion_length": 6,
    "activation_checkpointing": False,
}  # fmt: skip
# Two layers by hand: h = 8, q = 8, v = 4, I = 16, V = 10.
SHAPE = ModelShape(
    num_parameters=1000, num_embedding_parameters=160, vocab_size=10, hidden_size=8, intermediate_size=16, num_layers=2,
    query_width=8, value_width=4, linear_shapes=((8, 8), (8, 4), (8, 4), (8, 8), (8, 16), (8, 16), (16, 8)),
)  # fmt: skip


def recipe(**fields):
    return resolve("mine", {**GIVEN, **fields})


def test_published_sizes():
    sizes = {
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
        "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "meta-llama/Llama-3.2-3B": 3_212_749_824,
    }
    for name, size in sizes.items():
        shape = model_shape(name)
        assert shape is not None and shape.num_parameters == size
        assert shape == ModelShape.of(known_config(name))


def test_a_model_that_is_not_here_has_no_shape():
    assert model_shape("nobody/no-model") is None


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_of_a_config_is_the_models(tied):
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    shape, model = ModelShape.of(config), AutoModelForCausalLM.from_config(config)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_embedding_parameters == (1 if tied else 2) * 50 * 16
    assert (shape.query_width, shape.value_width) == (16, 8)
    assert sum(map(sum, shape.linear_shapes)) == (16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_activations_are_what_autograd_keeps(kind, dtype):
    config = kind(
        vocab_size=100, hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
    kept = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mask = torch.ones(4, 128, dtype=torch.long)
        mask[0, :9] = 0  # padding, as every batch of rollouts has
        model.base_model(torch.zeros(4, 128, dtype=torch.long), attention_mask=mask, use_cache=False)
    measured = sum(storage.nbytes() for storage in kept.values())
    expected = activations(ModelShape.of(config), 4, 128, dtype.itemsize, checkpointing=False)
    assert 0.95 < measured / expected < 1.05


def test_activations_by_hand():
    # Of 2 sequences of 5 tokens, per token and layer 8*8 + 2*(3*8 + 5*8 + 4*16 + 5) = 330; the ends (4 + 2*2)*8 = 64.
    assert activations(SHAPE, 2, 5, 2.0, checkpointing=False) == 10 * (2 * 330 + 64)
    assert activations(SHAPE, 2, 5, 2.0, checkpointing=True) == 10 * (2 * 2 * 8 + 330 + 64)
    # Inputs of the linear modules are 4*8 + 8 + 8 + 16 = 64 wide: 3 bytes each, of every token and layer.
    more = activations(SHAPE, 2, 5, 2.0, checkpointing=False, adapters=True)
    assert more - activations(SHAPE, 2, 5, 2.0, checkpointing=False) == 10 * 2 * 3 * 64


def test_cache_and_logits_by_hand():
    assert kv_cache(SHAPE, 10, 2.0) == 2 * 2 * 2 * 4 * 10, "keys and values, 2 bytes, 2 layers, 4 wide, 10 tokens"
    assert logits(SHAPE, 10, 2.0, trained=True) == 2 * 10 * 10 + 4 * 8 * 10 + 4 * 10 * 8
    assert logits(SHAPE, 10, 2.0, trained=False) == 2 * 10 * 10 + 4 * 8 * 10


def test_one_gpu_in_float32():
    found = estimate(recipe(bf16=False), SHAPE, prompt_tokens=4)
    assert (found.weights, found.gradients, found.optimizer) == (4000, 4000, 8000)
    assert found.activations == activations(SHAPE, 2, 4 + 6, 4.0, checkpointing=False)
    assert found.kv_cache == kv_cache(SHAPE, 2 * 3 * (4 + 6), 4.0), "all rollouts of an optimizer step at once"
    assert found.total == 16000 + max(found.activations + found.logits, found.kv_cache)


@pytest.mark.parametrize(
    ("layout", "weights", "gradients", "optimizer"),
    [
        # Float32 weights, and what autocast makes of all but the 80 of the input embedding.
        ("single", 4000 + 2 * 920, 4000, 8000),
        ("ddp", 4000 + 2 * 920, 8000, 8000),
        ("zero2", 2000, 500, 3000),  # float32 weights and two moments, 12 bytes, over 4
        ("zero2-offload", 2000, 500, 0),
        ("zero3", 500 + 2 * 420, 500, 3000),  # (1000 - 160) / 2 of one layer gathered in 16 bits
        ("fsdp2", 1000 + 2 * 420, 1000, 2000),
    ],
)
def test_layouts_in_bfloat16_on_four(layout, weights, gradients, optimizer):
    processes = 1 if layout == "single" else 4
    found = estimate(recipe(dtype="bfloat16", bf16=True), SHAPE, 4, layout, processes)
    assert (found.weights, found.gradients, found.optimizer) == (weights, gradients, optimizer)


def test_adapters_train_r_times_inputs_and_outputs():
    lora = recipe(use_peft=True, lora_r=4, dtype="bfloat16", bf16=True)
    trained = 4 * 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert num_trained(lora, SHAPE) == trained
    found = estimate(lora, SHAPE, 4)
    assert (found.weights, found.gradients, found.optimizer) == (2000 + 4 * trained, 4 * trained, 8 * trained)
    quantized = estimate(recipe(use_peft=True, lora_r=4, load_in_4bit=True, bf16=True), SHAPE, 4)
    assert quantized.weights == pytest.approx((0.5 + 2 / 128) * 840 + 2 * 160 + 4 * trained)


def test_optimizers():
    def states(name: str) -> float:
        return estimate(recipe(dtype="bfloat16", bf16=True, optim=name), SHAPE, 4).optimizer

    names = ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit", "sgd")
    assert [states(name) for name in names] == [8000, 2000, 2000, 0]
    assert states("adafactor") < 100


def test_an_unknown_layout_is_refused():
    with pytest.raises(InputError, match="layout is 'zero1'; it must be one of single, ddp"):
        estimate(recipe(), SHAPE, 4, "zero1")
