"""What the tests of the verl environment share: how `aapo cluster` is run on CPUs, on a Ray cluster of this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
# The environment that has TRL and our Transformers; by default all is run in this one.
AAPO_PYTHON = os.environ.get("AAPO_PYTHON", sys.executable)
ENVIRONMENT = {
    "VERL_USE_EXTERNAL_MODULES": "verl_cpu", "VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
ON_CPUS = {
    "actor_rollout_ref.rollout.name": "transformers_cpu", "actor_rollout_ref.rollout.free_cache_engine": False,
    "actor_rollout_ref.rollout.agent.num_workers": 1, "actor_rollout_ref.actor.use_torch_compile": False,
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False, "data.dataloader_num_workers": 0,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of `aapo` and of the Ray nodes."""
    paths = [str(HERE.parents[1] / "src"), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    cache = os.environ.get("AAPO_CACHE") or str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "AAPO_CACHE": cache}


@pytest.fixture(scope="module")
def nodes(environment):
    """A Ray cluster of two nodes on this machine: the process that holds it, and its address."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "nodes.py"), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment, start_new_session=True,
    )  # fmt: skip
    address = process.stdout.readline().strip()
    yield process, address
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def write_recipe(tmp_path):
    """Writes a recipe that extends the quickstart, for two logical GPUs."""

    def write(address=None, **fields):
        cluster = {
            "num_nodes": 2, "gpus_per_node": 1, "reward_workers": 1, "python": sys.executable, "overrides": ON_CPUS,
            **({"address": address} if address else {}),
        }  # fmt: skip
        given = {
            "extends": "quickstart", "per_device_train_batch_size": 64, "attn_implementation": "sdpa", "use_cpu": True,
            "cluster": cluster, **fields,
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
        return tmp_path / "recipe.yaml"

    return write


@pytest.fixture
def aapo(environment, tmp_path):
    """Starts `aapo` with arguments."""

    def start(*arguments):
        return subprocess.Popen(
            [AAPO_PYTHON, "-m", "aapo", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
        )  # fmt: skip

    return start
