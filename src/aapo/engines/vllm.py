"""Prompts to completions with vLLM's offline engine, for what is too much for `TransformersEngine`."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from transformers import AutoConfig, GenerationConfig

from aapo.engines.loading import adapter_base, check_model_folder, load_model
from aapo.engines.spec import ModelSpec
from aapo.engines.transformers import check_context, configured_end_tokens
from aapo.errors import InputError
from aapo.ranks import num_launched
from aapo.records import Completion, Engine
from aapo.sampling import SamplingSettings, as_completion

# Whether vLLM starts engines as processes of their own, and which GPUs those see.
OWN_PROCESS, VISIBLE_GPUS = "VLLM_ENABLE_V1_MULTIPROCESSING", "CUDA_VISIBLE_DEVICES"


class VLLMEngine:
    """Samples completions with vLLM.

    Every request has its sample's seed, so that a completion depends on its own seed and prompt, up to rounding that
    may differ with what else is in the batch. vLLM draws its own noise: samples differ from `TransformersEngine`'s
    with the same seeds, greedy completions do not. Where both `min_p` and `top_p` are set, vLLM applies `min_p` first
    and Transformers last.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        settings: SamplingSettings,
        *,
        revision: str | None = None,
        dtype: Any = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 1024,
        **options: Any,
    ) -> None:
        """Start vLLM on a model.

        Args:
            model: Folder or Hub name; the folder of a LoRA adapter is merged into its base model first.
            tokenizer: Its tokenizer (`load_tokenizer`).
            settings: How completions are drawn.
            revision: Of the Hub model.
            dtype: Precision, as vLLM names it; auto is the model's own.
            tensor_parallel_size: GPUs that share the model's weights.
            gpu_memory_utilization: Share of each GPU's memory that vLLM takes, in (0, 1].
            max_model_len: Most tokens of a prompt and its completion; None is the model's context. Less leaves room
                for more sequences at once.
            trust_remote_code: Whether code that comes with the model may run.
            batch_size: Completions worth handing over at once.
            options: Further arguments of `vllm.LLM`, such as `enforce_eager`.

        Raises:
            InputError: vLLM is not installed, the model is missing, or vLLM has no equivalent of a setting.
        """
        self.tokenizer = tokenizer
        self.settings = settings
        self.batch_size = batch_size
        renamed = generation_fields(settings)
        check_model_folder(model)
        self._vllm = _import_vllm()
        if adapter_base(model) is not None:
            model, revision = self._merge(model, dtype, trust_remote_code), None
        self.eos_token_ids = configured_end_tokens(_generation_config(model, revision, trust_remote_code), tokenizer)
        self._fields = {**_sampling_fields(settings), "stop_token_ids": self.eos_token_ids, **renamed}
        self._params()
        if self._vllm.on_cpu:
            # A prompt that is read in parts has its generator set back, which on CPUs ends vLLM.
            options = {"enable_chunked_prefill": False, **options}
        with _beside_others(tensor_parallel_size):
            self._vllm.reread()
            self._llm = self._vllm.llm(
                model=model,
                revision=revision,
                tokenizer_revision=revision,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                max_model_len=max_model_len,
                trust_remote_code=trust_remote_code,
                generation_config="vllm",  # the settings say how to draw, not the model's own defaults
                **options,
            )

    def _merge(self, adapter: str, dtype: Any, trust_remote_code: bool) -> str:
        """A temporary folder, kept as long as the engine, with the adapter merged into its base.

        vLLM can serve adapters unmerged, but only up to a rank fixed at the start and only some kinds of them.
        """
        self._merged = tempfile.TemporaryDirectory(prefix="aapo-merged-")
        load_model(adapter, dtype=dtype, trust_remote_code=trust_remote_code).save_pretrained(self._merged.name)
        self.tokenizer.save_pretrained(self._merged.name)
        return self._merged.name

    def _params(self, **fields: Any) -> Any:
        """Sampling parameters of vLLM, with these fields beside those that all completions share."""
        try:
            return self._vllm.params(**self._fields, **fields)
        except (ValueError, self._vllm.refusal) as error:
            raise InputError(
                f"vLLM cannot draw with these sampling settings: {error}; change them, or sample with Transformers"
            ) from error

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        Args:
            prompt_ids: Prompts as tokens (`aapo.tasks.encode_prompt`).
            seeds: One sample seed per prompt.
            on_batch: Called with the number of completions in each finished batch.

        Raises:
            InputError: A prompt leaves no room for a completion in the model's context.
        """
        check_context(prompt_ids, self.settings, self._llm.llm_engine.model_config.max_model_len)
        completions: list[Completion] = []
        for start in range(0, len(prompt_ids), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(ids)} for ids in prompt_ids[chosen]],
                [self._params(seed=seed) for seed in seeds[chosen]],
                use_tqdm=False,
            )
            drawn = [output.outputs[0] for output in outputs]
            texts = self.tokenizer.batch_decode([list(one.token_ids) for one in drawn], skip_special_tokens=True)
            completions += [
                as_completion(text, list(one.token_ids), self.settings, ended=one.finish_reason == "stop")
                for text, one in zip(texts, drawn, strict=True)
            ]
            on_batch(len(drawn))
        return completions

    def close(self) -> None:
        """Stop vLLM, which gives its share of the GPU back."""
        core = getattr(getattr(self._llm, "llm_engine", None), "engine_core", None)
        if core is not None:
            core.shutdown()
        del self._llm


class _VLLM(NamedTuple):
    """What is used of vLLM.

    Attributes:
        llm: Makes an engine.
        params: Makes sampling parameters.
        refusal: The error by which it refuses some.
        reread: Makes it read the environment again, which it does not once an engine has run in this process.
        on_cpu: Whether it runs on the CPU.
    """

    llm: Any
    params: Any
    refusal: type[Exception]
    reread: Callable[[], None]
    on_cpu: bool


def _import_vllm() -> _VLLM:
    try:
        from vllm import LLM, SamplingParams, envs  # type: ignore[reportMissingImports]
        from vllm.exceptions import VLLMValidationError  # type: ignore[reportMissingImports]
        from vllm.platforms import current_platform  # type: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise InputError("vLLM is not installed; pip install 'aapo[vllm]'") from error
    return _VLLM(LLM, SamplingParams, VLLMValidationError, envs.disable_envs_cache, current_platform.is_cpu())


@contextmanager
def _beside_others(num_gpus: int) -> Iterator[None]:
    """A block that starts an engine in one of several processes of a launch.

    In the process itself it would join the others' process group, and end it when it is closed; and wherever it is, it
    takes the first GPU that it sees. So it gets a process of its own, which sees the GPU of this one.

    Args:
        num_gpus: That it asks for.

    Raises:
        InputError: Each process of the launch has but one.
    """
    if num_launched() == 1:
        yield
        return
    if num_gpus > 1:
        raise InputError(
            f"tensor_parallel_size is {num_gpus} in a launch of {num_launched()} processes, each on its own GPU; "
            "leave it out, or run one process"
        )
    own, visible = int(os.environ.get("LOCAL_RANK", "0")), os.environ.get(VISIBLE_GPUS)
    gpu = visible.split(",")[own] if visible else str(own)
    with kept_environment(VISIBLE_GPUS, OWN_PROCESS):
        os.environ.update({VISIBLE_GPUS: gpu, OWN_PROCESS: "1"})
        yield


@contextmanager
def kept_environment(*names: str) -> Iterator[None]:
    """A block after which these environment variables are what they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _sampling_fields(settings: SamplingSettings) -> dict[str, Any]:
    """The settings in vLLM's words, but for `generation_kwargs`."""
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,  # 0 keeps all here too
        "min_p": settings.min_p or 0.0,
        "repetition_penalty": settings.repetition_penalty,
        "max_tokens": settings.max_completion_length,
        "stop": list(settings.stop),
        "detokenize": bool(settings.stop),  # for the stop strings; texts come from our tokenizer
    }


