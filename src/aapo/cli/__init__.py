"""The `aapo` command."""

from aapo.cli.app import main

__all__ = ["main"]
