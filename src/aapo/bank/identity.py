"""What identifies a bank, and how two differ."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, TypedDict

from aapo.grading import RewardFunction, check_reward_names, reward_name, reward_version


class SampleIdentity(TypedDict):
    """Everything that changes what is sampled, but for the prompts and the number of samples.

    Attributes:
        model: `model_identity` of the reference model.
        tokenizer: `tokenizer_identity`, chat template included.
        sampling: `SamplingSettings.describe()`.
        seed: Seed of the samples.
    """

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    sampling: dict[str, Any]
    seed: int


class BankIdentity(SampleIdentity):
    """What is sampled and how it is scored.

    Attributes:
        rewards: Version of each reward function by name.
    """

    rewards: dict[str, str]


def bank_identity(
    model: dict[str, Any],
    tokenizer: dict[str, Any],
    sampling: dict[str, Any],
    reward_funcs: Sequence[RewardFunction],
    seed: int,
) -> BankIdentity:
    """What makes two banks interchangeable: model, tokenizer and template, sampling settings, rewards and seed.

    How many samples a prompt has is no part of it: a bank can grow by more.
    """
    return BankIdentity(
        model=model,
        tokenizer=tokenizer,
        sampling=sampling,
        rewards=reward_versions(reward_funcs),
        seed=seed,
    )


def reward_versions(reward_funcs: Sequence[RewardFunction]) -> dict[str, str]:
    """The version of each reward function by its name.

    Raises:
        InputError: Two have one name.
    """
    check_reward_names(reward_funcs)
    return {reward_name(function): reward_version(function) for function in reward_funcs}


def sample_identity(identity: BankIdentity) -> SampleIdentity:
    """The part of a bank's identity that does not change when its samples are scored anew."""
    return SampleIdentity(
        model=identity["model"],
        tokenizer=identity["tokenizer"],
        sampling=identity["sampling"],
        seed=identity["seed"],
    )


def digest(identity: Any) -> str:
    """16 hexadecimal digits that name an identity; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


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
