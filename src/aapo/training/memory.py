"""How much memory a recipe takes on each GPU, from the model's dimensions alone; the formulae: docs/memory.md.

N parameters, of which N_t are trained; W processes; s bytes a number; h hidden size; q and v the widths of all query
and of all value heads; I intermediate size; V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from aapo.engines.folder import ANEW
from aapo.engines.loading import ADAPTER_CONFIG, adapter_base
from aapo.errors import InputError
from aapo.recipe import Recipe
from aapo.stored import read_json
from aapo.training.models import model_path

GIB = 2**30
# TRL's output layer makes the logits of so many tokens and so much of the vocabulary at a time.
LOGITS_TOKENS, LOGITS_VOCABULARY = 4096, 32768
# What is trained is float32 under every launcher: as loaded, or as the launcher keeps it beside 16 bits.
MASTER_BYTES = 4.0
# NF4: half a byte, and a float32 scale for every 64 weights, itself quantized to about an eighth of that.
BYTES_4BIT = 0.5 + 4 / 64 / 8 + 4 / 64 / 8
Layout = Literal["single", "ddp", "zero2", "zero2-offload", "zero3", "fsdp2"]
LAYOUTS: tuple[Layout, ...] = ("single", "ddp", "zero2", "zero2-offload", "zero3", "fsdp2")
# Bytes a trained parameter that an optimizer keeps, in numbers of the parameter's own size or in bytes.
STATES_PER_PARAMETER = {"sgd": 0.0, "adafactor": 0.01, "lion": 1.0}
STATES_8BIT = 2.0


@dataclass(frozen=True)
class ModelShape:
    """A model's dimensions.

    Attributes:
        num_parameters: N, tied weights once.
        num_embedding_parameters: Those of the input embedding and, where it is not tied, of the output layer.
        vocab_size: V.
        hidden_size: h.
        intermediate_size: I.
        num_layers: Decoder layers.
        query_width: q, heads times their size.
        value_width: v, key-value heads times their size.
        linear_shapes: Inputs and outputs of the linear modules inside one layer, which adapters can stand beside.
    """

    num_parameters: int
    num_embedding_parameters: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    query_width: int
    value_width: int
    linear_shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, config: Any) -> "ModelShape":
        """The shape of the model that a Transformers config describes; no weights are made."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        embeddings = {id(parameter): parameter.numel() for end in ends for parameter in end.parameters()}
        layer = model.base_model.layers[0]
        return cls(
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            num_embedding_parameters=sum(embeddings.values()),
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            query_width=config.num_attention_heads * head_dim,
            value_width=(config.num_key_value_heads or config.num_attention_heads) * head_dim,
            linear_shapes=tuple(
                (module.in_features, module.out_features)
                for module in layer.modules()
                if isinstance(module, torch.nn.Linear)
            ),
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU; the two phases of a step do not overlap, so the larger counts."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    kv_cache: float

    @property
    def total(self) -> float:
        """The peak of a step."""
        resident = self.weights + self.gradients + self.optimizer
        return resident + max(self.activations + self.logits, self.kv_cache)


def model_shape(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> ModelShape | None:
    """The shape of a model in a folder or on the Hub, or of one of the shipped recipes; None where it is not here."""
    known = _architectures().get(name)
    if known is not None:
        linear = tuple(tuple(sizes) for sizes in known["shape"]["linear_shapes"])
        return ModelShape(**{**known["shape"], "linear_shapes": linear})
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None
    return ModelShape.of(config)


def known_config(name: str) -> Any:
    """The config of a model of the shipped recipes, from which its shape was computed."""
    from transformers import AutoConfig

    given = dict(_architectures()[name]["config"])
    return AutoConfig.for_model(given.pop("model_type"), **given)


@cache
def _architectures() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((files("aapo") / "training" / "architectures.yaml").read_text(encoding="utf-8"))


def estimate(
    recipe: Recipe, shape: ModelShape, prompt_tokens: int, layout: Layout = "single", num_processes: int = 1
) -> MemoryEstimate:
    """The memory that training takes on each GPU.

    Args:
        recipe: Batch, lengths, precision, adapters, optimizer.
        shape: The model's.
        prompt_tokens: Tokens of the longest prompt.
        layout: How the model is spread, as the launcher of that name does.
        num_processes: W.

    Raises:
        InputError: The layout is unknown.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
    recipe = _as_new_adapters(recipe)
    size = bytes_per_weight(recipe)
    compute = 2.0 if recipe.training.bf16 or recipe.training.fp16 else size
    trained = num_trained(recipe, shape)
    weights, gradients, optimizer = _states(recipe, shape, trained, size, layout, num_processes)
    args = recipe.training
    if layout in ("single", "ddp") and compute < 4 and not recipe.model.use_peft:
        # Autocast keeps what it made of the float32 weights for the backward pass; the input embedding is looked up.
        looked_up = shape.num_embedding_parameters - shape.vocab_size * shape.hidden_size
        weights += compute * (shape.num_parameters - looked_up)
    sequences, completion = args.per_device_train_batch_size, args.sampling.max_completion_length
    tokens = prompt_tokens + completion
    generated = sequences * (args.steps_per_generation or 1)
    return MemoryEstimate(
        weights,
        gradients,
        optimizer,
        activations(
            shape,
            sequences,
            tokens,
            compute,
            checkpointing=bool(args.activation_checkpointing),
            adapters=recipe.model.use_peft,
        ),
        logits(shape, sequences * tokens, compute, trained=not recipe.model.use_peft),
        0.0 if args.use_vllm else kv_cache(shape, generated * tokens, compute),
    )


def _as_new_adapters(recipe: Recipe) -> Recipe:
    """The recipe with new adapters in the place of one that it goes on with, which take as much."""
    folder = Path(model_path(recipe))
    if adapter_base(str(folder)) is None:
        return recipe
    rank = read_json(folder / ADAPTER_CONFIG, ANEW, ("r",))["r"]
    return replace(recipe, model=replace(recipe.model, use_peft=True, lora_r=rank))


def bytes_per_weight(recipe: Recipe) -> float:
    """Bytes of a weight as it is loaded."""
    if recipe.model.load_in_4bit:
        return BYTES_4BIT
    if recipe.model.load_in_8bit:
        return 1.0
    return 2.0 if str(recipe.model.dtype) in ("bfloat16", "float16") else 4.0


def num_trained(recipe: Recipe, shape: ModelShape) -> int:
    """All parameters, or those of the adapters: r (inputs + outputs) for each linear module."""
    if not recipe.model.use_peft:
        return shape.num_parameters
    return recipe.model.lora_r * shape.num_layers * sum(map(sum, shape.linear_shapes))


def _states(
    recipe: Recipe, shape: ModelShape, trained: int, size: float, layout: Layout, num_processes: int
) -> tuple[float, float, float]:
    """Weights, gradients and optimizer states of one GPU."""
    total = shape.num_parameters
    if recipe.model.load_in_4bit or recipe.model.load_in_8bit:
        embeddings = shape.num_embedding_parameters
        weights = size * (total - embeddings) + 2.0 * embeddings
    else:
        weights = size * total
    if recipe.model.use_peft:
        weights += MASTER_BYTES * trained
    elif layout in ("single", "ddp"):
        weights = MASTER_BYTES * total
    shards = num_processes
    if layout in ("single", "ddp"):
        buckets = 2.0 if layout == "ddp" and num_processes > 1 else 1.0
        return weights, buckets * MASTER_BYTES * trained, _optimizer(recipe, trained)
    if layout == "fsdp2":  # float32 weights that are cast for the computation, one layer of them gathered
        layer = 2.0 * (total - shape.num_embedding_parameters) / shape.num_layers
        return 4.0 * total / shards + layer, 4.0 * trained / shards, _optimizer(recipe, trained) / shards
    # DeepSpeed keeps float32 weights beside the optimizer's states.
    states = 0.0 if layout == "zero2-offload" else (_optimizer(recipe, trained) + MASTER_BYTES * trained) / shards
    if layout == "zero3":
        in_layer = (total - shape.num_embedding_parameters) / shape.num_layers
        layer = 2.0 * max(in_layer, shape.vocab_size * shape.hidden_size)
        return 2.0 * total / shards + layer, 2.0 * trained / shards, states
    return weights, 2.0 * trained / shards, states


def _optimizer(recipe: Recipe, trained: int) -> float:
    """Bytes of the optimizer's states; Adam keeps two numbers a parameter, of its float32 master's precision."""
    name = str(getattr(recipe.training.optim, "value", recipe.training.optim))
    if "8bit" in name:
        return STATES_8BIT * trained / (2.0 if "lion" in name else 1.0)
    numbers = next((value for key, value in STATES_PER_PARAMETER.items() if name.startswith(key)), 2.0)
    return numbers * MASTER_BYTES * trained


def activations(
    shape: ModelShape, sequences: int, tokens: int, size: float, *, checkpointing: bool, adapters: bool = False
) -> float:
    """Bytes kept for the backward pass of so many sequences of so many tokens.

    A layer keeps 8 h + s (3 h + 5 q + 4 I) a token: its two norms in float32 and their outputs, what goes into
    attention (keys and values repeated for every query head) and comes out, and four tensors of the gated MLP; and the
    attention mask, s a pair of tokens. Adapters keep the input of every linear module once more, after dropout, and
    which of it was dropped. With checkpointing a layer keeps its input, s h, and one layer at a time is computed again.
    """
    h = shape.hidden_size
    layer = 8 * h + size * (3 * h + 5 * shape.query_width + 4 * shape.intermediate_size + tokens)
    if adapters:
        layer += (size + 1) * sum(inputs for inputs, _ in shape.linear_shapes)
    ends = (4 + 2 * size) * h
    kept = shape.num_layers * size * h + layer if checkpointing else shape.num_layers * layer
    return sequences * tokens * (kept + ends)


def logits(shape: ModelShape, num_tokens: int, size: float, *, trained: bool) -> float:
    """Bytes of the output layer: a tile of logits, and float32 gradients of its input and, if trained, its weights."""
    tile = size * min(num_tokens, LOGITS_TOKENS) * min(shape.vocab_size, LOGITS_VOCABULARY)
    weights = 4.0 * shape.vocab_size * shape.hidden_size if trained else 0.0
    return tile + 4.0 * shape.hidden_size * num_tokens + weights


def kv_cache(shape: ModelShape, num_tokens: int, size: float) -> float:
    """Bytes of keys and values of all sequences that are sampled at once."""
    return 2.0 * size * shape.num_layers * shape.value_width * num_tokens


def device_memory() -> float | None:
    """Bytes of this process's GPU; None without one."""
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
