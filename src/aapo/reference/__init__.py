"""The reference bank: the frozen reference model's samples and rewards, built once and kept."""

from aapo.reference.bank import COLUMNS, ReferenceBank
from aapo.reference.comparison import ScoreChange, compare_scores
from aapo.reference.summary import BankSummary, constant_rewards, summarize
from aapo.samples import BankIdentity, bank_identity

__all__ = [
    "COLUMNS",
    "BankIdentity",
    "BankSummary",
    "ReferenceBank",
    "ScoreChange",
    "bank_identity",
    "compare_scores",
    "constant_rewards",
    "summarize",
]
