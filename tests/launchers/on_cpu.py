"""The command `aapo` on CPU processes under the shipped launchers; FSDP's spreads models over accelerators only.

When it is done each process writes what accelerate ran into launched-RANK.json.
"""

import atexit
import json
import os
from pathlib import Path

from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState

from aapo.cli import main

plain_init = AcceleratorState.__init__


def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    plain_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    atexit.register(write_state, self)
    if fsdp_plugin is not None:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


def write_state(state):
    plugin = state.deepspeed_plugin
    facts = {
        "type": state.distributed_type.value,
        "processes": state.num_processes,
        "zero_stage": plugin.zero_stage if plugin else None,
        "offload": plugin.deepspeed_config["zero_optimization"]["offload_optimizer"]["device"] if plugin else None,
        "fsdp_version": getattr(getattr(state, "fsdp_plugin", None), "fsdp_version", None),
    }
    Path(f"launched-{os.environ['RANK']}.json").write_text(json.dumps(facts))


AcceleratorState.__init__ = init_with_fsdp
main()
