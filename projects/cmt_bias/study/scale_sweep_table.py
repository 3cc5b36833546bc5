"""The numbers of a scale sweep as tables."""

import math

import pandas as pd

from ..metrics.subset_evaluation import HALVES, WHOLE
from .scale_sweep import LEARNED, SweepResult

SCORES = ('NDS', 'mAP')
OVERRIDE, LEARNED_POINT = 'override', 'learned'


def long_table(result: SweepResult) -> pd.DataFrame:
    """A row for each scale and part, the learned scale last.

    Args:
        result: Of the sweep.

    Returns:
        ``point`` ('learned' or 'override'), ``scale`` (logits; NaN for a learned one with several
        entries), ``part``, ``kind`` (see :class:`.subset_evaluation.Subset`), ``frames``,
        ``scenes``, ``objects``, ``classes without objects``, then mAP, NDS, the mean errors and
        the APs of the classes.
    """
    entries = list(result.learned.values())
    learned = entries[0] if len(entries) == 1 else math.nan
    scenes = {WHOLE: sum(result.scenes.values()), **result.scenes}
    return pd.DataFrame(
        {
            'point': LEARNED_POINT if scale is LEARNED else OVERRIDE,
            'scale': learned if scale is LEARNED else scale,
            'part': part.name,
            'kind': part.kind,
            'frames': part.samples,
            'scenes': _number_of_scenes(part.kind, scenes[part.name]),
            'objects': part.objects,
            'classes without objects': ', '.join(part.absent_classes),
            **part.metrics,
        }
        for scale, parts in result.parts.items()
        for part in parts
    )


def _number_of_scenes(kind: str, scenes: int) -> int:
    """The scenes of a part, or of its first or second half, which take turns."""
    if kind not in HALVES:
        return scenes
    return (scenes + 1 - HALVES.index(kind)) // 2


def without_halves(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`long_table` of the whole and of the conditions."""
    return table[~table['kind'].isin(HALVES)]


def point_labels(table: pd.DataFrame) -> pd.Series:
    """What each row's scale is called: '2.5', 'learned (2.613)', or 'learned' for many entries."""
    return pd.Series(
        [
            f'{row.scale:.12g}'
            if row.point == OVERRIDE
            else LEARNED_POINT + ('' if math.isnan(row.scale) else f' ({row.scale:.3f})')
            for row in table.itertuples()
        ],
        index=table.index,
    )


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score: scales down (the learned one last), parts across."""
    table = without_halves(table)
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
        of the learned scale), ``lowest`` (score of the worst scale), ``halves`` (the best scale in
        each half of the part's scenes; empty for one scene).
    """
    swept = table.loc[table['point'] == OVERRIDE, 'scale']
    rows = []
    for part, group in without_halves(table).groupby('part', sort=False):
        halves = table[(table['part'] == part) & table['kind'].isin(HALVES)]
        top, bottom = group[score].max(), group[score].min()
        best = group[group[score] == top]
        scale = best['scale'].iloc[0] if best['scale'].nunique(dropna=False) == 1 else math.nan
        rows.append(
            {
                'part': part,
                'frames': group['frames'].iloc[0],
                'scenes': group['scenes'].iloc[0],
                'best': _best_label(group, score),
                'scale': math.nan if top == bottom else scale,
                'is_edge': top > bottom and scale in (swept.min(), swept.max()),
                'score': top,
                'learned': group.loc[group['point'] == LEARNED_POINT, score].iloc[0],
                'lowest': bottom,
                'halves': [_best_label(half, score) for _, half in halves.groupby('kind')],
            }
        )
    return pd.DataFrame(rows)


def _best_label(rows: pd.DataFrame, score: str) -> str:
    """The scales with the highest score; empty where all have it."""
    best = rows[rows[score] == rows[score].max()]
    return '' if len(best) == len(rows) else ', '.join(point_labels(best))
