"""One-to-one assignment of queries to ground-truth boxes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .box_encoding import MATCHED_BOX_SIZE, encode_boxes


class Match(NamedTuple):
    """Queries and the boxes that they are to predict.

    Attributes:
        queries: ``(m,)`` indices of queries.
        boxes: ``(m,)`` indices of boxes.
    """

    queries: Tensor
    boxes: Tensor


@TASK_UTILS.register_module()
class HungarianAssigner3D(BaseAssigner):
    """Hungarian matching on a class cost and an L1 cost of encoded boxes.

    Args:
        cls_cost: Config of the class cost (mmdet's ``FocalLossCost``).
        reg_cost: Config of the box cost (:class:`BBox3DL1Cost`).
        iou_cost: Accepted for the released configs; its weight must be 0.
        pc_range: Accepted for the released configs; encoded boxes are in metres and do not
            depend on it.
        code_weights: Weight of each of the ten values of an encoded box; None for 1.

    Raises:
        ValueError: If ``iou_cost`` has a weight other than 0.
    """

    def __init__(
        self,
        cls_cost: dict,
        reg_cost: dict,
        iou_cost: dict | None = None,
        pc_range: Sequence[float] | None = None,
        code_weights: Sequence[float] | None = None,
    ) -> None:
        if iou_cost is not None and iou_cost.get('weight', 1.0) != 0:
            raise ValueError(
                'HungarianAssigner3D: iou_cost is not part of the matching; set '
                'assigner.iou_cost.weight=0 or remove it.'
            )
        self.cls_cost = TASK_UTILS.build(cls_cost)
        self.reg_cost = TASK_UTILS.build(reg_cost)
        self.pc_range = pc_range
        self.code_weights = code_weights

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> AssignResult:
        """Match the queries of one sample with its boxes.

        Args:
            pred_instances: ``bboxes`` ``(Q, 10)`` encoded, ``scores`` ``(Q, classes)`` logits.
            gt_instances: ``bboxes`` ``(n, 9)`` gravity centre, sizes, yaw, velocity; ``labels``
                ``(n,)``.
            kwargs: Ignored; mmdet's interface passes image metas here.

        Returns:
            ``gt_inds`` ``(Q,)`` is 0 for background and otherwise the box's index plus 1.
            ``min(Q, n)`` queries are matched, each to another box.

        Raises:
            FloatingPointError: If a cost is not finite.
        """
        ((queries, boxes),) = self.match([(pred_instances, gt_instances)])
        gt_inds = pred_instances.bboxes.new_zeros(len(pred_instances.bboxes), dtype=torch.long)
        labels = torch.full_like(gt_inds, -1)
        gt_inds[queries] = boxes + 1
        labels[queries] = gt_instances.labels[boxes]
        return AssignResult(len(gt_instances.bboxes), gt_inds, None, labels=labels)

    def match(self, pairs: Sequence[tuple[InstanceData, InstanceData]]) -> list[Match]:
        """Match many sets of queries and boxes with one copy to the host and one back.

        Args:
            pairs: Predictions and ground truth as for :meth:`assign`, on one device.

        Returns:
            For each pair the indices of the matched queries, ascending, and of their boxes.

        Raises:
            FloatingPointError: If a cost is not finite.
        """
        device = pairs[0][0].bboxes.device
        costs = [self._cost(predicted, target).detach() for predicted, target in pairs]
        on_host = torch.cat([cost.flatten() for cost in costs]).cpu()
        if not torch.isfinite(on_host).all():
            raise FloatingPointError(
                'HungarianAssigner3D: the matching cost is not finite. A predicted logit or box, '
                'or the centre, size or yaw of a ground-truth box, is NaN or infinite.'
            )
        parts = on_host.split([cost.numel() for cost in costs])
        found = [
            np.stack(linear_sum_assignment(part.view(cost.shape).numpy()))
            for part, cost in zip(parts, costs, strict=True)
        ]
        matched = torch.from_numpy(np.concatenate(found, axis=1)).to(device, non_blocking=True)
        return [Match(*part) for part in matched.split([part.shape[1] for part in found], dim=1)]

    def _cost(self, pred_instances: InstanceData, gt_instances: InstanceData) -> Tensor:
        predicted = pred_instances.bboxes
        target = encode_boxes(gt_instances.bboxes)
        if self.code_weights is not None:
            weights = torch.tensor(self.code_weights).to(predicted, non_blocking=True)
            predicted, target = predicted * weights, target * weights
        reg_cost = self.reg_cost(predicted[:, :MATCHED_BOX_SIZE], target[:, :MATCHED_BOX_SIZE])
        return self.cls_cost(pred_instances, gt_instances) + reg_cost
