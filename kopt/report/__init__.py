"""Records as tables, JSON, plots, HTML and progress: renders what others measured, and never loads TensorFlow."""

from kopt.report.learning_rates import learning_rate_plot, write_learning_rate_plot
from kopt.report.outcome import headline
from kopt.report.page import html
from kopt.report.pipeline import pipeline_headline, pipeline_plot, pipeline_table, write_pipeline_plot
from kopt.report.plots import bars, layer_bars, pareto_plot
from kopt.report.progress import make_progress
from kopt.report.run_directory import read_result, write_report
from kopt.report.statistics import wilson_interval
from kopt.report.tables import (
    artifact_table,
    candidates_table,
    checks_table,
    json_text,
    measurements_table,
    profile_table,
)

__all__ = [
    "artifact_table",
    "bars",
    "candidates_table",
    "checks_table",
    "headline",
    "html",
    "json_text",
    "layer_bars",
    "learning_rate_plot",
    "make_progress",
    "measurements_table",
    "pareto_plot",
    "pipeline_headline",
    "pipeline_plot",
    "pipeline_table",
    "profile_table",
    "read_result",
    "wilson_interval",
    "write_learning_rate_plot",
    "write_pipeline_plot",
    "write_report",
]
