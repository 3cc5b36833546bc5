"""One-to-one assignment of queries to ground-truth boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from .box_encoding import MATCHED_BOX_SIZE, encode_boxes


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
        num_queries, num_gts = len(pred_instances.bboxes), len(gt_instances.bboxes)
        device = pred_instances.bboxes.device
        gt_inds = torch.zeros(num_queries, dtype=torch.long, device=device)
        labels = torch.full_like(gt_inds, -1)
        if num_gts and num_queries:
            cost = self._cost(pred_instances, gt_instances).detach()
            if not torch.isfinite(cost).all():
                raise FloatingPointError(
                    'HungarianAssigner3D: the matching cost is not finite. A predicted logit or '
                    'box, or the centre, size or yaw of a ground-truth box, is NaN or infinite.'
                )
            rows, columns = linear_sum_assignment(cost.cpu().numpy())
            queries = torch.as_tensor(rows, device=device)
            boxes = torch.as_tensor(columns, device=device)
            gt_inds[queries] = boxes + 1
            labels[queries] = gt_instances.labels[boxes]
        return AssignResult(num_gts, gt_inds, None, labels=labels)

    def _cost(self, pred_instances: InstanceData, gt_instances: InstanceData) -> torch.Tensor:
        predicted = pred_instances.bboxes
        target = encode_boxes(gt_instances.bboxes)
        if self.code_weights is not None:
            weights = predicted.new_tensor(self.code_weights)
            predicted, target = predicted * weights, target * weights
        reg_cost = self.reg_cost(predicted[:, :MATCHED_BOX_SIZE], target[:, :MATCHED_BOX_SIZE])
        return self.cls_cost(pred_instances, gt_instances) + reg_cost
