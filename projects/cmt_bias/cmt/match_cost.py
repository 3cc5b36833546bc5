"""Matching costs of the 3D Hungarian assignment."""

import torch
from mmdet3d.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class BBox3DL1Cost:
    """L1 distance between encoded boxes.

    Args:
        weight: Factor of the cost.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, bbox_pred: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Cost of every pair.

        Args:
            bbox_pred: ``(num_queries, n)`` encoded predictions.
            gt_bboxes: ``(num_gts, n)`` encoded ground truth.

        Returns:
            ``(num_queries, num_gts)``.
        """
        return torch.cdist(bbox_pred, gt_bboxes, p=1) * self.weight
