"""Experiments: algorithms compared over seeds, and what others would have done with a run's rollouts."""

from aapo.experiments.plan import Plan, Variant, make_plan, write_plan
from aapo.experiments.quantities import Quantities
from aapo.experiments.queue import execute, prepare
from aapo.experiments.replay import AlgorithmReplay, Replay, replay_run
from aapo.experiments.replay_tables import replay_tables
from aapo.experiments.summary import summarise, write_summary

__all__ = [
    "AlgorithmReplay",
    "Plan",
    "Quantities",
    "Replay",
    "Variant",
    "execute",
    "make_plan",
    "prepare",
    "replay_run",
    "replay_tables",
    "summarise",
    "write_plan",
    "write_summary",
]
