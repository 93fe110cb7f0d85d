"""Figures and the HTML report, made from run directories and evaluation folders only."""

from aapo.reporting.report import write_report

__all__ = ["write_report"]
