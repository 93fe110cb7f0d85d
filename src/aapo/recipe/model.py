"""What a recipe says of the model; the fields have TRL's names and defaults."""

from dataclasses import dataclass


@dataclass
class ModelSettings:
    """The model that is trained, and how it is loaded.

    Attributes:
        model_name_or_path: Folder or Hub name.
        model_revision: Revision of a Hub model.
        dtype: Number format of the weights: float32, bfloat16, float16 or auto.
        attn_implementation: As in Transformers.
        use_peft: Train LoRA adapters.
        lora_r: Rank of the adapters.
        lora_alpha: Their scale is alpha / r.
        lora_dropout: Share of their inputs that is dropped in training.
        lora_target_modules: Modules that get one; all linear ones by default.
        lora_target_parameters: Parameters that get one.
        lora_modules_to_save: Modules that are trained whole.
        lora_task_type: As in PEFT.
        use_rslora: Scale by alpha / sqrt(r).
        use_dora: Train the magnitude apart.
        load_in_8bit: Quantize the frozen weights to 8 bits.
        load_in_4bit: Quantize the frozen weights to 4 bits.
        bnb_4bit_quant_type: nf4 or fp4.
        use_bnb_nested_quant: Quantize the scales, too.
        bnb_4bit_quant_storage: Number format in which quantized weights are stored.
    """

    model_name_or_path: str | None = None
    model_revision: str = "main"
    dtype: str | None = "float32"
    attn_implementation: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_target_modules: list[str] | None = None
    lora_target_parameters: list[str] | None = None
    lora_modules_to_save: list[str] | None = None
    lora_task_type: str = "CAUSAL_LM"
    use_rslora: bool = False
    use_dora: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    bnb_4bit_quant_storage: str | None = None
