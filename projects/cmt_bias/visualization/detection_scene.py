"""What one picture shows: sensor data, boxes and names of one sample, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .projection_geometry import FloatArray

ImageArray = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledBoxes:
    """Boxes with their classes and, for detections, scores.

    Attributes:
        boxes: (N, >= 7), bottom-centred (x, y, z, length, width, height, yaw, ...), metres and
            radians, LiDAR frame.
        labels: (N,), positions in the list of class names; -1 is an object of no known class.
        scores: (N,) in [0, 1], or None for ground truth.
    """

    boxes: FloatArray
    labels: NDArray[np.int64]
    scores: FloatArray | None = None

    def __post_init__(self) -> None:
        lengths = {'boxes': len(self.boxes), 'labels': len(self.labels)}
        if self.scores is not None:
            lengths['scores'] = len(self.scores)
        if len(set(lengths.values())) > 1:
            raise ValueError(f'boxes, labels and scores must have one length, got {lengths}')

    def __len__(self) -> int:
        return len(self.boxes)

    def with_score_at_least(self, score_thr: float) -> LabelledBoxes:
        """The boxes whose score reaches ``score_thr``, lowest score first; all without scores."""
        if self.scores is None:
            return self
        order = np.argsort(self.scores, kind='stable')
        kept = order[self.scores[order] >= score_thr]
        return LabelledBoxes(self.boxes[kept], self.labels[kept], self.scores[kept])


@dataclass(frozen=True)
class CameraView:
    """One camera's image and calibration.

    Attributes:
        name: e.g. ``CAM_FRONT``.
        image: (H, W, 3) uint8, RGB.
        lidar2img: (4, 4), pixel of ``image`` from LiDAR frame.
    """

    name: str
    image: ImageArray
    lidar2img: FloatArray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image.shape[:2]
        return height, width


@dataclass(frozen=True)
class DetectionScene:
    """All that one picture shows.

    Attributes:
        class_names: names of the labels 0, 1, ...
        cameras: the camera views; empty where the sample has no camera.
        points: (P, >= 3) x, y, z in metres, LiDAR frame; None where the sample has no LiDAR.
        ground_truth: annotated boxes, or None where there are no annotations.
        detections: detected boxes, or None where no detector ran.
        title: first line of the picture, e.g. the scene's name and description.
        subtitle: second line, e.g. which sample this is.
    """

    class_names: Sequence[str]
    cameras: Sequence[CameraView]
    points: FloatArray | None = None
    ground_truth: LabelledBoxes | None = None
    detections: LabelledBoxes | None = None
    title: str = ''
    subtitle: str = ''
