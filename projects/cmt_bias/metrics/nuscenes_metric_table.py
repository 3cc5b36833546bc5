"""The nuScenes metrics of a test as a table: AP and the five errors of each class, mAP and NDS."""

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from nuscenes.eval.detection.constants import DETECTION_NAMES
from tabulate import SEPARATING_LINE, tabulate

ERRORS = {
    'trans_err': ('ATE', 'mATE'),
    'scale_err': ('ASE', 'mASE'),
    'orient_err': ('AOE', 'mAOE'),
    'vel_err': ('AVE', 'mAVE'),
    'attr_err': ('AAE', 'mAAE'),
}
"""Error in mmdet3d's metric keys -> its name for one class, its name averaged over classes."""

UNITS = 'ATE in metres, ASE as 1 - IoU, AOE in radians, AVE in m/s, AAE as 1 - accuracy'


@dataclass
class NuScenesScores:
    """Scores of one set of results.

    Attributes:
        nds: nuScenes detection score, 0-1.
        mean_ap: Mean average precision over classes and matching distances, 0-1.
        mean_errors: Keys mATE, mASE, mAOE, mAVE, mAAE.
        class_ap: For each class the average precision, averaged over matching distances.
        class_errors: For each class the keys ATE, ASE, AOE, AVE, AAE; NaN where not defined (a
            cone has no heading).
    """

    nds: float
    mean_ap: float
    mean_errors: dict[str, float] = field(default_factory=dict)
    class_ap: dict[str, float] = field(default_factory=dict)
    class_errors: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes of nuScenes that the model does not have, which the official means count."""
        return tuple(
            name for name in DETECTION_NAMES if self.class_ap and name not in self.class_ap
        )

    def of_own_classes(self) -> 'NuScenesScores':
        """The same scores with all means over the classes that the model has."""
        mean_ap = fmean(self.class_ap.values())
        errors = {}
        for short, mean in ERRORS.values():
            values = (found.get(short, math.nan) for found in self.class_errors.values())
            errors[mean] = fmean([value for value in values if not math.isnan(value)] or [1.0])
        # The official formula: mAP counts as much as the five errors together.
        nds = (5 * mean_ap + sum(max(0.0, 1 - error) for error in errors.values())) / 10
        return replace(self, nds=nds, mean_ap=mean_ap, mean_errors=errors)

    def describe_own_means(self) -> str:
        """A sentence on the official means of a model that has not all classes."""
        own = self.of_own_classes()
        return (
            f'mAP {self.mean_ap:.4f} and NDS {self.nds:.4f} are means over all '
            f'{len(DETECTION_NAMES)} classes of nuScenes, with AP 0 and errors of 1 for those '
            f'that the model does not have ({", ".join(self.absent_classes)}). Over its own '
            f'{len(self.class_ap)} classes: mAP {own.mean_ap:.4f}   NDS {own.nds:.4f}'
        )


def parse_nuscenes_metrics(metrics: Mapping[str, float]) -> dict[str, NuScenesScores]:
    """Sort the flat metric dict of mmdet3d's ``NuScenesMetric``.

    Args:
        metrics: What ``runner.test()`` returns, with keys such as
            ``NuScenes metric/pred_instances_3d_NuScenes/car_AP_dist_0.5``.

    Returns:
        Scores by result name (``pred_instances_3d``); empty without nuScenes metrics.
    """
    by_result: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if match := re.search(r'(\w+)_NuScenes/(.+)$', key):
            by_result.setdefault(match[1], {})[match[2]] = float(value)
    return {name: _scores_of(found) for name, found in by_result.items() if 'NDS' in found}


def _scores_of(metrics: dict[str, float]) -> NuScenesScores:
    """Scores from the metrics of one result, keys without prefix."""
    scores = NuScenesScores(nds=metrics.pop('NDS'), mean_ap=metrics.pop('mAP'))
    by_distance: dict[str, list[float]] = {}
    for key, value in metrics.items():
        if match := re.fullmatch(r'(\w+)_AP_dist_[\d.]+', key):
            by_distance.setdefault(match[1], []).append(value)
        elif match := re.fullmatch(rf'(\w+)_({"|".join(ERRORS)})', key):
            scores.class_errors.setdefault(match[1], {})[ERRORS[match[2]][0]] = value
        else:
            scores.mean_errors[key] = value
    scores.class_ap = {name: fmean(values) for name, values in by_distance.items()}
    return scores


def nuscenes_metric_table(scores: NuScenesScores, title: str = 'nuScenes detection') -> str:
    """The scores as text: a row for each class, then the means, then NDS.

    Args:
        scores: Scores of one set of results.
        title: Heading.

    Returns:
        Lines of at most 99 characters, without colours.
    """
    shorts, means = zip(*ERRORS.values(), strict=True)
    rows: dict[str, list[float | None]] = {
        name: [precision, *map(scores.class_errors.get(name, {}).get, shorts)]
        for name, precision in scores.class_ap.items()
    }
    averaged = {'mean': scores}
    summary = f'mAP {scores.mean_ap:.4f}   NDS {scores.nds:.4f}'
    if scores.absent_classes:
        own = f'mean of {len(scores.class_ap)}'
        averaged = {'mean of all 10': scores, own: scores.of_own_classes()}
        summary = textwrap.fill(scores.describe_own_means(), 99)
    for name, each in averaged.items():
        rows[name] = [each.mean_ap, *map(each.mean_errors.get, means)]
    cells: list[Any] = [
        [name, *('-' if x is None or math.isnan(x) else f'{x:.3f}' for x in numbers)]
        for name, numbers in rows.items()
    ]
    cells.insert(len(scores.class_ap), SEPARATING_LINE)
    table = tabulate(
        cells,
        ['class', 'AP', *shorts],
        colalign=('left', *['right'] * 6),
        disable_numparse=True,
    )
    return f'{title}\n\n{textwrap.indent(table, "  ")}\n\n{UNITS}\n{summary}'
