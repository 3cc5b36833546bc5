"""The report of a robustness test: tables, Markdown and a plot."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ..atomic_file import save_figure
from ..failures import CLEAN, Failure
from .cell import CellResult

SCORES = ('NDS', 'mAP')
FALLS = ('fall_spoiled', 'fall_elsewhere')
DONE, MISSING, NOT_APPLICABLE = 'done', 'missing', 'not applicable'
COLUMNS = (
    *('model', 'failure', 'group', 'status', 'NDS', 'mAP', 'NDS_change', 'mAP_change'),
    *('samples', 'changed', 'camera_attention', 'lidar_weight', 'camera_weight'),
    *('shift', 'shift_low', 'shift_high', 'trust_moves', *FALLS),
)

ROUTERS = """## Does trust move to the healthy sensor?

Mean of the router's weights over all queries, in [-1, 1]. The shift is the change of \
(LiDAR - cameras) against the test without failure, sample by sample: below zero, trust moves to \
the cameras. Its interval takes samples as independent, which neighbouring frames are not. \
Nothing is said where both sensors fail."""


def long_table(
    models: Mapping[str, str],
    failures: Sequence[Failure],
    results: Mapping[tuple[str, str], CellResult],
) -> pd.DataFrame:
    """One row for each model and failure; ``results`` are those that there are.

    ``models`` are the sensors that a model reads ('LC', 'L', 'C'), by its name. Columns: scores
    are 0-1, changes are against the test without failure; ``changed`` is the share of samples
    whose input changed, ``camera_attention`` a share, mean of the layers; ``shift`` is that of
    trust, and the falls are of trust in the failed sensors, by where queries look. NaN where there
    is no value.
    """
    rows = []
    for (model, sensors), failure in product(models.items(), failures):
        row: dict[str, object] = dict(model=model, failure=failure.name, group=failure.group)
        row['status'] = MISSING if failure.applies_to(sensors) else NOT_APPLICABLE
        if result := results.get((model, failure.name)):
            row.update(_numbers(failure, result, results.get((model, CLEAN))))
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _numbers(failure: Failure, result: CellResult, clean: CellResult | None) -> dict[str, object]:
    """What a row says about a test that was made."""
    numbers: dict[str, object] = dict(status=DONE, NDS=result.nds, mAP=result.mean_ap)
    numbers['samples'] = result.num_samples
    if failure.transforms:
        numbers['changed'] = result.num_changed / max(result.num_samples, 1)
    if clean is not None:
        numbers['NDS_change'] = result.nds - clean.nds
        numbers['mAP_change'] = result.mean_ap - clean.mean_ap
    if result.camera_attention:
        numbers['camera_attention'] = np.mean(result.camera_attention)
    if result.weights:
        numbers['lidar_weight'], numbers['camera_weight'] = np.mean([*result.weights.values()], 0)
        if clean is not None and failure.transforms:
            mean, low, high = trust_shift(clean.weights, result.weights)
            numbers.update(shift=mean, shift_low=low, shift_high=high)
            numbers['trust_moves'] = shift_in_words(low, high, failure.healthy)
    if result.falls:
        numbers.update(pd.DataFrame([*result.falls.values()], columns=FALLS).mean())
    return numbers


def trust_shift(
    clean: Mapping[str, Sequence[float]], failed: Mapping[str, Sequence[float]]
) -> tuple[float, float, float]:
    """Change of (LiDAR weight - camera weight): mean and ends of its 95 % interval.

    Given are, by sample, the mean weights of LiDAR and cameras without and under the failure;
    each sample that both have is compared with itself. NaN where there is none, or a weight is
    NaN. Consecutive samples of a scene are alike, so that the interval is rather too narrow.
    """
    changes = [np.subtract(failed[name], clean[name]) for name in clean if name in failed]
    shifts = pd.Series([lidar - camera for lidar, camera in changes], dtype=float)
    mean, error = shifts.mean(skipna=False), shifts.sem(skipna=False)
    reach = error * stats.t.ppf(0.975, len(shifts) - 1)
    return mean, mean - reach, mean + reach


def shift_in_words(low: float, high: float, healthy: str) -> str:
    """What the interval of a shift allows to say; ``healthy`` is :attr:`.Failure.healthy`."""
    if not healthy or np.isnan(low):
        return '-'
    if low <= 0 <= high:
        return 'no difference seen'
    return f'to the {"healthy" if (low > 0) == (healthy == "L") else "failed"} sensor'


def failure_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over the failures of a :func:`long_table`, the clean test left out.

    ``failure`` is 'mean of LiDAR', ..., of the other groups and 'mean of all failures'. NaN where
    a test is missing; failures that do not apply to a model are left out of its mean.
    """
    rows = []
    failed = table[(table['failure'] != CLEAN) & (table['status'] != NOT_APPLICABLE)]
    for model, mine in failed.groupby('model', sort=False):
        parts = [*mine.groupby('group', sort=False), ('all failures', mine)]
        for name, part in parts:
            means = part[[*SCORES]].mean(skipna=False)
            rows.append(dict(model=model, failure=f'mean of {name}', **means))
    return pd.DataFrame(rows, columns=['model', 'failure', *SCORES])


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score of a :func:`long_table`: rows are failures and their means, columns models.

    Strings; '-' where a test is missing, 'n/a' where a failure does not apply.
    """
    both = pd.concat([table, failure_means(table)], ignore_index=True)
    both['text'] = _texts(both[score], '.4f').mask(both['status'] == NOT_APPLICABLE, 'n/a')
    wide = both.pivot(index='failure', columns='model', values='text')
    ordered = wide.reindex(index=both['failure'].unique(), columns=table['model'].unique())
    return ordered.fillna('-').rename_axis(index=score, columns=None)


