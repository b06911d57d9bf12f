"""Records as tables, JSON, plots, HTML and progress: renders what others measured, and never loads TensorFlow."""

from kopt.report.look import Look, Shown
from kopt.report.parts.statistics import wilson_interval
from kopt.report.profiles.costs import COSTS, check_sort
from kopt.report.profiles.learning_rates import LEARNING_RATES
from kopt.report.profiles.pipeline import PIPELINE, pipeline_headline
from kopt.report.profiles.profile_page import full_profile_table, profile_html
from kopt.report.progress import make_progress
from kopt.report.run.comparing import compare_runs
from kopt.report.run.decisions import decisions_table
from kopt.report.run.markdown import markdown
from kopt.report.run.outcome import headline
from kopt.report.run.page import html
from kopt.report.run.plots import bars, pareto_plot
from kopt.report.run.run_comparison import comparison_table
from kopt.report.run.run_directory import read_result, write_report, write_story
from kopt.report.run.story import held_out_text, story
from kopt.report.run.tables import (
    artifact_table,
    candidates_table,
    checks_table,
    json_text,
    measurements_table,
)
from kopt.report.shipping.safekeeping import backup_table, verification_table

__all__ = [
    "COSTS",
    "LEARNING_RATES",
    "PIPELINE",
    "Look",
    "Shown",
    "artifact_table",
    "backup_table",
    "bars",
    "candidates_table",
    "check_sort",
    "checks_table",
    "compare_runs",
    "comparison_table",
    "decisions_table",
    "full_profile_table",
    "headline",
    "held_out_text",
    "html",
    "json_text",
    "make_progress",
    "markdown",
    "measurements_table",
    "pareto_plot",
    "pipeline_headline",
    "profile_html",
    "read_result",
    "story",
    "verification_table",
    "wilson_interval",
    "write_report",
    "write_story",
]
