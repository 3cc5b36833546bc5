"""Robustness tests: one test per model and sensor failure, and the report that compares them."""

from .cell import (
    Cell,
    CellResult,
    insert_failure,
    keep_no_detections,
    load_query_weights,
    load_result,
    save_query_weights,
    save_result,
)
from .plot import save_robustness_plot
from .table import failure_means, long_table, markdown_report, router_table
from .watch_hook import FailureWatchHook

__all__ = [
    'Cell',
    'CellResult',
    'FailureWatchHook',
    'failure_means',
    'insert_failure',
    'keep_no_detections',
    'load_query_weights',
    'load_result',
    'long_table',
    'markdown_report',
    'router_table',
    'save_query_weights',
    'save_result',
    'save_robustness_plot',
]