def router_table(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The router of one model under each failure, as strings; empty without router."""
    mine = table[(table['model'] == model) & table['lidar_weight'].notna()].set_index('failure')
    numbers = mine[['lidar_weight', 'camera_weight', 'shift', 'shift_low', 'shift_high']]
    texts = numbers.apply(_texts, form='+.3f').astype(object)
    interval = texts['shift_low'] + ' to ' + texts['shift_high']
    columns = {
        'LiDAR': texts['lidar_weight'],
        'cameras': texts['camera_weight'],
        'shift': texts['shift'],
        '95 % interval': interval.where(numbers['shift_low'].notna(), '-'),
        'trust moves': mine['trust_moves'].astype(object).fillna('-'),
    }
    return pd.DataFrame(columns)


def markdown_report(
    table: pd.DataFrame, failures: Sequence[Failure], sources: Mapping[str, str], plot: str
) -> str:
    """The report on a :func:`long_table` in Markdown; ``plot`` is the file beside it.

    ``sources`` are config and checkpoint of each model, by its name.
    """
    parts = ['# Robustness against sensor failures']
    parts.append('\n'.join(f'- **{model}**: {source}' for model, source in sources.items()))
    unfinished = table[table['status'] == MISSING]
    if len(unfinished):
        names = ', '.join(unfinished['model'] + ' / ' + unfinished['failure'])
        parts.append(f'**Not finished:** {names}. Means that need them are left out.')
    parts.append(f'![scores and weights]({plot})')
    sections = {f'## {score}': score_table(table, score) for score in SCORES}
    routers = table.loc[table['lidar_weight'].notna(), 'model'].unique()
    for number, model in enumerate(routers):
        heading = f'{ROUTERS}\n\n### {model}' if number == 0 else f'### {model}'
        sections[heading] = router_table(table, model)
    told = pd.DataFrame({'what happens': {f.name: f.description for f in failures}})
    for model, mine in table.set_index('failure').groupby('model', sort=False):
        percents = 100 * mine['changed'].reindex(told.index)
        told[f'inputs changed, {model}'] = _texts(percents, '.0f', ' %')
    sections['## Failures'] = told
    for heading, section in sections.items():
        parts += [heading, section.to_markdown(disable_numparse=True)]
    return '\n\n'.join(parts) + '\n'


def _texts(values: pd.Series, form: str, unit: str = '') -> pd.Series:
    """Numbers in words; '-' for NaN."""
    return values.map(lambda value: '-' if np.isnan(value) else format(value, form) + unit)


_MARKERS = {'lidar_weight': ('LiDAR', 'o', 'full'), 'camera_weight': ('cameras', 's', 'none')}


def save_robustness_plot(path: Path, table: pd.DataFrame) -> None:
    """Draw NDS and mAP of each model under each failure, and the weights of routers."""
    failures, models = list(table['failure'].unique()), list(table['model'].unique())
    has_router = bool(table['lidar_weight'].notna().any())
    height = 2.0 + len(failures) * (0.22 + 0.13 * len(models))
    width = 13.0 if has_router else 9.0
    figure = Figure(figsize=(width, height), dpi=120, layout='constrained', facecolor='white')
    panels = figure.subplots(1, 3 if has_router else 2, sharey=True)
    for index, model in enumerate(models):
        mine = table[table['model'] == model].set_index('failure').reindex(failures)
        place = 0.8 * ((index + 0.5) / len(models) - 0.5)
        rows = [row + place for row in range(len(failures))]
        color = f'C{index % 10}'
        for axes, score in zip(panels, ('NDS', 'mAP'), strict=False):
            axes.barh(rows, mine[score], height=0.75 / len(models), color=color, label=model)
            axes.set_xlabel(f'{score} (0 to 1)')
            axes.set_xlim(left=0)
        for column, (sensor, marker, fill) in _MARKERS.items():
            if mine[column].notna().any():
                style = dict(color=color, fillstyle=fill, markersize=4)
                panels[2].plot(mine[column], rows, marker, label=f'{model}: {sensor}', **style)
    if has_router:
        panels[2].axvline(0, color='#888888', linewidth=0.8)
        panels[2].set_xlim(-1.05, 1.05)
        panels[2].set_xlabel("router's mean weight (-1 to 1)")
    panels[0].set_yticks(range(len(failures)), failures)
    panels[0].set_ylim(len(failures) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis='x', color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    told = panels[::2]  # the second panel has the models of the first
    handles = [handle for axes in told for handle in axes.get_legend_handles_labels()[0]]
    columns = max(len(models), 2)
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, frameon=False)
    save_figure(figure, path)
