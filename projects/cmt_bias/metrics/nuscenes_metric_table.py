"""The nuScenes metrics of a test as a table: AP and the five errors of each class, mAP and NDS."""

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from nuscenes.eval.detection.constants import DETECTION_NAMES
from tabulate import SEPARATING_LINE, tabulate

# Error in mmdet3d's metric keys -> its name for one class; averaged over classes 'mATE' ...
ERRORS = dict(trans_err='ATE', scale_err='ASE', orient_err='AOE', vel_err='AVE', attr_err='AAE')

UNITS = 'ATE in metres, ASE as 1 - IoU, AOE in radians, AVE in m/s, AAE as 1 - accuracy'


@dataclass(frozen=True)
class NuScenesScores:
    """Scores of one set of results."""

    nds: float  # nuScenes detection score, 0-1
    mean_ap: float  # over classes and matching distances, 0-1
    mean_errors: pd.Series  # mATE, mASE, mAOE, mAVE, mAAE
    # A row for each class: AP, averaged over matching distances, ATE, ASE, AOE, AVE, AAE; NaN
    # where not defined (a cone has no heading).
    classes: pd.DataFrame

    @property
    def absent_classes(self) -> list[str]:
        """Classes that the model does not have, which official means count; none if unknown."""
        known = self.classes.index
        return [name for name in DETECTION_NAMES if len(known) and name not in known]

    def of_own_classes(self) -> 'NuScenesScores':
        """The same scores with all means over the classes that the model has."""
        means = self.classes.mean()
        errors = means.drop('AP').fillna(1.0).add_prefix('m')
        # The official formula: mAP counts as much as the five errors together.
        nds = (5 * means['AP'] + (1 - errors).clip(lower=0).sum()) / 10
        return replace(self, nds=nds, mean_ap=means['AP'], mean_errors=errors)

    def describe_own_means(self) -> str:
        """A sentence on the official means of a model that has not all classes."""
        own = self.of_own_classes()
        return (
            f'mAP {self.mean_ap:.4f} and NDS {self.nds:.4f} are means over all '
            f'{len(DETECTION_NAMES)} classes of nuScenes, with AP 0 and errors of 1 for those '
            f'that the model does not have ({", ".join(self.absent_classes)}). Over its own '
            f'{len(self.classes)} classes: mAP {own.mean_ap:.4f}   NDS {own.nds:.4f}'
        )


def parse_nuscenes_metrics(metrics: Mapping[str, float]) -> dict[str, NuScenesScores]:
    """Scores by result name (``pred_instances_3d``) from what ``runner.test()`` returns.

    Keys of mmdet3d's ``NuScenesMetric`` are such as
    ``NuScenes metric/pred_instances_3d_NuScenes/car_AP_dist_0.5``; without any it is empty.
    """
    by_result: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if match := re.search(r'(\w+)_NuScenes/(.+)$', key):
            by_result.setdefault(match[1], {})[match[2]] = float(value)
    return {
        name: _scores_of(pd.Series(found)) for name, found in by_result.items() if 'NDS' in found
    }


def _scores_of(metrics: pd.Series) -> NuScenesScores:
    """Scores from the metrics of one result, keys without prefix."""
    precisions = metrics.filter(regex='_AP_dist_')
    classes = precisions.index.str.replace('_AP_dist_.*', '', regex=True)
    columns = {'AP': precisions.groupby(classes, sort=False).mean()}
    for key, name in ERRORS.items():
        of_class = metrics.filter(regex=f'_{key}$')
        columns[name] = of_class.rename(lambda text, end=f'_{key}': text.removesuffix(end))
    return NuScenesScores(
        nds=metrics['NDS'],
        mean_ap=metrics['mAP'],
        mean_errors=metrics.reindex([f'm{name}' for name in ERRORS.values()]),
        classes=pd.DataFrame(columns).reindex(columns['AP'].index),
    )


def nuscenes_metric_table(scores: NuScenesScores, title: str = 'nuScenes detection') -> str:
    """The scores as text of at most 99 columns: a row for each class, then the means, then NDS."""
    averaged = {'mean': scores}
    summary = f'mAP {scores.mean_ap:.4f}   NDS {scores.nds:.4f}'
    if scores.absent_classes:
        own = f'mean of {len(scores.classes)}'
        averaged = {'mean of all 10': scores, own: scores.of_own_classes()}
        summary = textwrap.fill(scores.describe_own_means(), 99)
    rows = scores.classes.copy()
    for name, each in averaged.items():
        rows.loc[name] = [each.mean_ap, *each.mean_errors]
    texts = rows.map(lambda value: '-' if math.isnan(value) else f'{value:.3f}')
    cells = texts.reset_index().to_numpy().tolist()
    cells.insert(len(scores.classes), SEPARATING_LINE)
    sides = ('left', *['right'] * len(rows.columns))
    table = tabulate(cells, ['class', *rows], colalign=sides, disable_numparse=True)
    return f'{title}\n\n{textwrap.indent(table, "  ")}\n\n{UNITS}\n{summary}'
