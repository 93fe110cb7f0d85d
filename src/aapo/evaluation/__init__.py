"""Models on problems, every number with its interval."""

from aapo.evaluation.estimates import CONFIDENCE, Estimate, score, share_interval, student_reach
from aapo.evaluation.evaluate import Task, benchmark_task, evaluate, sample_evaluations
from aapo.evaluation.evaluation import Evaluation
from aapo.evaluation.job import EvaluationJob, EvaluationStore
from aapo.evaluation.protocol import DEFAULT, Protocol, load_protocol, shipped_protocols
from aapo.evaluation.published import Published, published_rows, published_table
from aapo.evaluation.results import (
    Selection,
    StoredEvaluation,
    check_protocols,
    difference_rows,
    read_evaluation,
    read_evaluations,
    read_results,
    result_rows,
    save_results,
    select,
)
from aapo.evaluation.sources import model_sources
from aapo.evaluation.tables import (
    ScoreTable,
    difference_table,
    latex,
    markdown,
    metric_table,
    quality_table,
    score_table,
)

__all__ = [
    "CONFIDENCE",
    "DEFAULT",
    "Estimate",
    "Evaluation",
    "EvaluationJob",
    "EvaluationStore",
    "Protocol",
    "Published",
    "ScoreTable",
    "Selection",
    "StoredEvaluation",
    "Task",
    "benchmark_task",
    "check_protocols",
    "difference_rows",
    "difference_table",
    "evaluate",
    "latex",
    "load_protocol",
    "markdown",
    "metric_table",
    "model_sources",
    "published_rows",
    "published_table",
    "quality_table",
    "read_evaluation",
    "read_evaluations",
    "read_results",
    "result_rows",
    "sample_evaluations",
    "save_results",
    "score",
    "score_table",
    "select",
    "share_interval",
    "shipped_protocols",
    "student_reach",
]