def generation_fields(settings: SamplingSettings) -> dict[str, Any]:
    """`generation_kwargs` in vLLM's words.

    Raises:
        InputError: vLLM has no equivalent of one.
    """
    fields: dict[str, Any] = {}
    for key, value in (settings.generation_kwargs or {}).items():
        if key == "min_new_tokens":
            fields["min_tokens"] = value or 0
        elif key == "suppress_tokens":
            fields["logit_bias"] = {int(token): float("-inf") for token in value or ()}
        else:
            raise InputError(
                f"generation_kwargs sets {key}, and vLLM has no equivalent; it may set min_new_tokens and "
                f"suppress_tokens; remove {key}, or sample with Transformers"
            )
    return fields


def _generation_config(model: str, revision: str | None, trust_remote_code: bool) -> GenerationConfig:
    """The generation config that Transformers gives the model: its own, else the one its config makes."""
    try:
        return GenerationConfig.from_pretrained(model, revision=revision or "main")
    except OSError:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)


def open_vllm(spec: ModelSpec, tokenizer: Any, settings: SamplingSettings, batch_size: int, **options: Any) -> Engine:
    """The engine of a model; `options` are those of `VLLMEngine`.

    Raises:
        InputError: The weights are to be quantized as they are loaded, which is bitsandbytes' and not vLLM's.
    """
    if spec.quantization is not None:
        raise InputError(f"{spec.path} is loaded in {spec.precision}, which vLLM cannot; sample it with transformers")
    return VLLMEngine(
        spec.path,
        tokenizer,
        settings,
        revision=spec.revision,
        dtype=spec.dtype,
        trust_remote_code=spec.trust_remote_code,
        batch_size=batch_size,
        **options,
    )
