"""Samples and their scores as data; the reference bank is the frozen reference model's, built once and kept."""

from aapo.bank.comparison import ScoreChange, compare_scores
from aapo.bank.identity import (
    BankIdentity,
    SampleIdentity,
    bank_identity,
    differences,
    digest,
    reward_versions,
    sample_identity,
)
from aapo.bank.reference import COLUMNS, ReferenceBank
from aapo.bank.storage import STORED, ScoreSet, find_score_set, read_identity, read_pieces, score_sets
from aapo.bank.store import Growth, Missing, SampleStore, missing, newest_scores
from aapo.bank.summary import BankSummary, summarize

__all__ = [
    "COLUMNS",
    "STORED",
    "BankIdentity",
    "BankSummary",
    "Growth",
    "Missing",
    "ReferenceBank",
    "SampleIdentity",
    "SampleStore",
    "ScoreChange",
    "ScoreSet",
    "bank_identity",
    "compare_scores",
    "differences",
    "digest",
    "find_score_set",
    "missing",
    "newest_scores",
    "read_identity",
    "read_pieces",
    "reward_versions",
    "sample_identity",
    "score_sets",
    "summarize",
]
