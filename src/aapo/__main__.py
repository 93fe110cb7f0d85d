"""`python -m aapo`, for launchers such as torchrun."""

from aapo.cli import main

main()
