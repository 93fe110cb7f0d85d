"""For tests only: verl 0.9 on CPUs, with gloo and a rollout server that samples with Transformers.

Loaded by `VERL_USE_EXTERNAL_MODULES=verl_cpu` with `VERL_PLATFORM=cpu VERL_ENGINE_DEVICE=cuda`. To Ray each process has
a logical GPU.
"""

import types
from contextlib import contextmanager

import torch
from verl.plugin.platform import platform_manager
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.utils import distributed
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplicaRegistry

MEMORY = dict.fromkeys(
    ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), lambda *_, **__: 0
)
NAMED = {"mem_get_info": lambda *_, **__: (2**33, 2**34), "get_device_name": lambda *_, **__: "cpu", **MEMORY}


class Device(types.ModuleType):
    """`torch.cpu` with the memory calls of an accelerator; what else is asked of it does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return NAMED.get(name) or getattr(torch.cpu, name, lambda *_, **__: None)


device = Device("verl_cpu_device")
device.is_available = lambda: False
device.set_device = lambda *_, **__: None


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = vendor_name = "cpu"
    device_module = device

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_device(self, index):
        pass

    def synchronize(self, index=None):
        pass

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, message):
        yield

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


platform_manager._current_platform = None  # it may have been asked for before
_initialize = distributed.initialize_global_process_group_ray
# verl would ask for "cpu:gloo,cpu:gloo", which PyTorch refuses.
distributed.initialize_global_process_group_ray = lambda timeout_second=None, backend=None: _initialize(
    timeout_second, backend="cpu:gloo"
)


def _replica():
    from verl_cpu.rollout import TransformersReplica

    return TransformersReplica


base._ROLLOUT_REGISTRY[("transformers_cpu", "async")] = "verl_cpu.rollout.WeightsAdapter"
RolloutReplicaRegistry.register("transformers_cpu", _replica)
