"""What identifies a bank, and how two differ."""

from typing import Any, TypedDict


class BankIdentity(TypedDict):
    """Everything that changes what a bank holds, but for the prompts in it.

    Attributes:
        model: `model_identity` of the reference model.
        tokenizer: `tokenizer_identity`, chat template included.
        sampling: `SamplingSettings.describe()`.
        rewards: Version of each reward function by name, in order.
        num_samples: K.
        seed: Seed of the samples.
    """

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    sampling: dict[str, Any]
    rewards: dict[str, str]
    num_samples: int
    seed: int


def differences(bank: Any, run: Any, name: str = "") -> list[str]:
    """Each differing leaf of two identities as `name: bank has X, run has Y`."""
    if isinstance(bank, dict) and isinstance(run, dict):
        keys = sorted(set(bank) | set(run))
        return [
            line
            for key in keys
            for line in differences(bank.get(key), run.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if bank == run else [f"{name}: bank has {bank}, run has {run}"]
