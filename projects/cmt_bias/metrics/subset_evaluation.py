"""The official nuScenes metric on parts of a test: by condition, and by distance."""

import math
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import MMLogger
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

from ..datasets.nuscenes_layout import EVALUATED_SPLITS
from .conditions import halves_by_scene, samples_by_condition
from .nuscenes_metric_table import ERRORS

WHOLE = 'whole'
HALVES = ('half 1', 'half 2')
DISTANCE_BANDS = {
    '0-20 m': (0.0, 20.0),
    '20-40 m': (20.0, 40.0),
    '40+ m': (40.0, math.inf),
}
SMALL_OBJECTS = ('pedestrian', 'traffic_cone', 'bicycle', 'motorcycle', 'barrier')


@dataclass(frozen=True)
class Subset:
    """A part of the test.

    Attributes:
        name: Such as 'night' or '0-20 m'.
        kind: 'whole', 'condition' or 'distance'; 'half 1' or 'half 2' of the scenes of a part.
        samples: Number of samples.
        objects: Number of annotated objects that the metric counts.
        absent_classes: Classes without any; the official metric gives them AP 0 and errors of 1.
        metrics: mAP, NDS, the five mean errors, and 'AP <class>' of every class.
    """

    name: str
    kind: str
    samples: int
    objects: int
    absent_classes: tuple[str, ...]
    metrics: Mapping[str, float]


class SubsetEvaluation(DetectionEval):
    """The official evaluation, of all boxes or of some.

    The official code reads and filters all of them; then it gets those of a subset. A distance is
    that of the box itself from the vehicle, so a detection near a limit may fall on another side
    than its object.

    Args:
        nusc: The tables.
        detections: The file of detections in the official format.
        version: Of the nuScenes tables, which decides the split.
        eval_version: Name of the official settings.
    """

    gt_boxes: EvalBoxes
    pred_boxes: EvalBoxes

    def __init__(self, nusc: NuScenes, detections: Path, version: str, eval_version: str) -> None:
        with tempfile.TemporaryDirectory() as unused:
            super().__init__(
                nusc,
                config=config_factory(eval_version),
                result_path=str(detections),
                eval_set=EVALUATED_SPLITS[version],
                output_dir=unused,
                verbose=False,
            )
        found = {box.detection_name for box in self.pred_boxes.all}
        never = [name for name in self.cfg.class_names if name not in found]
        if never:
            MMLogger.get_current_instance().warning(
                f"mAP and NDS of '{detections}' count {', '.join(never)} with AP 0 and errors of "
                f'1: there is no detection of them. A model of fewer classes is to be compared '
                'class by class.'
            )

    def subsets(self) -> list[Subset]:
        """The whole, every condition that occurs, and every band of distance."""
        bands = [
            self._subset(name, 'distance', self.sample_tokens, band)
            for name, band in DISTANCE_BANDS.items()
        ]
        return self.by_condition() + bands

    def by_condition(self) -> list[Subset]:
        """The whole, and every condition that occurs."""
        groups = samples_by_condition(self.nusc, self.sample_tokens)
        return [
            self._subset(WHOLE, WHOLE, self.sample_tokens),
            *(self._subset(name, 'condition', tokens) for name, tokens in groups.items()),
        ]

    def halves_by_condition(self) -> list[Subset]:
        """The whole and every condition with several scenes, each in two halves of its scenes."""
        groups = samples_by_condition(self.nusc, self.sample_tokens)
        found = []
        for name, tokens in {WHOLE: self.sample_tokens, **groups}.items():
            halves = halves_by_scene(self.nusc, tokens)
            if all(halves):
                parts = zip(HALVES, halves, strict=True)
                found += [self._subset(name, kind, half) for kind, half in parts]
        return found

    def _subset(
        self,
        name: str,
        kind: str,
        tokens: Collection[str],
        band: tuple[float, float] = (0.0, math.inf),
    ) -> Subset:
        all_boxes = self.gt_boxes, self.pred_boxes
        try:
            self.gt_boxes, self.pred_boxes = (_select(boxes, tokens, band) for boxes in all_boxes)
            metrics, _ = self.evaluate()
            annotated = [box.detection_name for box in self.gt_boxes.all]
        finally:
            self.gt_boxes, self.pred_boxes = all_boxes
        absent = tuple(label for label in self.cfg.class_names if label not in annotated)
        return Subset(name, kind, len(tokens), len(annotated), absent, flat_metrics(metrics))


def _select(boxes: EvalBoxes, tokens: Collection[str], band: tuple[float, float]) -> EvalBoxes:
    """Boxes of some samples, within a band of distance in metres; in the order they had."""
    chosen, members = EvalBoxes(), set(tokens)
    for token in boxes.sample_tokens:
        if token in members:
            inside = [box for box in boxes[token] if band[0] <= box.ego_dist < band[1]]
            chosen.add_boxes(token, inside)
    return chosen


def flat_metrics(metrics: DetectionMetrics) -> dict[str, float]:
    """The official metrics under the names of the report."""
    scores = metrics.serialize()
    errors = {name: scores['tp_errors'][key] for key, (_, name) in ERRORS.items()}
    classes = {f'AP {label}': float(ap) for label, ap in scores['mean_dist_aps'].items()}
    return {'mAP': scores['mean_ap'], 'NDS': scores['nd_score'], **errors, **classes}
