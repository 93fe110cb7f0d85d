"""Teach language models to reason with Advantage-Augmented Policy Optimization (arXiv 2505.14264)."""

import os

# OpenMP threads that spin while they wait cost several-fold on shared cores; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
