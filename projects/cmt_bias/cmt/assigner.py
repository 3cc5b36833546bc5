"""One-to-one assignment of queries to ground-truth boxes, and the cost of boxes that it takes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .box_encoding import ENCODED_BOX_SIZE, MATCHED_BOX_SIZE


class Match(NamedTuple):
    """Queries and the boxes that they are to predict."""

    queries: Tensor  # (m,) indices of queries, ascending
    boxes: Tensor  # (m,) indices of boxes


@TASK_UTILS.register_module()
class BBox3DL1Cost:
    """L1 distance between encoded boxes, times ``weight``."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, bbox_pred: Tensor, gt_bboxes: Tensor) -> Tensor:
        """``(Q, n)`` cost of every pair out of ``(Q, values)`` and ``(n, values)``."""
        return torch.cdist(bbox_pred, gt_bboxes, p=1) * self.weight


@TASK_UTILS.register_module()
class HungarianAssigner3D(nn.Module):
    """Hungarian matching on a class cost and an L1 cost of encoded boxes.

    Args:
        cls_cost: Config of the class cost (mmdet's ``FocalLossCost``).
        reg_cost: Config of the box cost (:class:`BBox3DL1Cost`).
        iou_cost: Accepted for the released configs; its weight must be 0.
        pc_range: Accepted for the released configs; encoded boxes do not depend on it.
        code_weights: Weight of each of the ten values of an encoded box; None for 1.

    Raises:
        ValueError: If ``iou_cost`` has a weight other than 0.
    """

    code_weights: Tensor

    def __init__(
        self,
        cls_cost: dict,
        reg_cost: dict,
        iou_cost: dict | None = None,
        pc_range: Sequence[float] | None = None,
        code_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if iou_cost is not None and iou_cost.get('weight', 1.0) != 0:
            raise ValueError(
                'HungarianAssigner3D: iou_cost is not part of the matching; set '
                'assigner.iou_cost.weight=0 or remove it.'
            )
        self.cls_cost = TASK_UTILS.build(cls_cost)
        self.reg_cost = TASK_UTILS.build(reg_cost)
        weights = torch.tensor(code_weights or [1.0] * ENCODED_BOX_SIZE).float()
        self.register_buffer('code_weights', weights, persistent=False)

    def match(self, pairs: Sequence[tuple[InstanceData, InstanceData]]) -> list[Match]:
        """Match many sets of queries and boxes with one copy to the host and one back.

        Args:
            pairs: Predictions (encoded ``bboxes`` ``(Q, 10)``, ``scores`` ``(Q, classes)`` logits)
                and ground truth (encoded ``bboxes`` ``(n, 10)``, ``labels`` ``(n,)``).

        Returns:
            For each pair ``min(Q, n)`` queries, each with another box.

        Raises:
            FloatingPointError: If a cost is not finite.
        """
        costs = [self._cost(*pair).detach() for pair in pairs]
        on_host = torch.cat([cost.flatten() for cost in costs]).cpu()
        if not torch.isfinite(on_host).all():
            raise FloatingPointError(
                'HungarianAssigner3D: the matching cost is not finite. A predicted logit or box, '
                'or the centre, size or yaw of a ground-truth box, is NaN or infinite; '
                'NonFiniteHook says where that began. Correct the data, if it is the ground '
                'truth; else go on from the newest checkpoint, with a lower learning rate or '
                'gradient clipping.'
            )
        parts = on_host.split([cost.numel() for cost in costs])
        found = [
            np.stack(linear_sum_assignment(part.view(cost.shape).numpy()))
            for part, cost in zip(parts, costs, strict=True)
        ]
        matched = torch.from_numpy(np.concatenate(found, axis=1))
        matched = matched.to(costs[0].device, non_blocking=True)
        return [Match(*part) for part in matched.split([part.shape[1] for part in found], dim=1)]

    def _cost(self, predicted: InstanceData, target: InstanceData) -> Tensor:
        boxes, wanted = (
            (side.bboxes * self.code_weights)[:, :MATCHED_BOX_SIZE] for side in (predicted, target)
        )
        return self.cls_cost(predicted, target) + self.reg_cost(boxes, wanted)
