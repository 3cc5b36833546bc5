"""What surrounds a run: command line options, checks before it, and the summary at its start."""

from .run_summary_hook import RunSummaryHook

__all__ = ['RunSummaryHook']
