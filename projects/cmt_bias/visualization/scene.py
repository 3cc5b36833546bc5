"""What a picture of a sample shows: images, points and boxes, as the detector has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

_REAR = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
BOX_EDGES = np.concatenate([_REAR, _REAR + 4, [[0, 4], [1, 5], [2, 6], [3, 7]]])
"""(12, 2) edges as pairs of ``LiDARInstance3DBoxes.corners``, of which 0-3 are the rear face."""

FRONT_EDGES = slice(4, 8)
"""Edges of the face that the object heads towards."""

NEAR = 0.1
"""The least depth that is drawn, metres."""


@dataclass(frozen=True)
class CameraView:
    """One camera's image and calibration.

    ``lidar2img``, from LiDAR frame to pixel of ``image``: ``(u * d, v * d, d, 1) =
    lidar2img (x, y, z, 1)``, ``u`` to the right, ``v`` down, depth ``d`` in metres.
    """

    name: str  # e.g. CAM_FRONT
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    lidar2img: FloatArray  # (4, 4)

    def project(self, segments: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Project lines, cut to what is in front of the camera and inside the image.

        Without the cut, a box beside or around the camera gives lines through infinity.

        Args:
            segments: (M, 2, 3) both ends, metres, LiDAR frame.

        Returns:
            Pixels (u, v) of both ends (M, 2, 2), and visible (M,); pixels of what is not visible
            are 0.
        """
        ends = segments @ self.lidar2img[:3, :3].T + self.lidar2img[:3, 3]  # (M, 2, 3): ud, vd, d
        height, width = self.image.shape[:2]
        visible = np.ones(len(ends), dtype=bool)
        # The plane in front of the camera, then the four sides of what it sees.
        sides = ((1, 0, 0), (-1, 0, width), (0, 1, 0), (0, -1, height))
        for normal, bound in (((0, 0, 1), NEAR), *((side, 0.0) for side in sides)):
            distances = ends @ np.array(normal) - bound  # (M, 2)
            outside = distances < 0
            crosses = outside[:, 0] != outside[:, 1]
            start, end = ends[crosses].swapaxes(0, 1)
            before, after = distances[crosses].T[..., None]
            ends[outside & crosses[:, None]] = start + before / (before - after) * (end - start)
            visible &= ~outside.all(axis=1)
        pixels = np.zeros((len(ends), 2, 2))
        pixels[visible] = ends[visible, :, :2] / ends[visible, :, 2:]
        return pixels, visible

    def project_boxes(self, boxes: LiDARInstance3DBoxes) -> tuple[FloatArray, BoolArray]:
        """:meth:`project` for the :data:`BOX_EDGES` of N boxes: (N, 12, 2, 2) and (N, 12)."""
        edges = boxes.corners.double().numpy()[:, BOX_EDGES]  # (N, 12, 2, 3)
        pixels, visible = self.project(edges.reshape(-1, 2, 3))
        return pixels.reshape(-1, 12, 2, 2), visible.reshape(-1, 12)


@dataclass(frozen=True)
class Scene:
    """A sample. Boxes are on the CPU: ``bboxes_3d``, ``labels_3d``; detections' ``scores_3d``."""

    class_names: Sequence[str]  # of the labels 0, 1, ...
    cameras: Sequence[CameraView]  # empty where the sample has no camera
    points: FloatArray | None = None  # (P, >= 3) x, y, z, metres, LiDAR frame; None without it
    ground_truth: InstanceData | None = None  # None where there are no annotations
    detections: InstanceData | None = None  # None where no detector ran
    title: str = ''  # first line of the picture, e.g. the scene's name and description
    subtitle: str = ''  # second line, e.g. which sample this is

    def with_scores_from(self, score_thr: float) -> 'Scene':
        """The scene with the detections that reach a score, the lowest first."""
        if self.detections is None:
            return self
        scores = self.detections.scores_3d
        order = scores.argsort(stable=True)
        return replace(self, detections=self.detections[order[scores[order] >= score_thr]])


def scene_from_sample(
    inputs: Mapping[str, Any], data_sample: Det3DDataSample, class_names: Sequence[str]
) -> Scene:
    """Collect what the detector was given, what it found and what is annotated, without titles.

    All of it is as it is after every transform of the pipeline. So the picture is right under any
    augmentation, and shows a corrupted or missing sensor as such. Annotations of no known class
    (label -1) are left out.

    Args:
        inputs: one sample's ``inputs`` as ``Pack3DDetInputs`` gives them: ``img`` (V, 3, H, W),
            BGR, values 0..255, and ``points`` (P, >= 3); either may be missing.
        data_sample: with ``lidar2img`` (V, 4, 4) among its meta information, best with
            ``camera_names`` too, as ``LoadCalibratedMultiViewImages`` gives them.
            ``pred_instances_3d`` if a detector ran; annotations in ``gt_instances_3d`` (training)
            or ``eval_ann_info`` (test pipelines).
        class_names: names of the labels 0, 1, ...

    Raises:
        ValueError: if there are images but no ``lidar2img``, or their numbers differ.
        TypeError: if boxes are not ``LiDARInstance3DBoxes``.
    """
    images, points = inputs.get('img'), inputs.get('points')
    ground_truth = detections = None
    annotated, found = (data_sample.get(f'{kind}_instances_3d', {}) for kind in ('gt', 'pred'))
    if 'bboxes_3d' in annotated:
        ground_truth = _labelled(annotated.bboxes_3d, annotated.labels_3d)
    elif (known := data_sample.get('eval_ann_info')) is not None:
        ground_truth = _labelled(known['gt_bboxes_3d'], known['gt_labels_3d'])
    if 'bboxes_3d' in found:
        detections = _labelled(found.bboxes_3d, found.labels_3d)
        detections.scores_3d = found.scores_3d.detach().cpu().float()
    return Scene(
        class_names,
        [] if images is None else _camera_views(images, data_sample.metainfo),
        None if points is None else points[:, :3].detach().cpu().numpy(),
        ground_truth and ground_truth[ground_truth.labels_3d >= 0],
        detections,
    )


def _labelled(boxes: LiDARInstance3DBoxes, labels: Any) -> InstanceData:
    if not isinstance(boxes, LiDARInstance3DBoxes):
        raise TypeError(f'pictures show LiDARInstance3DBoxes, got {type(boxes).__name__}')
    return InstanceData(bboxes_3d=boxes.detach().cpu(), labels_3d=torch.as_tensor(labels).cpu())


def _camera_views(images: torch.Tensor, metainfo: Mapping[str, Any]) -> list[CameraView]:
    if 'lidar2img' not in metainfo:
        raise ValueError(
            'the sample has images but no lidar2img: load images with '
            'LoadCalibratedMultiViewImages and add it to meta_keys of Pack3DDetInputs'
        )
    # an array, a tensor or a list of either
    matrices = [np.asarray(matrix, dtype=np.float64) for matrix in metainfo['lidar2img']]
    names = metainfo.get('camera_names') or [f'camera {number}' for number in range(len(images))]
    if not len(images) == len(matrices) == len(names):
        raise ValueError(
            f'{len(images)} images, {len(matrices)} lidar2img matrices and '
            f'{len(names)} camera names do not belong together'
        )
    bgr = images.detach().cpu().float().round().clamp(0, 255).to(torch.uint8)
    rgb = bgr.flip(1).permute(0, 2, 3, 1).numpy()  # (V, H, W, 3)
    return [CameraView(*view) for view in zip(names, rgb, matrices, strict=True)]
