"""CMT's training losses: set prediction for learned queries, reconstruction for denoising ones.

Shape letters: L decoder layers, B batch, Q queries, N denoising queries that stand for a box.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from mmdet.utils import reduce_mean
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .bbox_coder import ENCODED_BOX_SIZE, encode_boxes
from .denoising import DenoisingQueries
from .precision import autocast_off
from .task_head import encoded_boxes

# Velocities are left out of the matching cost.
MATCHED_BOX_SIZE = 8
# Weight of an unmatched query in the average factor of the class loss (released value).
BACKGROUND_AVERAGE_WEIGHT = 0.1

# Class logits (L, B, Q, classes of the group) and encoded boxes (L, B, Q, 10) of a task group.
_Prediction = tuple[Tensor, Tensor]


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
        cls_cost, reg_cost: Configs of mmdet's ``FocalLossCost`` and of :class:`BBox3DL1Cost`.
        iou_cost: Accepted for the released configs; its weight must be 0.
        pc_range: Accepted for the released configs; encoded boxes do not depend on it.
        code_weights: Weight of each of the ten values of an encoded box; None for 1.
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
            raise ValueError('assigner.iou_cost is not part of the matching; set its weight=0.')
        self.cls_cost = TASK_UTILS.build(cls_cost)
        self.reg_cost = TASK_UTILS.build(reg_cost)
        weights = torch.tensor(code_weights or [1.0] * ENCODED_BOX_SIZE).float()
        self.register_buffer('code_weights', weights, persistent=False)

    def match(self, pairs: Sequence[tuple[InstanceData, InstanceData]]) -> list[Match]:
        """Match many sets of queries and boxes with one copy to the host and one back.

        A pair is predictions (encoded ``bboxes`` ``(Q, 10)``, ``scores`` ``(Q, classes)`` logits)
        and ground truth (encoded ``bboxes`` ``(n, 10)``, ``labels`` ``(n,)``); of each,
        ``min(Q, n)`` queries are matched.

        Raises:
            FloatingPointError: If a cost is not finite.
        """
        costs = []
        for predicted, target in pairs:
            boxes, wanted = (
                (side.bboxes * self.code_weights)[:, :MATCHED_BOX_SIZE]
                for side in (predicted, target)
            )
            cost = self.cls_cost(predicted, target) + self.reg_cost(boxes, wanted)
            costs.append(cost.detach())
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


class CmtCriterion(nn.Module):
    """Losses of all decoder layers, summed over the task groups.

    Args:
        loss_cls, loss_bbox, assigner: Configs.
        code_weights: Weight of each of the ten values of an encoded box.
        classes_of_task: Number of classes of each task group; labels count through the groups.
        dn_weight: Factor of the denoising losses.
        dn_split: ``split`` of the denoising queries: their class loss is averaged over the
            expected number of those that stay foreground.
    """

    box_weights: Tensor

    def __init__(
        self,
        loss_cls: dict,
        loss_bbox: dict,
        assigner: dict,
        code_weights: Sequence[float],
        classes_of_task: Sequence[int],
        dn_weight: float,
        dn_split: float,
    ) -> None:
        super().__init__()
        if len(code_weights) != ENCODED_BOX_SIZE:
            given = f'got {len(code_weights)}: {list(code_weights)}'
            raise ValueError(f'train_cfg.code_weights needs {ENCODED_BOX_SIZE} values, {given}.')
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.assigner = TASK_UTILS.build(assigner)
        self.register_buffer('box_weights', torch.tensor(code_weights).float(), persistent=False)
        # first class of each task group, and that of the next one
        self.class_ranges = list(pairwise(accumulate(classes_of_task, initial=0)))
        self.dn_weight = dn_weight
        self.dn_split = dn_split

    def forward(
        self, tasks: Sequence[dict], batch_gt_instances_3d: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """Losses, in float32, of each task group's outputs that :meth:`CmtHead.forward` gives.

        They are ``loss_cls`` and ``loss_bbox`` of the last layer, ``d{i}.loss_cls`` ... of layer
        i, and the same with ``dn_`` for the denoising queries, if there are some.
        """
        losses: dict[str, Tensor] = {}
        with autocast_off(self.box_weights):
            kinds = [('', 1.0, self._matching_losses(_predictions(tasks), batch_gt_instances_3d))]
            if 'denoising' in tasks[0]:
                noised = self._denoising_losses(_predictions(tasks, 'dn_'), tasks[0]['denoising'])
                kinds.append(('dn_', self.dn_weight, noised))
            for prefix, weight, of_tasks in kinds:
                # of all layers of the first task group, of the second, ...: (tasks * L, 2)
                of_layers = weight * torch.stack(of_tasks).unflatten(0, (len(tasks), -1)).sum(0)
                layers = [*(f'd{number}.' for number in range(len(of_layers) - 1)), '']
                for layer, (cls, bbox) in zip(layers, of_layers, strict=True):
                    losses[f'{layer}{prefix}loss_cls'] = cls
                    losses[f'{layer}{prefix}loss_bbox'] = bbox
        return losses

    def _matching_losses(
        self, tasks: list[_Prediction], batch_gt_instances_3d: Sequence[InstanceData]
    ) -> list[Tensor]:
        """Class and box loss ``(2,)`` of each task group and layer."""
        targets = self._targets(batch_gt_instances_3d)
        layers = [  # of one task group after the other
            (logits[layer], boxes[layer], of_task)
            for (logits, boxes), of_task in zip(tasks, targets, strict=True)
            for layer in range(len(logits))
        ]
        pairs = [
            (InstanceData(scores=of_sample, bboxes=its_boxes), target)
            for layer in layers
            for of_sample, its_boxes, target in zip(*layer, strict=True)
        ]
        matches = iter(self.assigner.match(pairs))
        return [
            self._matching_loss(*layer, [next(matches) for _ in batch_gt_instances_3d])
            for layer in layers
        ]

    def _targets(self, batch_gt_instances_3d: Sequence[InstanceData]) -> list[list[InstanceData]]:
        """For each task group and sample the encoded boxes and the labels of the group's classes.

        They are found on the host, with one copy of all labels to it and one of all indices back.
        """
        device = self.box_weights.device
        boxes = [encode_boxes(gravity_center_boxes(gt).to(device)) for gt in batch_gt_instances_3d]
        labels = [gt.labels_3d.to(device).long() for gt in batch_gt_instances_3d]
        on_host = torch.cat(labels).cpu().split([len(part) for part in labels])
        chosen = [
            ((part >= first) & (part < end)).nonzero().squeeze(-1)
            for first, end in self.class_ranges
            for part in on_host
        ]
        indices = torch.cat(chosen).to(device, non_blocking=True)
        parts = iter(indices.split([len(part) for part in chosen]))
        return [
            [
                InstanceData(bboxes=of_sample[index], labels=label[index] - first)
                for of_sample, label, index in zip(boxes, labels, parts, strict=False)
            ]
            for first, _ in self.class_ranges
        ]

    def _matching_loss(
        self, logits: Tensor, boxes: Tensor, targets: list[InstanceData], matches: list[Match]
    ) -> Tensor:
        """Losses ``(2,)`` of one layer and task group: ``(B, Q, classes)``, ``(B, Q, 10)``."""
        labels = torch.full(logits.shape[:2], logits.shape[-1], device=logits.device)
        for of_sample, target, match in zip(labels, targets, matches, strict=True):
            of_sample[match.queries] = target.labels[match.boxes]
        predicted = [of[match.queries] for of, match in zip(boxes, matches, strict=True)]
        wanted = [of.bboxes[match.boxes] for of, match in zip(targets, matches, strict=True)]

        positives = sum(len(match.queries) for match in matches)
        negatives = labels.numel() - positives
        class_average = max(positives + BACKGROUND_AVERAGE_WEIGHT * negatives, 1.0)
        loss_cls = self.loss_cls(logits.flatten(0, 1), labels.flatten(), avg_factor=class_average)
        loss_bbox = self._box_loss(torch.cat(predicted), torch.cat(wanted), max(positives, 1))
        return torch.stack((loss_cls, loss_bbox))

    def _denoising_losses(
        self, tasks: list[_Prediction], denoising: DenoisingQueries
    ) -> list[Tensor]:
        """As :meth:`_matching_losses`; every rank calls ``reduce_mean``, with boxes or without."""
        num_boxes = len(denoising.boxes)
        class_average = max(num_boxes * math.pi / 6 * self.dn_split**3, 1.0)
        count = denoising.boxes.new_full((), float(num_boxes))
        box_average = reduce_mean(count).clamp(min=1)
        wanted = encode_boxes(denoising.boxes)

        where = (denoising.sample_index, denoising.query_index)
        losses = []
        for (logits, boxes), (first, end) in zip(tasks, self.class_ranges, strict=True):
            labels = denoising.labels - first
            labels = labels.masked_fill((labels < 0) | (labels >= end - first), end - first)
            is_own = (denoising.box_labels >= first) & (denoising.box_labels < end)
            for of_layer, its_boxes in zip(logits, boxes, strict=True):
                loss_cls = self.loss_cls(of_layer[where], labels, avg_factor=class_average)
                loss_bbox = self._box_loss(its_boxes[where], wanted, box_average, is_own)
                losses.append(torch.stack((loss_cls, loss_bbox)))
        return losses

    def _box_loss(
        self,
        predicted: Tensor,
        wanted: Tensor,
        average: int | Tensor,
        counted: Tensor | bool = True,
    ) -> Tensor:
        """Weighted loss of ``(n, 10)`` predictions, of those that are ``counted`` ``(n,)``.

        Boxes with a non-finite target have no weight: nuScenes has some without a velocity (NaN).
        """
        finite = torch.isfinite(wanted).all(dim=-1)
        weight = self.box_weights * (finite & counted).unsqueeze(-1)
        wanted = wanted.where(finite.unsqueeze(-1), 0.0)
        return self.loss_bbox(predicted, wanted, weight, avg_factor=average)


def _predictions(tasks: Sequence[dict], prefix: str = '') -> list[_Prediction]:
    """Class logits and encoded boxes of each task group, in float32."""
    logits = (task[f'{prefix}cls_logits'] for task in tasks)
    boxes = (encoded_boxes(task, prefix) for task in tasks)
    return [(of.float(), its.float()) for of, its in zip(logits, boxes, strict=True)]


def gravity_center_boxes(gt_instances_3d: InstanceData) -> Tensor:
    """Boxes of a sample as ``(n, 9)``: gravity centre, sizes, yaw, velocity.

    Raises:
        ValueError: If the boxes carry no velocity.
    """
    boxes = gt_instances_3d.bboxes_3d
    if boxes.tensor.shape[-1] != 9:
        raise ValueError(
            f'CMT needs boxes with velocity (9 values), got {boxes.tensor.shape[-1]}; set '
            "with_velocity=True in the dataset and keep 'bboxes_3d' of the info file complete."
        )
    return torch.cat((boxes.gravity_center, boxes.tensor[:, 3:]), dim=1)
