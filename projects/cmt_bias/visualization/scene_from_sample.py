"""From one sample of an MMDetection3D pipeline to the plain arrays a picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import mmcv
import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

from .detection_scene import CameraView, DetectionScene, LabelledBoxes

ImageSource = Literal['input', 'file']
"""Images as the detector gets them, or as they lie on the disk; see :func:`scene_from_sample`."""


def scene_from_sample(
    inputs: Mapping[str, Any],
    data_sample: Det3DDataSample,
    class_names: Sequence[str],
    title: str = '',
    subtitle: str = '',
    image_source: ImageSource = 'input',
) -> DetectionScene:
    """Collect what the detector was given, what it found and what is annotated.

    Points, and images with ``image_source='input'``, are the detector's own input, after every
    transform of the pipeline and before normalisation, and they are drawn with the ``lidar2img``
    that belongs to them. So the picture is right under any augmentation, and shows a corrupted
    or missing sensor as such. ``image_source='file'`` shows the camera files in their full size
    instead: sharper, and silent about what the pipeline did to them.

    Args:
        inputs: one sample's ``inputs`` as ``Pack3DDetInputs`` gives them: ``img`` (V, 3, H, W),
            BGR, values 0..255, and ``points`` (P, >= 3); either may be missing.
        data_sample: where there are images, with ``lidar2img`` (V, 4, 4) among its meta
            information, with ``filename`` and ``ori_lidar2img`` too for ``image_source='file'``,
            and best with ``camera_names``: without it the cameras are numbered.
            ``LoadCalibratedMultiViewImages`` gives all four. ``pred_instances_3d`` if a detector
            ran; annotations in ``gt_instances_3d`` (training pipelines) or ``eval_ann_info``
            (test pipelines).
        class_names: names of the labels 0, 1, ...
        title: first line of the picture.
        subtitle: second line of the picture.
        image_source: which images to show.

    Returns:
        The scene. Annotations of no known class (label -1) are left out.

    Raises:
        ValueError: if there are images but no ``lidar2img``, or their numbers differ; with
            ``image_source='file'``, if the pipeline has moved the LiDAR frame.
        TypeError: if boxes are not ``LiDARInstance3DBoxes``.
    """
    cameras: list[CameraView] = []
    if inputs.get('img') is not None:
        cameras = _camera_views(inputs['img'], data_sample.metainfo, image_source)
    points = inputs.get('points')
    return DetectionScene(
        class_names=class_names,
        cameras=cameras,
        points=None if points is None else points[:, :3].detach().cpu().numpy(),
        ground_truth=_ground_truth(data_sample),
        detections=_detections(data_sample),
        title=title,
        subtitle=subtitle,
    )


def _camera_views(
    images: torch.Tensor, metainfo: Mapping[str, Any], image_source: ImageSource
) -> list[CameraView]:
    _require_meta_keys(metainfo, ['lidar2img'])
    lidar2img = _matrices(metainfo['lidar2img'])
    names = metainfo.get('camera_names') or [f'camera {number}' for number in range(len(images))]
    if not len(images) == len(lidar2img) == len(names):
        raise ValueError(
            f'{len(images)} images, {len(lidar2img)} lidar2img matrices and '
            f'{len(names)} camera names do not belong together'
        )
    if image_source == 'file':
        _require_meta_keys(metainfo, ['filename', 'ori_lidar2img'])
        rgb = [mmcv.imread(path, channel_order='rgb') for path in metainfo['filename']]
        original = _matrices(metainfo['ori_lidar2img'])
        _refuse_moved_lidar_frame(lidar2img, original)
        lidar2img = original
    else:
        bgr = images.detach().cpu().float().round().clamp(0, 255).to(torch.uint8)
        rgb = list(bgr.flip(1).permute(0, 2, 3, 1).numpy())  # V times (H, W, 3)
    return [
        CameraView(name, image, matrix)
        for name, image, matrix in zip(names, rgb, lidar2img, strict=True)
    ]


def _matrices(stacked: Any) -> np.ndarray:
    """(V, 4, 4) float64 of an array, a tensor or a list of either."""
    return np.stack([np.asarray(matrix, dtype=np.float64) for matrix in stacked])


def _require_meta_keys(metainfo: Mapping[str, Any], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in metainfo]
    if missing:
        raise ValueError(
            f'the sample has images but no {missing}: load images with '
            'LoadCalibratedMultiViewImages and add these keys to meta_keys of Pack3DDetInputs'
        )


def _refuse_moved_lidar_frame(lidar2img: np.ndarray, original: np.ndarray) -> None:
    """Camera files fit boxes of the original LiDAR frame alone.

    Where the frame is the original one, the pipeline's matrices differ from the original ones by
    a change of pixels, which leaves depths alone.
    """
    change = lidar2img @ np.linalg.inv(original)  # (V, 4, 4), of (u d, v d, d, 1)
    depth_rows = np.eye(4)[2:]
    if not np.allclose(change[:, 2:], depth_rows, atol=1e-3) or not np.allclose(
        change[:, :2, 3], 0.0, atol=1e-2
    ):
        raise ValueError(
            'the pipeline has rotated, flipped, scaled or shifted the LiDAR frame, so its boxes '
            "do not fit the camera files: draw with image_source='input'"
        )


def _detections(data_sample: Det3DDataSample) -> LabelledBoxes | None:
    found = data_sample.get('pred_instances_3d')
    if found is None or 'bboxes_3d' not in found:
        return None
    return LabelledBoxes(
        _box_array(found.bboxes_3d),
        found.labels_3d.detach().cpu().numpy(),
        found.scores_3d.detach().cpu().float().numpy(),
    )


def _ground_truth(data_sample: Det3DDataSample) -> LabelledBoxes | None:
    annotated = data_sample.get('gt_instances_3d')
    if annotated is not None and 'bboxes_3d' in annotated:
        boxes = annotated.bboxes_3d
        labels = np.asarray(torch.as_tensor(annotated.labels_3d).cpu())
    elif data_sample.get('eval_ann_info') is not None:
        boxes = data_sample.eval_ann_info['gt_bboxes_3d']
        labels = np.asarray(data_sample.eval_ann_info['gt_labels_3d'])
    else:
        return None
    known = labels >= 0
    return LabelledBoxes(_box_array(boxes)[known], labels[known])


def _box_array(boxes: LiDARInstance3DBoxes) -> np.ndarray:
    if not isinstance(boxes, LiDARInstance3DBoxes):
        raise TypeError(f'pictures show LiDARInstance3DBoxes, got {type(boxes).__name__}')
    return boxes.tensor.detach().cpu().double().numpy()
