"""VLLM as tests take it, on a machine without a GPU: in this process, in float32, with weights that can be changed."""

import os
import weakref

import pytest
import torch

# Read as it is imported; what a GPU's user has set stays.
for name, value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "OMP_WAIT_POLICY": "PASSIVE",
}.items():  # fmt: skip
    os.environ.setdefault(name, value)

pytest.importorskip("vllm")

OPTIONS = {"dtype": "float32", "enforce_eager": True}


class Started:
    """What was started: the options of each engine, and of those that have not been freed the models.

    On CPUs vLLM packs the weights of linear layers away, so that no others can be loaded; here it does not. TRL lets
    nobody say in which precision its engine samples, and vLLM makes bfloat16 of float32; here it stays.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        import vllm
        from trl.generation import vllm_generation
        from vllm.model_executor.layers import utils

        self.options: list[dict] = []
        self.calls: list[int] = []
        self._models: list[weakref.ref] = []
        started = self

        class Noted(vllm.LLM):
            def __init__(self, **options):
                started.options.append(options)
                super().__init__(**{**options, **OPTIONS})
                started._models.append(weakref.ref(self.llm_engine.model_executor.driver_worker.model_runner.model))

            def generate(self, prompts, *args, **kwargs):
                started.calls.append(len(prompts))
                return super().generate(prompts, *args, **kwargs)

        patch.setattr(utils, "dispatch_cpu_unquantized_gemm", _unpacked)
        patch.setattr(vllm, "LLM", Noted)
        patch.setattr(vllm_generation, "LLM", Noted)

    @property
    def num_alive(self) -> int:
        return sum(model() is not None for model in self._models)


def _unpacked(layer, remove_weight):
    layer.cpu_linear = torch.nn.functional.linear
