"""What a picture of a sample shows: images, points and boxes, as the detector has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import mmcv
import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from .camera_view import CameraView, FloatArray

ImageSource = Literal['input', 'file']
"""Images as the detector gets them, or as they lie on the disk; see :func:`scene_from_sample`."""


@dataclass(frozen=True)
class Scene:
    """One sample. Boxes are on the CPU: ``bboxes_3d``, ``labels_3d``; detections' ``scores_3d``.

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
    ground_truth: InstanceData | None = None
    detections: InstanceData | None = None
    title: str = ''
    subtitle: str = ''

    def with_scores_from(self, score_thr: float) -> Scene:
        """The scene with the detections that reach a score, the lowest first."""
        if self.detections is None:
            return self
        scores = self.detections.scores_3d
        order = scores.argsort(stable=True)
        return replace(self, detections=self.detections[order[scores[order] >= score_thr]])


def scene_from_sample(
    inputs: Mapping[str, Any],
    data_sample: Det3DDataSample,
    class_names: Sequence[str],
    image_source: ImageSource = 'input',
) -> Scene:
    """Collect what the detector was given, what it found and what is annotated.

    Points, and images with ``image_source='input'``, are the detector's own input, after every
    transform of the pipeline and before normalisation, and they are drawn with the ``lidar2img``
    that belongs to them. So the picture is right under any augmentation, and shows a corrupted
    or missing sensor as such. ``image_source='file'`` shows the camera files in their full size
    instead: sharper, and silent about what the pipeline did to them.

    Args:
        inputs: one sample's ``inputs`` as ``Pack3DDetInputs`` gives them: ``img`` (V, 3, H, W),
            BGR, values 0..255, and ``points`` (P, >= 3); either may be missing.
        data_sample: with ``lidar2img`` (V, 4, 4) among its meta information, for 'file' with
            ``filename`` and ``ori_lidar2img`` too, and best with ``camera_names``, as
            ``LoadCalibratedMultiViewImages`` gives them. ``pred_instances_3d`` if a detector ran;
            annotations in ``gt_instances_3d`` (training) or ``eval_ann_info`` (test pipelines).
        class_names: names of the labels 0, 1, ...
        image_source: which images to show.

    Returns:
        The scene, without titles. Annotations of no known class (label -1) are left out.

    Raises:
        ValueError: if there are images but no ``lidar2img``, or their numbers differ; with
            ``image_source='file'``, if the pipeline has moved the LiDAR frame.
        TypeError: if boxes are not ``LiDARInstance3DBoxes``.
    """
    images, points = inputs.get('img'), inputs.get('points')
    ground_truth = detections = None
    annotated = data_sample.get('gt_instances_3d')
    if annotated is not None and 'bboxes_3d' in annotated:
        ground_truth = _labelled(annotated.bboxes_3d, annotated.labels_3d)
    elif (known := data_sample.get('eval_ann_info')) is not None:
        ground_truth = _labelled(known['gt_bboxes_3d'], known['gt_labels_3d'])
    found = data_sample.get('pred_instances_3d')
    if found is not None and 'bboxes_3d' in found:
        detections = _labelled(found.bboxes_3d, found.labels_3d)
        detections.scores_3d = found.scores_3d.detach().cpu().float()
    return Scene(
        class_names,
        [] if images is None else _camera_views(images, data_sample.metainfo, image_source),
        None if points is None else points[:, :3].detach().cpu().numpy(),
        ground_truth and ground_truth[ground_truth.labels_3d >= 0],
        detections,
    )


def _labelled(boxes: LiDARInstance3DBoxes, labels: Any) -> InstanceData:
    if not isinstance(boxes, LiDARInstance3DBoxes):
        raise TypeError(f'pictures show LiDARInstance3DBoxes, got {type(boxes).__name__}')
    labels = torch.as_tensor(labels).cpu()
    return InstanceData(bboxes_3d=boxes.detach().cpu(), labels_3d=labels)


def _camera_views(
    images: torch.Tensor, metainfo: Mapping[str, Any], image_source: ImageSource
) -> list[CameraView]:
    from_files = image_source == 'file'
    keys = ['lidar2img', *(['filename', 'ori_lidar2img'] if from_files else [])]
    missing = [key for key in keys if key not in metainfo]
    if missing:
        raise ValueError(
            f'the sample has images but no {missing}: load images with '
            'LoadCalibratedMultiViewImages and add these keys to meta_keys of Pack3DDetInputs'
        )
    lidar2img = _matrices(metainfo['lidar2img'])
    names = metainfo.get('camera_names') or [f'camera {number}' for number in range(len(images))]
    if not len(images) == len(lidar2img) == len(names):
        raise ValueError(
            f'{len(images)} images, {len(lidar2img)} lidar2img matrices and '
            f'{len(names)} camera names do not belong together'
        )
    if from_files:
        rgb = [mmcv.imread(path, channel_order='rgb') for path in metainfo['filename']]
        original = _matrices(metainfo['ori_lidar2img'])
        _refuse_moved_lidar_frame(lidar2img, original)
        lidar2img = original
    else:
        bgr = images.detach().cpu().float().round().clamp(0, 255).to(torch.uint8)
        rgb = list(bgr.flip(1).permute(0, 2, 3, 1).numpy())  # V times (H, W, 3)
    return [CameraView(*view) for view in zip(names, rgb, lidar2img, strict=True)]


def _matrices(stacked: Any) -> np.ndarray:
    """(V, 4, 4) float64 of an array, a tensor or a list of either."""
    return np.stack([np.asarray(matrix, dtype=np.float64) for matrix in stacked])


def _refuse_moved_lidar_frame(lidar2img: np.ndarray, original: np.ndarray) -> None:
    """Camera files fit boxes of the original LiDAR frame alone.

    Where the frame is the original one, the pipeline's matrices differ from the original ones by
    a change of pixels, which leaves depths alone.
    """
    change = lidar2img @ np.linalg.inv(original)  # (V, 4, 4), of (u d, v d, d, 1)
    same_depths = np.allclose(change[:, 2:], np.eye(4)[2:], atol=1e-3)
    if not same_depths or not np.allclose(change[:, :2, 3], 0.0, atol=1e-2):
        raise ValueError(
            'the pipeline has rotated, flipped, scaled or shifted the LiDAR frame, so its boxes '
            "do not fit the camera files: draw with image_source='input'"
        )
