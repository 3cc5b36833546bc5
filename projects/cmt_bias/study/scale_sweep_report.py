"""The report of a scale sweep: table, picture and Markdown."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..atomic_file import save_figure, write_atomically
from ..metrics.subset_evaluation import HALVES, Subset
from .scale_sweep import LEARNED, Scale

TABLE, PLOT, REPORT = 'sweep_scale.csv', 'sweep_scale.png', 'sweep_scale.md'
SCORES = ('NDS', 'mAP')
OVERRIDE, LEARNED_POINT = 'override', 'learned'

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


def write_sweep(
    table: pd.DataFrame, learned: Mapping[str, float], out_dir: Path, source: str, command: str
) -> None:
    """Write the report, the plot and the table, that of :func:`sweep_table`.

    ``learned`` are the entries of the learned scale, in logits; ``source`` says what was tested,
    ``command`` repeats it.
    """
    write_atomically(out_dir / TABLE, table.to_csv(index=False).encode())
    save_figure(draw_sweep(table, learned), out_dir / PLOT)
    entries = pd.Series(learned, name='learned scale (logits)').map('{:.3f}'.format)
    sections = [
        f'# The bias scale at test time\n\n{source}\n\n```bash\n{command}\n```',
        _markdown(entries.rename_axis('entry').reset_index()),
        f'![NDS and mAP over the bias scale]({PLOT})',
        *(_score_section(table, score) for score in SCORES),
        f'## How sure this is\n{READING.rstrip()}',
    ]
    write_atomically(out_dir / REPORT, ('\n\n'.join(sections) + '\n').encode())


def sweep_table(
    learned: Mapping[str, float], parts: Mapping[Scale, Sequence[Subset]]
) -> pd.DataFrame:
    """A row for each scale and part, as :class:`.ScaleSweepLoop` has them, the learned one last.

    ``point`` is 'learned' or 'override', ``scale`` in logits, NaN for a learned one with several
    entries, ``label`` '2.5', 'learned (2.613)', or 'learned' for many entries; the other columns
    are those of :class:`.Subset`: mAP, NDS, the mean errors, the APs of the classes.
    """
    own, label = math.nan, LEARNED_POINT
    if len(learned) == 1:
        (own,) = learned.values()
        label = f'{LEARNED_POINT} ({own:.3f})'
    return pd.DataFrame(
        {
            'point': LEARNED_POINT if scale is LEARNED else OVERRIDE,
            'scale': own if scale is LEARNED else scale,
            'label': label if scale is LEARNED else f'{scale:.12g}',
            'part': part.name,
            'kind': part.kind,
            'frames': part.samples,
            'scenes': part.scenes,
            'objects': part.objects,
            'classes without objects': ', '.join(part.absent_classes),
            **part.metrics,
        }
        for scale, of_scale in parts.items()
        for part in of_scale
    )


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score: scales down (the learned one last), parts across."""
    wide = _without_halves(table).pivot(index='label', columns='part', values=score)
    return wide.reindex(index=table['label'].unique(), columns=table['part'].unique())


def best_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """For each part the scale with the highest score, beside the learned one.

    As the report shows it: several scales where they are equal, '(edge)' at the lowest or highest
    of the sweep, and the best in each half of the scenes. ``score`` is 'NDS' or 'mAP'.
    """
    swept = table.loc[table['point'] == OVERRIDE, 'scale']
    rows = []
    for part, group in _without_halves(table).groupby('part', sort=False):
        first, top = group.iloc[0], group[score].max()
        best = group[group[score] == top]
        learned = group.loc[group['point'] == LEARNED_POINT, score].iloc[0]
        is_edge = len(best) == 1 and best['scale'].iloc[0] in (swept.min(), swept.max())
        halves = table[(table['part'] == part) & table['kind'].isin(HALVES)].groupby('kind')
        rows.append(
            {
                'part': part,
                'frames (scenes)': f'{first["frames"]} ({first["scenes"]})',
                'best scale': _best_label(group, score) + (' (edge)' if is_edge else ''),
                'best in halves': ' / '.join(_best_label(half, score) for _, half in halves)
                or 'one scene',
                f'{score} there': top,
                f'{score} with the learned scale': learned,
                'gain': f'{top - learned:+.4f}',
                'best minus worst': np.ptp(group[score]),
            }
        )
    return pd.DataFrame(rows)


def draw_sweep(table: pd.DataFrame, learned: Mapping[str, float]) -> Figure:
    """Each score as its change against the learned scale; a curve for each part.

    Each entry of the learned scale, in logits, is an upright line.
    """
    figure = Figure(figsize=(12.0, 4.5), dpi=120, layout='constrained', facecolor='white')
    table = _without_halves(table)
    reference = table[table['point'] == LEARNED_POINT].set_index('part')
    for axes, score in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        for name, entry in learned.items():
            axes.axvline(entry, color='grey', linestyle='--', linewidth=0.9, zorder=0)
            place = dict(transform=axes.get_xaxis_transform(), va='bottom', ha='right')
            axes.text(entry, 0.02, f'learned, {name}', rotation=90, fontsize=7, **place)
        for part, rows in table[table['point'] == OVERRIDE].groupby('part', sort=False):
            known, frames = reference.loc[part, score], rows['frames'].iloc[0]
            label = f'{part}: {frames} frames, {score} {known:.3f}'
            axes.plot(rows['scale'], rows[score] - known, '.-', label=label)
        axes.axhline(0, color='grey', linewidth=0.8, zorder=0)
        axes.set(
            xlabel='bias scale at test time (logits)', ylabel=f'{score} minus that of the learned'
        )
        axes.grid(color='#e5e5e5', linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _score_section(table: pd.DataFrame, score: str) -> str:
    """The best scale of each part, how much hangs on it, and all scores."""
    best = best_table(table, score)
    note = (
        f'The choice of the scale moves the {score} of no part by more than '
        f'{best["best minus worst"].max():.4f}; an order of the conditions means nothing where '
        'that is less than the noise between seeds.'
    )
    scores = score_table(table, score).rename_axis('scale').reset_index()
    return f'## {score}\n\n{_markdown(best)}\n\n{note}\n\n{_markdown(scores)}'


def _without_halves(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table['kind'].isin(HALVES)]


def _best_label(rows: pd.DataFrame, score: str) -> str:
    """The scales with the highest score."""
    best = rows[rows[score] == rows[score].max()]
    return 'none: all equal' if len(best) == len(rows) else ', '.join(best['label'])


def _markdown(table: pd.DataFrame) -> str:
    """As Markdown, numbers with four digits."""
    shown = table.map(lambda value: f'{value:.4f}' if isinstance(value, float) else value)
    return shown.to_markdown(index=False, disable_numparse=True)
