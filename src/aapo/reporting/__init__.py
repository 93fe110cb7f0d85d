"""Figures and the HTML report of runs, made from their run directories only."""

from aapo.reporting.html import write_report

__all__ = ["write_report"]
