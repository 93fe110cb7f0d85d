"""Experiments: algorithms compared over seeds, and what others would have done with a run's rollouts."""

from aapo.experiments.plan import Plan, Variant, make_plan, write_plan
from aapo.experiments.quantities import Quantities
from aapo.experiments.queue import execute, prepare
from aapo.experiments.registration import Registered, read_plan, register
from aapo.experiments.replay import AlgorithmReplay, Replay, replay_run
from aapo.experiments.replay_tables import replay_tables
from aapo.experiments.summary import summarise, write_summary
from aapo.experiments.tuning import choose, record_choices, recorded_choices

__all__ = [
    "AlgorithmReplay",
    "Plan",
    "Quantities",
    "Registered",
    "Replay",
    "Variant",
    "choose",
    "execute",
    "make_plan",
    "prepare",
    "read_plan",
    "record_choices",
    "recorded_choices",
    "register",
    "replay_run",
    "replay_tables",
    "summarise",
    "write_plan",
    "write_summary",
]
