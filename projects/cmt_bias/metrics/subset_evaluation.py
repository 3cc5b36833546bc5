"""The official nuScenes metric on parts of a test: by condition, distance and half of it."""

import copy
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from mmengine.logging import MMLogger
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

from ..datasets.nuscenes_layout import EVALUATED_SPLITS
from ..failures.scene_conditions import scene_condition
from .nuscenes_metric_table import ERRORS

WHOLE = 'whole'
HALVES = ('half 1', 'half 2')
ANYWHERE = (0.0, math.inf)
DISTANCE_BANDS = {'0-20 m': (0.0, 20.0), '20-40 m': (20.0, 40.0), '40+ m': (40.0, math.inf)}
SMALL_OBJECTS = ('pedestrian', 'traffic_cone', 'bicycle', 'motorcycle', 'barrier')


@dataclass(frozen=True)
class Subset:
    """A part of the test."""

    name: str  # such as 'night' or '0-20 m'
    kind: str  # 'whole', 'condition' or 'distance'; 'half 1' or 'half 2' of the scenes of a part
    samples: int
    scenes: int  # that they are from
    objects: int  # annotated, and counted by the metric
    absent_classes: tuple[str, ...]  # without objects: officially AP 0 and errors of 1
    metrics: Mapping[str, float]  # mAP, NDS, the five mean errors, 'AP <class>' of every class


class SubsetEvaluation(DetectionEval):
    """The official evaluation, which reads and filters all boxes, and then gets some of them.

    A distance is that of the box itself from the vehicle, so a detection near a limit may fall on
    another side than its object. ``detections`` is a file in the official format; the version of
    the tables decides the split, ``eval_version`` names the official settings.
    """

    gt_boxes: EvalBoxes
    pred_boxes: EvalBoxes

    def __init__(self, nusc: NuScenes, detections: Path, version: str, eval_version: str) -> None:
        with tempfile.TemporaryDirectory() as unused:
            settings, split = config_factory(eval_version), EVALUATED_SPLITS[version]
            super().__init__(nusc, settings, str(detections), split, unused, verbose=False)
        found = {box.detection_name for box in self.pred_boxes.all}
        never = [name for name in self.cfg.class_names if name not in found]
        if never:
            MMLogger.get_current_instance().warning(
                f"mAP and NDS of '{detections}' count {', '.join(never)} with AP 0 and errors of "
                f'1: there is no detection of them. A model of fewer classes is to be compared '
                'class by class.'
            )
        samples = (nusc.get('sample', token) for token in self.sample_tokens)
        scenes = [nusc.get('scene', sample['scene_token']) for sample in samples]
        table = pd.DataFrame(scenes, index=self.sample_tokens).sort_values(['name', 'token'])
        conditions = table.groupby(table['description'].map(scene_condition))
        self._scenes = {WHOLE: table, **{str(name): rows for name, rows in conditions}}

    def subsets(self, finer: Literal['distance', 'half'] = 'distance') -> list[Subset]:
        """The whole, every condition that occurs, in alphabetical order, and finer parts.

        These are the bands of distance of the whole, or the halves of the whole and of every
        condition with several scenes, which its halves take in turn.
        """
        found = [
            self._subset(name, WHOLE if name == WHOLE else 'condition', scenes)
            for name, scenes in self._scenes.items()
        ]
        if finer == 'distance':
            for name, band in DISTANCE_BANDS.items():
                found.append(self._subset(name, finer, self._scenes[WHOLE], band))
            return found
        for name, scenes in self._scenes.items():
            half = pd.factorize(scenes['token'])[0] % 2
            if half.any():
                found += [self._subset(name, k, scenes[half == n]) for n, k in enumerate(HALVES)]
        return found

    def _subset(
        self, name: str, kind: str, scenes: pd.DataFrame, band: tuple[float, float] = ANYWHERE
    ) -> Subset:
        """Evaluate samples, ``scenes`` by token, within a band of distance in metres."""
        part, tokens = copy.copy(self), set(scenes.index)
        part.gt_boxes = _select(self.gt_boxes, tokens, band)
        part.pred_boxes = _select(self.pred_boxes, tokens, band)
        metrics, _ = part.evaluate()
        annotated = [box.detection_name for box in part.gt_boxes.all]
        absent = tuple(label for label in self.cfg.class_names if label not in annotated)
        counts = len(tokens), scenes['token'].nunique(), len(annotated)
        return Subset(name, kind, *counts, absent, flat_metrics(metrics))


def _select(boxes: EvalBoxes, tokens: set[str], band: tuple[float, float]) -> EvalBoxes:
    """Boxes of some samples, within a band of distance in metres; in the order they had."""
    low, high = band
    chosen = EvalBoxes()
    for token in boxes.sample_tokens:
        if token in tokens:
            chosen.add_boxes(token, [box for box in boxes[token] if low <= box.ego_dist < high])
    return chosen


def flat_metrics(metrics: DetectionMetrics) -> dict[str, float]:
    """The official metrics under the names of the report."""
    scores = metrics.serialize()
    errors = {f'm{name}': scores['tp_errors'][key] for key, name in ERRORS.items()}
    classes = {f'AP {label}': float(ap) for label, ap in scores['mean_dist_aps'].items()}
    return {'mAP': scores['mean_ap'], 'NDS': scores['nd_score'], **errors, **classes}
