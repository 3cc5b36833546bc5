"""The Markdown report of a scale sweep, and the files beside it."""

from pathlib import Path

import pandas as pd

from ..atomic_file import write_atomically
from ..metrics.subset_evaluation import WHOLE
from .scale_sweep import SweepResult
from .scale_sweep_plot import save_sweep_plot
from .scale_sweep_table import SCORES, best_table, long_table, score_table, without_halves

TABLE, PLOT, REPORT = 'sweep_scale.csv', 'sweep_scale.png', 'sweep_scale.md'
NONE_BEST = 'none: all equal'

READING = f"""
- The override sets every entry of the scale to the same value, beyond the model's own range too.
  The row 'learned' is the model as it is, and its scores are those of tools/test.py.
- The best of several noisy scores is at least as good as the learned scale by construction, so its
  gain is too high an estimate. '(edge)' marks the lowest or highest value tested.
- 'Best in halves' splits the scenes of a condition in two: where the halves differ, these frames
  do not settle it. Frames of one scene are much alike.
- This is one training, made with its own scale, which favours values near it. Before believing an
  order of conditions, sweep several seeds.
- A class without objects in a condition counts there with AP 0: compare scales within a condition.
- {TABLE} holds all scores, errors and APs of the classes by scale and condition.
"""


def write_sweep(result: SweepResult, out_dir: Path, source: str, command: str) -> pd.DataFrame:
    """Write the report, the plot and the table.

    Args:
        result: Of the sweep.
        out_dir: Folder, made if need be.
        source: What was tested, in words.
        command: What repeats it.

    Returns:
        The table, see :func:`.scale_sweep_table.long_table`.
    """
    table = long_table(result)
    write_atomically(out_dir / TABLE, table.to_csv(index=False).encode())
    save_sweep_plot(out_dir / PLOT, table, result.learned)
    report = sweep_report(table, result, source, command)
    write_atomically(out_dir / REPORT, report.encode())
    return table


def sweep_report(table: pd.DataFrame, result: SweepResult, source: str, command: str) -> str:
    """The report as Markdown; arguments as for :func:`write_sweep`."""
    parts = without_halves(table).drop_duplicates('part')
    counts = parts[['part', 'frames', 'scenes', 'objects', 'classes without objects']]
    learned = pd.DataFrame(
        [(name, f'{value:.3f}') for name, value in result.learned.items()],
        columns=['entry', 'learned scale (logits)'],
    )
    sections = [
        f'# The bias scale at test time\n\n{source}\n\n```bash\n{command}\n```',
        _markdown(learned),
        f'![NDS and mAP over the bias scale]({PLOT})',
        '## Best scale of each condition',
        *(_best_section(table, score) for score in SCORES),
        *(_score_section(table, score) for score in SCORES),
        f'## What was tested\n\n{_markdown(counts.replace("", "-"))}',
        f'## How sure this is\n{READING.rstrip()}',
    ]
    return '\n\n'.join(sections) + '\n'


def _best_section(table: pd.DataFrame, score: str) -> str:
    best = best_table(table, score)
    shown = pd.DataFrame(
        {
            'part': best['part'],
            'frames (scenes)': [f'{r.frames} ({r.scenes})' for r in best.itertuples()],
            'best scale': [
                (r.best or NONE_BEST) + (' (edge)' if r.is_edge else '') for r in best.itertuples()
            ],
            'best in halves': [
                ' / '.join(half or NONE_BEST for half in r.halves) or 'one scene'
                for r in best.itertuples()
            ],
            f'{score} there': best['score'].map('{:.4f}'.format),
            f'{score} with the learned scale': best['learned'].map('{:.4f}'.format),
            'gain': (best['score'] - best['learned']).map('{:+.4f}'.format),
            'best minus worst': (best['score'] - best['lowest']).map('{:.4f}'.format),
        }
    )
    note = _order_by_condition(best, score)
    return '\n\n'.join(filter(None, [f'### {score}', _markdown(shown), note]))


def _order_by_condition(best: pd.DataFrame, score: str) -> str:
    """The conditions' best scales, and how much hangs on them."""
    ranked = best[best['scale'].notna() & (best['part'] != WHOLE)].set_index('part')
    if len(ranked) < 2:
        return ''
    order = ', '.join(f'{part} {row["scale"]:.3g}' for part, row in ranked.iterrows())
    stake = (ranked['score'] - ranked['lowest']).max()
    return (
        f'Best scales for {score}: {order}. The choice of the scale moves the {score} of no '
        f'condition by more than {stake:.4f}; the order of the conditions means nothing where '
        'that is less than the noise between seeds.'
    )


def _score_section(table: pd.DataFrame, score: str) -> str:
    scores = score_table(table, score).map('{:.4f}'.format).reset_index()
    return f'## {score} by scale and condition\n\n{_markdown(scores)}'


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)
