"""The tables of a robustness test."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..failures import CLEAN, Failure
from .cell import CellResult
from .trust_shift import shift_in_words, trust_shift

Results = Mapping[tuple[str, str], CellResult]
"""Results by (model, failure's name)."""

SCORES = {'NDS': 'nds', 'mAP': 'mean_ap'}
FALLS = ('fall_spoiled', 'fall_elsewhere')
GROUPS = ('LiDAR', 'cameras', 'misleading', 'degradations')
DONE, MISSING, NOT_APPLICABLE = 'done', 'missing', 'not applicable'


def long_table(
    models: Mapping[str, str], failures: Sequence[Failure], results: Results
) -> pd.DataFrame:
    """One row for each model and failure.

    Args:
        models: Sensors that a model reads ('LC', 'L', 'C'), by its name.
        failures: What was asked for.
        results: What there is.

    Returns:
        Columns model, failure, group, status (done, missing, not applicable), NDS, mAP (0-1),
        NDS_change, mAP_change against the test without failure, samples, changed (share of
        samples whose input changed), camera_attention (share, mean of the layers), lidar_weight,
        camera_weight, shift, shift_low, shift_high, trust_moves, fall_spoiled and fall_elsewhere
        (of trust in the failed sensors, by where queries look); NaN or '-' where there is no
        value.
    """
    rows = []
    for model, sensors in models.items():
        clean = results.get((model, CLEAN))
        for failure in failures:
            row: dict[str, object] = dict(model=model, failure=failure.name, group=failure.group)
            result = results.get((model, failure.name))
            if result is not None:
                row.update(status=DONE, **_numbers(failure, result, clean))
            else:
                row['status'] = MISSING if failure.applies_to(sensors) else NOT_APPLICABLE
            rows.append(row)
    columns = ['model', 'failure', 'group', 'status', 'NDS', 'mAP', 'NDS_change', 'mAP_change']
    columns += ['samples', 'changed', 'camera_attention', 'lidar_weight', 'camera_weight']
    columns += ['shift', 'shift_low', 'shift_high', 'trust_moves', *FALLS]
    return pd.DataFrame(rows).reindex(columns=columns)


def _numbers(failure: Failure, result: CellResult, clean: CellResult | None) -> dict[str, object]:
    """What a row says about a test that was made."""
    numbers: dict[str, object] = dict(
        NDS=result.nds, mAP=result.mean_ap, samples=result.num_samples
    )
    if failure.transforms:
        numbers['changed'] = result.num_changed / max(result.num_samples, 1)
    if clean is not None:
        numbers['NDS_change'] = result.nds - clean.nds
        numbers['mAP_change'] = result.mean_ap - clean.mean_ap
    if result.camera_attention:
        numbers['camera_attention'] = float(np.mean(result.camera_attention))
    if not result.weights:
        return numbers
    lidar, camera = np.mean(list(result.weights.values()), axis=0)
    numbers.update(lidar_weight=float(lidar), camera_weight=float(camera))
    if clean is not None and failure.transforms:
        mean, low, high = trust_shift(clean.weights, result.weights)
        numbers.update(shift=mean, shift_low=low, shift_high=high)
        numbers['trust_moves'] = shift_in_words(low, high, failure.healthy)
    if result.falls:
        falls = pd.DataFrame(list(result.falls.values()), columns=list(FALLS))
        numbers.update(falls.mean().to_dict())
    return numbers


def failure_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over the failures, of each group and of all, the clean test left out.

    Args:
        table: Of :func:`long_table`.

    Returns:
        Columns model, over ('mean of LiDAR', ..., 'mean of all failures'), NDS, mAP. NaN where a
        test is missing; failures that do not apply to a model are left out of its mean.
    """
    rows = []
    failed = table[(table['failure'] != CLEAN) & (table['status'] != NOT_APPLICABLE)]
    for model, mine in failed.groupby('model', sort=False):
        parts = {f'mean of {group}': mine[mine['group'] == group] for group in GROUPS}
        for name, part in {**parts, 'mean of all failures': mine}.items():
            if len(part):
                means = part[list(SCORES)].mean(skipna=False)
                rows.append(dict(model=model, over=name, **means))
    return pd.DataFrame(rows, columns=['model', 'over', *SCORES])


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score: a row for each failure and mean, a column for each model.

    Args:
        table: Of :func:`long_table`.
        score: 'NDS' or 'mAP'.

    Returns:
        Strings; '-' where a test is missing, 'n/a' where a failure does not apply.
    """
    means = failure_means(table).rename(columns={'over': 'failure'})
    both = pd.concat([table, means], ignore_index=True)
    both['text'] = _texts(both[score], '.4f').mask(both['status'] == NOT_APPLICABLE, 'n/a')
    wide = both.pivot(index='failure', columns='model', values='text')
    ordered = wide.reindex(index=both['failure'].unique(), columns=table['model'].unique())
    return ordered.fillna('-').rename_axis(index=score, columns=None)


def router_table(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The router of one model under each failure, as strings; empty without router."""
    mine = table[(table['model'] == model) & table['lidar_weight'].notna()].set_index('failure')
    low, high = _texts(mine['shift_low'], '+.3f'), _texts(mine['shift_high'], '+.3f')
    columns = {
        'LiDAR': _texts(mine['lidar_weight'], '+.3f'),
        'cameras': _texts(mine['camera_weight'], '+.3f'),
        'shift': _texts(mine['shift'], '+.3f'),
        '95 % interval': (low + ' to ' + high).where(low != '-', '-'),
        'trust moves': mine['trust_moves'].astype(object).fillna('-'),
    }
    return pd.DataFrame(columns)


def markdown_report(
    table: pd.DataFrame, failures: Sequence[Failure], sources: Mapping[str, str], plot: str
) -> str:
    """The report.

    Args:
        table: Of :func:`long_table`.
        failures: The failures in it, for their descriptions.
        sources: Config and checkpoint of each model, by its name.
        plot: File name of the plot, beside the report.

    Returns:
        Markdown.
    """
    unfinished = table[table['status'] == MISSING]
    parts = ['# Robustness against sensor failures']
    parts.append('\n'.join(f'- **{model}**: {source}' for model, source in sources.items()))
    if len(unfinished):
        names = ', '.join(unfinished['model'] + ' / ' + unfinished['failure'])
        parts.append(f'**Not finished:** {names}. Means that need them are left out.')
    parts.append(f'![scores and weights]({plot})')
    for score in SCORES:
        parts += [f'## {score}', score_table(table, score).to_markdown(disable_numparse=True)]
    parts += _router_part(table)
    parts += ['## Failures', _descriptions(table, failures).to_markdown(disable_numparse=True)]
    return '\n\n'.join(parts) + '\n'


def _router_part(table: pd.DataFrame) -> list[str]:
    """The section on the routers; nothing if no model has one."""
    parts = [
        '## Does trust move to the healthy sensor?',
        "Mean of the router's weights over all queries, in [-1, 1]. The shift is the change of "
        '(LiDAR - cameras) against the test without failure, sample by sample: below zero, '
        'trust moves to the cameras. Its interval takes samples as independent, which '
        'neighbouring frames are not. Nothing is said where both sensors fail.',
    ]
    routers = table.loc[table['lidar_weight'].notna(), 'model'].unique()
    for model in routers:
        router = router_table(table, model)
        parts += [f'### {model}', router.to_markdown(disable_numparse=True)]
    return parts if len(routers) else []


def _descriptions(table: pd.DataFrame, failures: Sequence[Failure]) -> pd.DataFrame:
    """What each failure is, and the share of samples that it changed, by model."""
    shares = table.pivot(index='failure', columns='model', values='changed')
    frame = pd.DataFrame({'what happens': {f.name: f.description for f in failures}})
    for model in table['model'].unique():
        percents = 100 * shares[model].reindex(frame.index)
        frame[f'inputs changed, {model}'] = _texts(percents, '.0f', ' %')
    return frame


def _texts(values: pd.Series, form: str, unit: str = '') -> pd.Series:
    """Numbers in words; '-' for NaN."""
    texts = ['-' if math.isnan(value) else format(value, form) + unit for value in values]
    return pd.Series(texts, index=values.index, dtype=object)
