"""The reference bank: the frozen reference model's samples and rewards, built once and kept."""

from aapo.reference.bank import COLUMNS, ReferenceBank, bank_identity
from aapo.reference.identity import BankIdentity, differences
from aapo.reference.summary import BankSummary, summarize

__all__ = ["COLUMNS", "BankIdentity", "BankSummary", "ReferenceBank", "bank_identity", "differences", "summarize"]
