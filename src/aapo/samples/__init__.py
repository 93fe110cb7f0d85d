"""Samples and their scores as data: identified, resumable, scored anew without being drawn again."""

from aapo.samples.identity import (
    BankIdentity,
    SampleIdentity,
    bank_identity,
    differences,
    digest,
    reward_versions,
    sample_identity,
)
from aapo.samples.storage import STORED, ScoreSet, find_score_set, num_prompts, read_identity, sample_files, score_sets
from aapo.samples.store import SampleStore, missing_prompts, newest_scores

__all__ = [
    "STORED",
    "BankIdentity",
    "SampleIdentity",
    "SampleStore",
    "ScoreSet",
    "bank_identity",
    "differences",
    "digest",
    "find_score_set",
    "missing_prompts",
    "newest_scores",
    "num_prompts",
    "read_identity",
    "reward_versions",
    "sample_files",
    "sample_identity",
    "score_sets",
]
