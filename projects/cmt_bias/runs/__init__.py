"""What surrounds a run: command line options, checks before it, and the summary at its start."""

from .non_finite_hook import NonFiniteHook
from .run_summary_hook import RunSummaryHook

__all__ = ['NonFiniteHook', 'RunSummaryHook']
