"""The numbers of a scale sweep as tables."""

import math

import pandas as pd

from .scale_sweep import LEARNED, SweepResult
from .subset_evaluation import WHOLE

SCORES = ('NDS', 'mAP')
OVERRIDE, LEARNED_POINT = 'override', 'learned'


def long_table(result: SweepResult) -> pd.DataFrame:
    """A row for each scale and part, the learned scale last.

    Args:
        result: Of the sweep.

    Returns:
        ``point`` ('learned' or 'override'), ``scale`` (logits; NaN for a learned one with several
        entries), ``part``, ``frames``, ``scenes``, ``objects``, ``classes without objects``, then
        mAP, NDS, the mean errors and the APs of the classes.
    """
    entries = list(result.learned.values())
    learned = entries[0] if len(entries) == 1 else math.nan
    scenes = {WHOLE: sum(result.scenes.values()), **result.scenes}
    return pd.DataFrame(
        {
            'point': LEARNED_POINT if scale is LEARNED else OVERRIDE,
            'scale': learned if scale is LEARNED else scale,
            'part': part.name,
            'frames': part.samples,
            'scenes': scenes[part.name],
            'objects': part.objects,
            'classes without objects': ', '.join(part.absent_classes),
            **part.metrics,
        }
        for scale, parts in result.parts.items()
        for part in parts
    )


def point_labels(table: pd.DataFrame) -> pd.Series:
    """What each row's scale is called: '2.5', 'learned (2.613)', or 'learned' for many entries."""
    return pd.Series(
        [
            f'{row.scale:g}'
            if row.point == OVERRIDE
            else LEARNED_POINT + ('' if math.isnan(row.scale) else f' ({row.scale:.3f})')
            for row in table.itertuples()
        ],
        index=table.index,
    )


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score: scales down (the learned one last), parts across."""
    wide = table.assign(scale=point_labels(table)).pivot(
        index='scale', columns='part', values=score
    )
    rows, parts = point_labels(table).unique(), table['part'].unique()
    return wide.reindex(index=rows, columns=parts)


def best_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """For each part the scale with the highest score, beside the learned one.

    Args:
        table: Of :func:`long_table`.
        score: 'NDS' or 'mAP'.

    Returns:
        A row for each part: ``part``, ``frames``, ``scenes``, ``best`` (the scale's label; several
        where they are equal, empty where all are), ``scale`` (its number, NaN where it has none or
        several), ``is_edge`` (the lowest or highest of the sweep), ``score``, ``learned`` (score
        of the learned scale), ``lowest`` (score of the worst scale).
    """
    swept = table.loc[table['point'] == OVERRIDE, 'scale']
    rows = []
    for part, group in table.groupby('part', sort=False):
        top, bottom = group[score].max(), group[score].min()
        best = group[group[score] == top]
        scale = best['scale'].iloc[0] if best['scale'].nunique(dropna=False) == 1 else math.nan
        rows.append(
            {
                'part': part,
                'frames': group['frames'].iloc[0],
                'scenes': group['scenes'].iloc[0],
                'best': '' if top == bottom else ', '.join(point_labels(best)),
                'scale': math.nan if top == bottom else scale,
                'is_edge': top > bottom and scale in (swept.min(), swept.max()),
                'score': top,
                'learned': group.loc[group['point'] == LEARNED_POINT, score].iloc[0],
                'lowest': bottom,
            }
        )
    return pd.DataFrame(rows)
