"""The machines that the backend verl spreads a run over, and what runs on them."""

from dataclasses import dataclass
from typing import Any

from aapo.errors import InputError


@dataclass
class ClusterSettings:
    """A recipe's `cluster`.

    Attributes:
        num_nodes: Machines.
        gpus_per_node: GPUs of each; the batch of the recipe is that of as many processes as there are GPUs.
        strategy: What trains: fsdp2, or megatron.
        tensor_parallel_size: GPUs that a layer is cut over; megatron only.
        pipeline_parallel_size: GPUs that the layers are dealt to; megatron only.
        rollout: What samples: vllm, or sglang.
        reward_workers: Processes that grade.
        address: Of a Ray cluster that runs already: `auto`, or host:port. Without one Ray is started here.
        python: Python of the environment that has verl, the same on all machines; by default the one that runs `aapo`.
        overrides: Further settings of verl by their dotted names; they win.
    """

    num_nodes: int = 1
    gpus_per_node: int = 8
    strategy: str = "fsdp2"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    rollout: str = "vllm"
    reward_workers: int = 8
    address: str | None = None
    python: str | None = None
    overrides: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check what must go together.

        Raises:
            InputError: FSDP2 cuts no layers, or the GPUs do not divide into what a model is cut over.
        """
        cut = self.tensor_parallel_size * self.pipeline_parallel_size
        if cut > 1 and self.strategy == "fsdp2":
            name = "tensor_parallel_size" if self.tensor_parallel_size > 1 else "pipeline_parallel_size"
            raise InputError(
                f"cluster.{name} is {getattr(self, name)} and cluster.strategy fsdp2, which spreads weights and cuts "
                "no layers; set cluster.strategy to megatron, or remove it"
            )
        if self.num_processes % cut:
            raise InputError(
                f"{self.num_processes} GPUs (cluster.num_nodes {self.num_nodes} x cluster.gpus_per_node "
                f"{self.gpus_per_node}) are no multiple of the {cut} that a model is cut over; change one of them"
            )

    @property
    def num_processes(self) -> int:
        """Processes that train, one a GPU."""
        return self.num_nodes * self.gpus_per_node
